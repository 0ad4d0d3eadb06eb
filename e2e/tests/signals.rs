//! Signals and threads: what strikes in the middle of a call on a file.

use std::time::Duration;

use defuse_e2e::process::LIMIT;
use defuse_e2e::{Case, same_as_plain, same_as_plain_by, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

fn everything_at_once() -> Case {
    let seconds = std::env::var("DEFUSE_E2E_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    script(format!("cd \"$MNT\"; \"$FIX/mixed\" {seconds}"))
        .fixture("mixed")
        .limit(LIMIT + Duration::from_secs(seconds))
}

same_as_plain! {
    /// Handlers that do to files what they have interrupted, jump out of calls, or end those that wait.
    interrupted: transcript("interrupted");

    /// SIGSEGV, SIGBUS and SIGSYS handled, ignored, blocked, waited for, inherited, and unblocked by what a handler gives back.
    virtual_signals: transcript("virtual_signals");

    /// Signals that faults raise, sent while calls are made.
    sent_faults: transcript("sent_faults");

    /// Children that are sent a signal before they have left the call that made them.
    signalled_children: transcript("signalled_children");

    /// Signals sent at any instruction, also of what becomes of another.
    stepped: transcript("stepping");

    /// Three, each in what becomes of the one before.
    nested: transcript("nested");

    /// One at each instruction of the return from a handler of another that was sent again.
    returning: transcript("returning");

    /// 64 threads that are busy while the process forks, 16 KiB stacks, deep recursion, cancellation, one thread that waits.
    busy_threads: transcript("busy");

    /// All of it at the same time. `DEFUSE_E2E_STRESS=SECONDS` makes it last.
    everything_at_once: everything_at_once();
}

same_as_plain_by! {
    [paged: Paged]

    /// The same where the pager maps the files.
    everything_at_once_with_pages: everything_at_once();
}
