//! The kernel's mounts, and files that the kernel reads or writes by itself.

use rustix::io::Errno;

use super::Interest::{Always, Late, Never, WhileServing};
use super::Length::{Arg, Depends, Fixed, Items, Text};
use super::MemArg::{In, InOut, Out};
use super::PathArg::{At, Cwd};
use super::Row;
use super::Treatment::{Passed, Refused, RefusedOnMount, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(
        165,
        "mount",
        RefusedOnMount(Errno::INVAL),
        Always,
        "nothing of the kernel's can be mounted over what is served; options are a string or a page",
    )
    .paths(&[Cwd(1)])
    .memory(&[In(0, Text), In(1, Text), In(2, Text), In(4, Depends)]),
    Row::new(166, "umount2", RefusedOnMount(Errno::INVAL), Always, "a served mount is none of the kernel's")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(
        155,
        "pivot_root",
        RefusedOnMount(Errno::INVAL),
        Always,
        "what is served cannot become the root",
    )
    .paths(&[Cwd(0), Cwd(1)])
    .memory(&[In(0, Text), In(1, Text)]),
    Row::new(
        428,
        "open_tree",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "a served tree cannot be cloned or attached",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text)]),
    Row::new(
        467,
        "open_tree_attr",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "a served tree cannot be cloned or attached",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), In(3, Arg(4))]),
    Row::new(
        429,
        "move_mount",
        RefusedOnMount(Errno::INVAL),
        Always,
        "nothing of the kernel's can be mounted over what is served",
    )
    .paths(&[At(0, 1), At(2, 3)])
    .memory(&[In(1, Text), In(3, Text)]),
    Row::new(
        442,
        "mount_setattr",
        RefusedOnMount(Errno::INVAL),
        Always,
        "a served mount is none of the kernel's",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), In(3, Arg(4))]),
    Row::new(433, "fspick", RefusedOnMount(Errno::INVAL), Always, "a served mount is none of the kernel's")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text)]),
    Row::new(430, "fsopen", Passed, Never, "names a kind of file system").memory(&[In(0, Text)]),
    Row::new(431, "fsconfig", Served, Late, "parameters of the kernel's file systems; a place is EBADF")
        .fds(&[0])
        .memory(&[In(2, Text), In(3, Depends)]),
    Row::new(432, "fsmount", Served, Late, "gives an FD of the kernel's own; a place is EBADF").fds(&[0]),
    Row::new(457, "statmount", Passed, Never, "tells of the kernel's mounts, by their ids")
        .memory(&[In(0, Depends), Out(1, Arg(2))]),
    Row::new(458, "listmount", Passed, Never, "tells of the kernel's mounts, by their ids")
        .memory(&[In(0, Depends), Out(1, Items(2, 8))]),
    Row::new(470, "listns", Passed, Never, "tells of namespaces")
        .memory(&[In(0, Depends), Out(1, Items(2, 8))]),
    Row::new(139, "sysfs", Passed, Never, "tells of kinds of file systems").memory(&[In(1, Depends)]),
    Row::new(163, "acct", RefusedOnMount(Errno::ACCESS), Always, "the kernel writes the file itself")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(
        167,
        "swapon",
        RefusedOnMount(Errno::INVAL),
        Always,
        "the kernel reads and writes the file itself",
    )
    .paths(&[Cwd(0)])
    .memory(&[In(0, Text)]),
    Row::new(168, "swapoff", RefusedOnMount(Errno::INVAL), Always, "as swapon")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(
        179,
        "quotactl",
        RefusedOnMount(Errno::NOTBLK),
        Always,
        "takes a block device, and what a plugin serves is none",
    )
    .paths(&[Cwd(1)])
    .memory(&[In(1, Text), InOut(3, Depends)]),
    Row::new(206, "io_setup", Passed, Never, "makes a context; see io_submit").memory(&[InOut(1, Fixed(8))]),
    Row::new(207, "io_destroy", Passed, Never, "see io_submit"),
    Row::new(208, "io_getevents", Passed, Never, "see io_submit")
        .memory(&[Out(3, Items(2, 32)), In(4, Fixed(16))]),
    Row::new(
        209,
        "io_submit",
        Served,
        WhileServing,
        "what concerns a served file is done at once, its completion left to the kernel",
    )
    .memory(&[In(2, Depends)]),
    Row::new(210, "io_cancel", Passed, Never, "see io_submit").memory(&[In(1, Fixed(64)), Out(2, Fixed(32))]),
    Row::new(333, "io_pgetevents", Passed, Never, "see io_submit").memory(&[
        Out(3, Items(2, 32)),
        In(4, Fixed(16)),
        In(5, Fixed(16)),
    ]),
    Row::new(
        425,
        "io_uring_setup",
        Refused(Errno::NOSYS),
        Always,
        "a ring opens, closes and reads FDs unseen; programs fall back",
    )
    .memory(&[InOut(1, Fixed(120))]),
    Row::new(
        426,
        "io_uring_enter",
        Refused(Errno::NOSYS),
        Always,
        "of a ring that was made outside of the session",
    )
    .fds(&[0])
    .memory(&[In(3, Depends)]),
    Row::new(
        427,
        "io_uring_register",
        Refused(Errno::NOSYS),
        Always,
        "of a ring that was made outside of the session",
    )
    .fds(&[0])
    .memory(&[InOut(2, Depends)]),
];
