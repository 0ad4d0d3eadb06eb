//! Time, names of the machine, and what is left.

use super::Interest::Never;
use super::Length::{Arg, Depends, Fixed, Items, Text};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::Passed;

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(35, "nanosleep", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(0, Fixed(16)), Out(1, Fixed(16))]),
    Row::new(230, "clock_nanosleep", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(2, Fixed(16)), Out(3, Fixed(16))]),
    Row::new(36, "getitimer", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(32))]),
    Row::new(38, "setitimer", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(1, Fixed(32)), Out(2, Fixed(32))]),
    Row::new(37, "alarm", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(222, "timer_create", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(1, Fixed(64)), Out(2, Fixed(4))]),
    Row::new(223, "timer_settime", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(2, Fixed(32)), Out(3, Fixed(32))]),
    Row::new(224, "timer_gettime", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(32))]),
    Row::new(225, "timer_getoverrun", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(226, "timer_delete", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(96, "gettimeofday", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(16)), Out(1, Fixed(8))]),
    Row::new(164, "settimeofday", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(0, Fixed(16)), In(1, Fixed(8))]),
    Row::new(201, "time", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(8))]),
    Row::new(227, "clock_settime", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(1, Fixed(16))]),
    Row::new(228, "clock_gettime", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(16))]),
    Row::new(229, "clock_getres", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(16))]),
    Row::new(159, "adjtimex", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(0, Fixed(208))]),
    Row::new(305, "clock_adjtime", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(1, Fixed(208))]),
    Row::new(63, "uname", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(390))]),
    Row::new(99, "sysinfo", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(112))]),
    Row::new(103, "syslog", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Arg(2))]),
    Row::new(170, "sethostname", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(0, Arg(1))]),
    Row::new(171, "setdomainname", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(0, Arg(1))]),
    Row::new(153, "vhangup", Passed, Never, "the terminal's"),
    Row::new(169, "reboot", Passed, Never, "touches no FD, path, signal or mapping").memory(&[In(3, Text)]),
    Row::new(318, "getrandom", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Arg(1))]),
    Row::new(64, "semget", Passed, Never, "System V semaphores have a name space of their own"),
    Row::new(65, "semop", Passed, Never, "System V semaphores have a name space of their own")
        .memory(&[In(1, Items(2, 6))]),
    Row::new(66, "semctl", Passed, Never, "System V semaphores have a name space of their own")
        .memory(&[InOut(3, Depends)]),
    Row::new(220, "semtimedop", Passed, Never, "System V semaphores have a name space of their own")
        .memory(&[In(1, Items(2, 6)), In(3, Fixed(16))]),
    Row::new(68, "msgget", Passed, Never, "System V message queues have a name space of their own"),
    Row::new(
        69,
        "msgsnd",
        Passed,
        Never,
        "the message is a long and then as many bytes as the third argument says",
    )
    .memory(&[In(1, Depends)]),
    Row::new(
        70,
        "msgrcv",
        Passed,
        Never,
        "the message is a long and then as many bytes as the third argument says",
    )
    .memory(&[Out(1, Depends)]),
    Row::new(71, "msgctl", Passed, Never, "System V message queues have a name space of their own")
        .memory(&[InOut(2, Depends)]),
    Row::new(248, "add_key", Passed, Never, "keys have a name space of their own").memory(&[
        In(0, Text),
        In(1, Text),
        In(2, Arg(3)),
    ]),
    Row::new(249, "request_key", Passed, Never, "keys have a name space of their own").memory(&[
        In(0, Text),
        In(1, Text),
        In(2, Text),
    ]),
    Row::new(250, "keyctl", Passed, Never, "keys have a name space of their own")
        .memory(&[InOut(1, Depends), InOut(2, Depends)]),
    Row::new(175, "init_module", Passed, Never, "the image is in memory")
        .memory(&[In(0, Arg(1)), In(2, Text)]),
    Row::new(313, "finit_module", Passed, Never, "a shadow is refused: modules are not loaded from a mount")
        .fds(&[0])
        .memory(&[In(1, Text)]),
    Row::new(176, "delete_module", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(0, Text)]),
    Row::new(246, "kexec_load", Passed, Never, "the image is in memory").memory(&[In(2, Depends)]),
    Row::new(
        320,
        "kexec_file_load",
        Passed,
        Never,
        "a shadow is refused: kernels are not loaded from a mount",
    )
    .fds(&[0, 1])
    .memory(&[In(3, Arg(2))]),
    Row::new(459, "lsm_get_self_attr", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Depends), InOut(2, Fixed(4))]),
    Row::new(460, "lsm_set_self_attr", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(1, Arg(2))]),
    Row::new(461, "lsm_list_modules", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Depends), InOut(1, Fixed(4))]),
    Row::new(156, "_sysctl", Passed, Never, "not in Linux since 5.5").memory(&[InOut(0, Depends)]),
    Row::new(174, "create_module", Passed, Never, "not in Linux since 2.6"),
    Row::new(177, "get_kernel_syms", Passed, Never, "not in Linux since 2.6"),
    Row::new(178, "query_module", Passed, Never, "not in Linux since 2.6"),
    Row::new(180, "nfsservctl", Passed, Never, "not in Linux since 3.1"),
    Row::new(181, "getpmsg", Passed, Never, "never in Linux"),
    Row::new(182, "putpmsg", Passed, Never, "never in Linux"),
    Row::new(183, "afs_syscall", Passed, Never, "never in Linux"),
    Row::new(184, "tuxcall", Passed, Never, "never in Linux"),
    Row::new(185, "security", Passed, Never, "never in Linux"),
    Row::new(236, "vserver", Passed, Never, "never in Linux"),
];
