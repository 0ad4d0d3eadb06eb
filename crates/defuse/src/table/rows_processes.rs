//! Processes, threads, their identity and limits.

use super::Interest::{Always, Never, WhileServing};
use super::Length::{Arg, Depends, Fixed, Items};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::{Interposed, Passed, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(
        56,
        "clone",
        Interposed,
        Never,
        "served FDs get shadows of their own before a child shares them",
    )
    .memory(&[Out(2, Fixed(4)), Out(3, Fixed(4))]),
    Row::new(435, "clone3", Interposed, Never, "as clone").memory(&[In(0, Arg(1))]),
    Row::new(57, "fork", Interposed, Never, "as clone"),
    Row::new(58, "vfork", Interposed, Never, "as clone; the child shares our memory but not our FDs"),
    Row::new(60, "exit", Interposed, Never, "the thread's own state goes"),
    Row::new(
        231,
        "exit_group",
        Served,
        WhileServing,
        "files are flushed and closed, mapped ones written back; the kernel closes shadows, the arena forgets dead processes",
    ),
    Row::new(61, "wait4", Passed, Never, "children are the kernel's")
        .memory(&[Out(1, Fixed(4)), Out(3, Fixed(144))]),
    Row::new(247, "waitid", Passed, Never, "children are the kernel's")
        .memory(&[Out(2, Fixed(128)), Out(4, Fixed(144))]),
    Row::new(39, "getpid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(110, "getppid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(186, "gettid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(218, "set_tid_address", Passed, Never, "written when the thread ends")
        .memory(&[Out(0, Fixed(4))]),
    Row::new(24, "sched_yield", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(101, "ptrace", Passed, Never, "of another process").memory(&[InOut(3, Depends)]),
    Row::new(
        312,
        "kcmp",
        Served,
        WhileServing,
        "the kernel compares shadows, which this process's files get first",
    )
    .fds(&[3, 4]),
    Row::new(
        157,
        "prctl",
        Served,
        Always,
        "as seccomp; dispatch of system calls cannot be turned on (EINVAL)",
    )
    .memory(&[InOut(1, Depends)]),
    Row::new(
        158,
        "arch_prctl",
        Passed,
        Never,
        "segment registers; the thread's own memory stays where it is",
    )
    .memory(&[InOut(1, Depends)]),
    Row::new(
        317,
        "seccomp",
        Served,
        Always,
        "what serving needs once is loaded before; strict mode: the program gets the files behind its FDs; a filter applies to the plugins' calls as well",
    )
    .memory(&[In(2, Depends)]),
    Row::new(135, "personality", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(
        272,
        "unshare",
        Served,
        Always,
        "FDs and working directory are those of the process: a thread gets none of its own (EINVAL); name spaces are the kernel's",
    ),
    Row::new(
        308,
        "setns",
        Served,
        Always,
        "another mount name space brings its root as working directory, and may not have the session's folder; what is open stays",
    )
    .fds(&[0]),
    Row::new(109, "setpgid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(111, "getpgrp", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(121, "getpgid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(112, "setsid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(124, "getsid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(102, "getuid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(104, "getgid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(107, "geteuid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(108, "getegid", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(
        105,
        "setuid",
        Passed,
        Never,
        "privileges that are dropped: what is open stays, the arena is mapped ahead",
    ),
    Row::new(106, "setgid", Passed, Never, "as setuid"),
    Row::new(113, "setreuid", Passed, Never, "as setuid"),
    Row::new(114, "setregid", Passed, Never, "as setuid"),
    Row::new(117, "setresuid", Passed, Never, "as setuid"),
    Row::new(119, "setresgid", Passed, Never, "as setuid"),
    Row::new(118, "getresuid", Passed, Never, "touches no FD, path, signal or mapping").memory(&[
        Out(0, Fixed(4)),
        Out(1, Fixed(4)),
        Out(2, Fixed(4)),
    ]),
    Row::new(120, "getresgid", Passed, Never, "touches no FD, path, signal or mapping").memory(&[
        Out(0, Fixed(4)),
        Out(1, Fixed(4)),
        Out(2, Fixed(4)),
    ]),
    Row::new(122, "setfsuid", Passed, Never, "as setuid"),
    Row::new(123, "setfsgid", Passed, Never, "as setuid"),
    Row::new(115, "getgroups", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Items(0, 4))]),
    Row::new(116, "setgroups", Passed, Never, "as setuid").memory(&[In(1, Items(0, 4))]),
    Row::new(125, "capget", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(0, Fixed(8)), Out(1, Fixed(24))]),
    Row::new(126, "capset", Passed, Never, "as setuid").memory(&[In(0, Fixed(8)), In(1, Fixed(24))]),
    Row::new(
        97,
        "getrlimit",
        Served,
        Always,
        "RLIMIT_NOFILE: the program sees the limit that it was given, below the private FDs",
    )
    .memory(&[Out(1, Fixed(16))]),
    Row::new(160, "setrlimit", Served, Always, "RLIMIT_NOFILE: the program's limit is kept by us")
        .memory(&[In(1, Fixed(16))]),
    Row::new(302, "prlimit64", Served, Always, "as getrlimit and setrlimit, for this process")
        .memory(&[In(2, Fixed(16)), Out(3, Fixed(16))]),
    Row::new(98, "getrusage", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(144))]),
    Row::new(100, "times", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(32))]),
    Row::new(140, "getpriority", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(141, "setpriority", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(142, "sched_setparam", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(1, Fixed(4))]),
    Row::new(143, "sched_getparam", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(4))]),
    Row::new(144, "sched_setscheduler", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(2, Fixed(4))]),
    Row::new(145, "sched_getscheduler", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(146, "sched_get_priority_max", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(147, "sched_get_priority_min", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(148, "sched_rr_get_interval", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(16))]),
    Row::new(203, "sched_setaffinity", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[In(2, Arg(1))]),
    Row::new(204, "sched_getaffinity", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(2, Arg(1))]),
    Row::new(314, "sched_setattr", Passed, Never, "the struct begins with its size")
        .memory(&[In(1, Depends)]),
    Row::new(315, "sched_getattr", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Arg(2))]),
    Row::new(251, "ioprio_set", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(252, "ioprio_get", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(309, "getcpu", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(0, Fixed(4)), Out(1, Fixed(4))]),
    Row::new(334, "rseq", Passed, Never, "the kernel writes to it at any time").memory(&[InOut(0, Arg(1))]),
    Row::new(471, "rseq_slice_yield", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(335, "uretprobe", Passed, Never, "made by the kernel's own trampoline only"),
    Row::new(336, "uprobe", Passed, Never, "made by the kernel's own trampoline only"),
    Row::new(202, "futex", Passed, Never, "the fourth argument may be a number").memory(&[
        InOut(0, Fixed(4)),
        InOut(3, Depends),
        InOut(4, Fixed(4)),
    ]),
    Row::new(449, "futex_waitv", Passed, Never, "each entry names a word")
        .memory(&[In(0, Items(1, 24)), In(3, Fixed(16))]),
    Row::new(454, "futex_wake", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(0, Fixed(4))]),
    Row::new(455, "futex_wait", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(0, Fixed(4)), In(4, Fixed(16))]),
    Row::new(456, "futex_requeue", Passed, Never, "two entries that name a word each")
        .memory(&[In(0, Fixed(48))]),
    Row::new(273, "set_robust_list", Passed, Never, "read when the thread ends").memory(&[In(0, Fixed(24))]),
    Row::new(274, "get_robust_list", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[Out(1, Fixed(8)), Out(2, Fixed(8))]),
    Row::new(219, "restart_syscall", Passed, Never, "made by the kernel after a signal"),
    Row::new(324, "membarrier", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(205, "set_thread_area", Passed, Never, "not in 64-bit programs").memory(&[InOut(0, Fixed(16))]),
    Row::new(211, "get_thread_area", Passed, Never, "not in 64-bit programs").memory(&[InOut(0, Fixed(16))]),
    Row::new(154, "modify_ldt", Passed, Never, "touches no FD, path, signal or mapping")
        .memory(&[InOut(1, Arg(2))]),
    Row::new(172, "iopl", Passed, Never, "touches no FD, path, signal or mapping"),
    Row::new(173, "ioperm", Passed, Never, "touches no FD, path, signal or mapping"),
];
