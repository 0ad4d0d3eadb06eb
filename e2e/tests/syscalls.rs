//! Each system call with its errors: C fixtures print a transcript of calls and results, and the transcript must be the same
//! on the mount.

use defuse_e2e::{Case, same_as_plain, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// Some 55 calls, each with some 150 paths.
    paths_resolve_as_in_the_kernel: transcript("paths").needs_other_device();
}
