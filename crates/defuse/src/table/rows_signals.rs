//! Signals.

use super::Interest::Never;
use super::Length::{Arg, Fixed};
use super::MemArg::{In, Out};
use super::Row;
use super::Treatment::{Interposed, Passed};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(
        13,
        "rt_sigaction",
        Interposed,
        Never,
        "handlers run when we are not inside; SIGBUS and SIGSYS stay ours first",
    )
    .memory(&[In(1, Fixed(32)), Out(2, Fixed(32))]),
    Row::new(
        14,
        "rt_sigprocmask",
        Interposed,
        Never,
        "SIGBUS, SIGSEGV and SIGSYS stay deliverable; the program sees the mask that it set",
    )
    .memory(&[In(1, Arg(3)), Out(2, Arg(3))]),
    Row::new(15, "rt_sigreturn", Passed, Never, "restores what the frame of the handler says"),
    Row::new(127, "rt_sigpending", Passed, Never, "tells only").memory(&[Out(0, Arg(1))]),
    Row::new(128, "rt_sigtimedwait", Passed, Never, "waits for signals that the program has blocked")
        .memory(&[In(0, Arg(3)), Out(1, Fixed(128)), In(2, Fixed(16))]),
    Row::new(129, "rt_sigqueueinfo", Passed, Never, "sends only").memory(&[In(2, Fixed(128))]),
    Row::new(297, "rt_tgsigqueueinfo", Passed, Never, "sends only").memory(&[In(3, Fixed(128))]),
    Row::new(130, "rt_sigsuspend", Interposed, Never, "the mask keeps SIGBUS and SIGSYS deliverable")
        .memory(&[In(0, Arg(1))]),
    Row::new(131, "sigaltstack", Interposed, Never, "our own stack for signals is not the program's")
        .memory(&[In(0, Fixed(24)), Out(1, Fixed(24))]),
    Row::new(34, "pause", Passed, Never, "waits only"),
    Row::new(62, "kill", Passed, Never, "sends only"),
    Row::new(200, "tkill", Passed, Never, "sends only"),
    Row::new(234, "tgkill", Passed, Never, "sends only"),
];
