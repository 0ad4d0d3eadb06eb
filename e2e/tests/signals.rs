//! Signals and threads: what strikes in the middle of a call on a file.

use defuse_e2e::{Case, same_as_plain, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// Handlers that do to files what they have interrupted, jump out of calls, or end those that wait.
    interrupted: transcript("interrupted");

    /// 64 threads that are busy while the process forks, 16 KiB stacks, deep recursion, cancellation, one thread that waits.
    busy_threads: transcript("busy");
}
