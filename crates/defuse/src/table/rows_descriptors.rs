//! FDs that are none of ours, and waiting for them.

use super::Interest::{Always, Late, Never};
use super::Length::{Arg, Depends, FdSet, Fixed, Items, Text};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::{Passed, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(
        7,
        "poll",
        Served,
        Late,
        "a shadow is ready at once, as a file is; what is only a place (`O_PATH`) is POLLNVAL; entries are struct pollfd",
    )
        .memory(&[InOut(0, Items(1, 8))]),
    Row::new(23, "select", Served, Late, "a shadow is ready at once, as a file is; what is only a place for everything").memory(&[
        InOut(1, FdSet(0)),
        InOut(2, FdSet(0)),
        InOut(3, FdSet(0)),
        InOut(4, Fixed(16)),
    ]),
    Row::new(
        270,
        "pselect6",
        Served,
        Late,
        "as select; the signal mask keeps SIGBUS and SIGSYS deliverable",
    )
    .memory(&[
        InOut(1, FdSet(0)),
        InOut(2, FdSet(0)),
        InOut(3, FdSet(0)),
        InOut(4, Fixed(16)),
        In(5, Fixed(16)),
    ]),
    Row::new(271, "ppoll", Served, Late, "as poll; the signal mask keeps SIGBUS and SIGSYS deliverable")
        .memory(&[InOut(0, Items(1, 8)), InOut(2, Fixed(16)), In(3, Arg(4))]),
    Row::new(213, "epoll_create", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(291, "epoll_create1", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(233, "epoll_ctl", Served, Late, "a shadow is refused (EPERM), as a file is; a place is EBADF")
        .fds(&[0, 2])
        .memory(&[In(3, Fixed(12))]),
    Row::new(232, "epoll_wait", Served, Late, "only FDs that can be waited for are in the set; a place is EBADF")
        .fds(&[0])
        .memory(&[Out(1, Items(2, 12))]),
    Row::new(281, "epoll_pwait", Served, Late, "as epoll_wait; the signal mask keeps SIGBUS and SIGSYS deliverable")
        .fds(&[0])
        .memory(&[Out(1, Items(2, 12)), In(4, Arg(5))]),
    Row::new(441, "epoll_pwait2", Served, Late, "as epoll_wait; the signal mask keeps SIGBUS and SIGSYS deliverable")
        .fds(&[0])
        .memory(&[Out(1, Items(2, 12)), In(3, Fixed(16)), In(4, Arg(5))]),
    Row::new(214, "epoll_ctl_old", Passed, Never, "never in this architecture"),
    Row::new(215, "epoll_wait_old", Passed, Never, "never in this architecture"),
    Row::new(22, "pipe", Passed, Never, "gives FDs of the kernel's own").memory(&[Out(0, Fixed(8))]),
    Row::new(293, "pipe2", Passed, Never, "gives FDs of the kernel's own").memory(&[Out(0, Fixed(8))]),
    Row::new(282, "signalfd", Served, Late, "gives an FD of the kernel's own; a place is EBADF")
        .fds(&[0])
        .memory(&[In(1, Arg(2))]),
    Row::new(289, "signalfd4", Served, Late, "gives an FD of the kernel's own; a place is EBADF")
        .fds(&[0])
        .memory(&[In(1, Arg(2))]),
    Row::new(283, "timerfd_create", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(286, "timerfd_settime", Served, Late, "of timers only; a place is EBADF")
        .fds(&[0])
        .memory(&[In(2, Fixed(32)), Out(3, Fixed(32))]),
    Row::new(287, "timerfd_gettime", Served, Late, "of timers only; a place is EBADF").fds(&[0]).memory(&[Out(1, Fixed(32))]),
    Row::new(284, "eventfd", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(290, "eventfd2", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(253, "inotify_init", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(294, "inotify_init1", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(300, "fanotify_init", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(319, "memfd_create", Passed, Never, "gives an FD of the kernel's own").memory(&[In(0, Text)]),
    Row::new(447, "memfd_secret", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(323, "userfaultfd", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(434, "pidfd_open", Passed, Never, "gives an FD of the kernel's own"),
    Row::new(
        438,
        "pidfd_getfd",
        Served,
        Always,
        "the FD may be served by its other process: its number is identified anew",
    )
    .fds(&[0]),
    Row::new(424, "pidfd_send_signal", Passed, Never, "of processes only")
        .fds(&[0])
        .memory(&[In(2, Fixed(128))]),
    Row::new(298, "perf_event_open", Passed, Never, "gives an FD of the kernel's own")
        .fds(&[3])
        .memory(&[In(0, Depends)]),
    Row::new(321, "bpf", Passed, Never, "gives FDs of the kernel's own").memory(&[InOut(1, Arg(2))]),
    Row::new(444, "landlock_create_ruleset", Passed, Never, "gives an FD of the kernel's own")
        .memory(&[In(0, Arg(1))]),
    Row::new(
        445,
        "landlock_add_rule",
        Served,
        Always,
        "a rule for what is served is about what the plugin lends; one for a directory above a mount is about its root, too",
    )
    .fds(&[0])
    .memory(&[In(2, Fixed(16))]),
    Row::new(
        446,
        "landlock_restrict_self",
        Served,
        Always,
        "what serving needs stays allowed: the session's folder, the library, the plugins, /proc for reading",
    )
    .fds(&[0]),
    Row::new(240, "mq_open", Passed, Never, "message queues have a name space of their own")
        .memory(&[In(0, Text), In(3, Fixed(64))]),
    Row::new(241, "mq_unlink", Passed, Never, "message queues have a name space of their own")
        .memory(&[In(0, Text)]),
    Row::new(242, "mq_timedsend", Passed, Never, "of message queues only")
        .fds(&[0])
        .memory(&[In(1, Arg(2)), In(4, Fixed(16))]),
    Row::new(243, "mq_timedreceive", Passed, Never, "of message queues only").fds(&[0]).memory(&[
        Out(1, Arg(2)),
        Out(3, Fixed(4)),
        In(4, Fixed(16)),
    ]),
    Row::new(244, "mq_notify", Passed, Never, "of message queues only").fds(&[0]).memory(&[In(1, Fixed(64))]),
    Row::new(245, "mq_getsetattr", Passed, Never, "of message queues only")
        .fds(&[0])
        .memory(&[In(1, Fixed(64)), Out(2, Fixed(64))]),
];
