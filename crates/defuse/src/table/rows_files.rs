//! Calls on an open file.

use rustix::io::Errno;

use super::Interest::{Always, ByFd, Closes, WhileServing};
use super::Length::{Arg, Depends, Fixed, Iovec, Text};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::{RefusedOnMount, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(0, "read", Served, ByFd, "from the plugin, at the shared offset")
        .fds(&[0])
        .memory(&[Out(1, Arg(2))]),
    Row::new(1, "write", Served, ByFd, "to the plugin; whole and in its place, also when appending")
        .fds(&[0])
        .memory(&[In(1, Arg(2))]),
    Row::new(17, "pread64", Served, ByFd, "from the plugin, at a given offset")
        .fds(&[0])
        .memory(&[Out(1, Arg(2))]),
    Row::new(18, "pwrite64", Served, ByFd, "to the plugin, at a given offset")
        .fds(&[0])
        .memory(&[In(1, Arg(2))]),
    Row::new(19, "readv", Served, ByFd, "as read").fds(&[0]).memory(&[Out(1, Iovec(2))]),
    Row::new(20, "writev", Served, ByFd, "as write").fds(&[0]).memory(&[In(1, Iovec(2))]),
    Row::new(295, "preadv", Served, ByFd, "as pread64").fds(&[0]).memory(&[Out(1, Iovec(2))]),
    Row::new(296, "pwritev", Served, ByFd, "as pwrite64").fds(&[0]).memory(&[In(1, Iovec(2))]),
    Row::new(327, "preadv2", Served, ByFd, "as preadv, with flags").fds(&[0]).memory(&[Out(1, Iovec(2))]),
    Row::new(328, "pwritev2", Served, ByFd, "as pwritev, with flags").fds(&[0]).memory(&[In(1, Iovec(2))]),
    Row::new(
        8,
        "lseek",
        Served,
        ByFd,
        "the offset is in the session's memory; SEEK_DATA and SEEK_HOLE are the plugin's",
    )
    .fds(&[0]),
    Row::new(40, "sendfile", Served, Always, "copied by us when either side is served")
        .fds(&[0, 1])
        .memory(&[InOut(2, Fixed(8))]),
    Row::new(275, "splice", Served, Always, "copied by us when the side that is no pipe is served")
        .fds(&[0, 2])
        .memory(&[InOut(1, Fixed(8)), InOut(3, Fixed(8))]),
    Row::new(276, "tee", Served, Always, "both are pipes: a served FD is refused (EINVAL)").fds(&[0, 1]),
    Row::new(278, "vmsplice", Served, ByFd, "the FD is a pipe: a served one is refused (EBADF)")
        .fds(&[0])
        .memory(&[InOut(1, Iovec(2))]),
    Row::new(
        326,
        "copy_file_range",
        Served,
        Always,
        "copied by the plugin or by us when either side is served",
    )
    .fds(&[0, 2])
    .memory(&[InOut(1, Fixed(8)), InOut(3, Fixed(8))]),
    Row::new(77, "ftruncate", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(285, "fallocate", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(74, "fsync", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(75, "fdatasync", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(277, "sync_file_range", Served, ByFd, "as fdatasync, which is more than was asked for")
        .fds(&[0]),
    Row::new(306, "syncfs", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(162, "sync", Served, WhileServing, "every plugin of this process is asked, then the kernel"),
    Row::new(221, "fadvise64", Served, ByFd, "advice that we do not take").fds(&[0]),
    Row::new(187, "readahead", Served, ByFd, "advice that we do not take").fds(&[0]),
    Row::new(
        451,
        "cachestat",
        RefusedOnMount(Errno::OPNOTSUPP),
        ByFd,
        "the page cache has nothing of a served file; the shadow's answer would be about the shadow",
    )
    .fds(&[0])
    .memory(&[In(1, Fixed(16)), Out(2, Fixed(32))]),
    Row::new(73, "flock", Served, ByFd, "on the shadow or its companion, so that the kernel keeps it")
        .fds(&[0]),
    Row::new(
        16,
        "ioctl",
        Served,
        ByFd,
        "few mean something on files (FIONREAD, FS_IOC_*); the others are refused (ENOTTY)",
    )
    .fds(&[0])
    .memory(&[InOut(2, Depends)]),
    Row::new(
        72,
        "fcntl",
        Served,
        ByFd,
        "F_DUPFD, flags and record locks; the third argument points to a struct flock for the lock commands",
    )
    .fds(&[0])
    .memory(&[InOut(2, Depends)]),
    Row::new(3, "close", Served, Closes, "the last close of a description closes the plugin's handle")
        .fds(&[0]),
    Row::new(
        436,
        "close_range",
        Served,
        Always,
        "served FDs in the range are closed as by close; those of plugins stay open",
    ),
    Row::new(32, "dup", Served, ByFd, "the copy has the same description").fds(&[0]),
    Row::new(
        33,
        "dup2",
        Served,
        Always,
        "either may be served; what the second was is closed, and it may not be a plugin's",
    )
    .fds(&[0, 1]),
    Row::new(292, "dup3", Served, Always, "as dup2").fds(&[0, 1]),
    Row::new(5, "fstat", Served, ByFd, "the plugin's").fds(&[0]).memory(&[Out(1, Fixed(144))]),
    Row::new(138, "fstatfs", Served, ByFd, "the plugin's").fds(&[0]).memory(&[Out(1, Fixed(120))]),
    Row::new(
        78,
        "getdents",
        Served,
        ByFd,
        "the plugin's entries, with cookies that telldir and seekdir can use",
    )
    .fds(&[0])
    .memory(&[Out(1, Arg(2))]),
    Row::new(217, "getdents64", Served, ByFd, "as getdents").fds(&[0]).memory(&[Out(1, Arg(2))]),
    Row::new(91, "fchmod", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(93, "fchown", Served, ByFd, "the plugin's").fds(&[0]),
    Row::new(190, "fsetxattr", Served, ByFd, "the plugin's").fds(&[0]).memory(&[In(1, Text), In(2, Arg(3))]),
    Row::new(193, "fgetxattr", Served, ByFd, "the plugin's").fds(&[0]).memory(&[In(1, Text), Out(2, Arg(3))]),
    Row::new(196, "flistxattr", Served, ByFd, "the plugin's").fds(&[0]).memory(&[Out(1, Arg(2))]),
    Row::new(199, "fremovexattr", Served, ByFd, "the plugin's").fds(&[0]).memory(&[In(1, Text)]),
    Row::new(81, "fchdir", Served, Always, "the working directory may be on a mount, or have been").fds(&[0]),
    Row::new(
        472,
        "fchroot",
        RefusedOnMount(Errno::OPNOTSUPP),
        ByFd,
        "the shadow is a directory, so the kernel would make it the root",
    )
    .fds(&[0]),
    Row::new(
        443,
        "quotactl_fd",
        RefusedOnMount(Errno::OPNOTSUPP),
        ByFd,
        "plugins keep no quotas; the shadow's answer would be about the session's tmpfs",
    )
    .fds(&[0])
    .memory(&[InOut(3, Depends)]),
];
