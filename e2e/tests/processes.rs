//! Every way a program makes another, hands on what it has open, and does away with it.

use defuse_e2e::{Case, same_as_plain, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// posix_spawn with every file action and attribute, popen, system.
    spawned: transcript("spawning");

    /// close_range, closefrom, daemons, unshare, programs without standard streams.
    closed: transcript("closing");

    /// fexecve, `#!` chains, exec from a thread and in vain.
    executed: script(r#"cp "$FIX/executing" "$MNT/program"; cd "$MNT"; PATH=$MNT:$PATH; ./program"#).fixture("executing");
}
