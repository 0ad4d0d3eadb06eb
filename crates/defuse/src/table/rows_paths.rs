//! Calls with paths, and those about the working directory.

use rustix::io::Errno;

use super::Interest::{Always, Late, Never};
use super::Length::{Arg, Depends, Fixed, Text, Texts};
use super::MemArg::{In, InOut, Out};
use super::PathArg::{At, Cwd};
use super::Row;
use super::Treatment::{Passed, RefusedOnMount, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(2, "open", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(85, "creat", Served, Always, "as open").paths(&[Cwd(0)]).memory(&[In(0, Text)]),
    Row::new(257, "openat", Served, Always, "as open; the directory may be served")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text)]),
    Row::new(437, "openat2", Served, Always, "as openat, with the ways in which the path may be resolved")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), In(2, Arg(3))]),
    Row::new(4, "stat", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), Out(1, Fixed(144))]),
    Row::new(6, "lstat", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), Out(1, Fixed(144))]),
    Row::new(262, "newfstatat", Served, Always, "as stat; with AT_EMPTY_PATH as fstat")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), Out(2, Fixed(144))]),
    Row::new(332, "statx", Served, Always, "as newfstatat; more if the plugin tells")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), Out(4, Fixed(256))]),
    Row::new(21, "access", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(269, "faccessat", Served, Always, "as access").paths(&[At(0, 1)]).memory(&[In(1, Text)]),
    Row::new(439, "faccessat2", Served, Always, "as access").paths(&[At(0, 1)]).memory(&[In(1, Text)]),
    Row::new(137, "statfs", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), Out(1, Fixed(120))]),
    Row::new(136, "ustat", Passed, Never, "by device number; those of mounts are not the kernel's")
        .memory(&[Out(1, Fixed(32))]),
    Row::new(82, "rename", Served, Always, "from a mount to somewhere else: EXDEV")
        .paths(&[Cwd(0), Cwd(1)])
        .memory(&[In(0, Text), In(1, Text)]),
    Row::new(264, "renameat", Served, Always, "as rename")
        .paths(&[At(0, 1), At(2, 3)])
        .memory(&[In(1, Text), In(3, Text)]),
    Row::new(316, "renameat2", Served, Always, "as rename, with flags")
        .paths(&[At(0, 1), At(2, 3)])
        .memory(&[In(1, Text), In(3, Text)]),
    Row::new(83, "mkdir", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(258, "mkdirat", Served, Always, "as mkdir").paths(&[At(0, 1)]).memory(&[In(1, Text)]),
    Row::new(84, "rmdir", Served, Always, "the mount point itself is busy (EBUSY)")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(87, "unlink", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(263, "unlinkat", Served, Always, "as unlink, or as rmdir")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text)]),
    Row::new(86, "link", Served, Always, "from a mount to somewhere else: EXDEV")
        .paths(&[Cwd(0), Cwd(1)])
        .memory(&[In(0, Text), In(1, Text)]),
    Row::new(265, "linkat", Served, Always, "as link")
        .paths(&[At(0, 1), At(2, 3)])
        .memory(&[In(1, Text), In(3, Text)]),
    Row::new(88, "symlink", Served, Always, "the link may lie on a mount")
        .paths(&[Cwd(1)])
        .memory(&[In(0, Text), In(1, Text)]),
    Row::new(266, "symlinkat", Served, Always, "as symlink")
        .paths(&[At(1, 2)])
        .memory(&[In(0, Text), In(2, Text)]),
    Row::new(
        89,
        "readlink",
        Served,
        Always,
        "also /proc/self/exe and /proc/self/fd/N, which name what is served",
    )
    .paths(&[Cwd(0)])
    .memory(&[In(0, Text), Out(1, Arg(2))]),
    Row::new(267, "readlinkat", Served, Always, "as readlink")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), Out(2, Arg(3))]),
    Row::new(133, "mknod", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(259, "mknodat", Served, Always, "as mknod").paths(&[At(0, 1)]).memory(&[In(1, Text)]),
    Row::new(90, "chmod", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(268, "fchmodat", Served, Always, "as chmod").paths(&[At(0, 1)]).memory(&[In(1, Text)]),
    Row::new(452, "fchmodat2", Served, Always, "as chmod; with AT_EMPTY_PATH as fchmod")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text)]),
    Row::new(92, "chown", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(94, "lchown", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(260, "fchownat", Served, Always, "as chown; with AT_EMPTY_PATH as fchown")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text)]),
    Row::new(132, "utime", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), In(1, Fixed(16))]),
    Row::new(235, "utimes", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), In(1, Fixed(32))]),
    Row::new(261, "futimesat", Served, Always, "without a path it is about the FD")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), In(2, Fixed(32))]),
    Row::new(280, "utimensat", Served, Always, "without a path it is about the FD")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), In(2, Fixed(32))]),
    Row::new(76, "truncate", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(188, "setxattr", Served, Always, "the path may lie on a mount").paths(&[Cwd(0)]).memory(&[
        In(0, Text),
        In(1, Text),
        In(2, Arg(3)),
    ]),
    Row::new(189, "lsetxattr", Served, Always, "the path may lie on a mount").paths(&[Cwd(0)]).memory(&[
        In(0, Text),
        In(1, Text),
        In(2, Arg(3)),
    ]),
    Row::new(191, "getxattr", Served, Always, "the path may lie on a mount").paths(&[Cwd(0)]).memory(&[
        In(0, Text),
        In(1, Text),
        Out(2, Arg(3)),
    ]),
    Row::new(192, "lgetxattr", Served, Always, "the path may lie on a mount").paths(&[Cwd(0)]).memory(&[
        In(0, Text),
        In(1, Text),
        Out(2, Arg(3)),
    ]),
    Row::new(194, "listxattr", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), Out(1, Arg(2))]),
    Row::new(195, "llistxattr", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), Out(1, Arg(2))]),
    Row::new(197, "removexattr", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), In(1, Text)]),
    Row::new(198, "lremovexattr", Served, Always, "the path may lie on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text), In(1, Text)]),
    Row::new(
        463,
        "setxattrat",
        Served,
        Always,
        "the path may lie on a mount; the value is named by a struct",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), In(3, Text), In(4, Arg(5))]),
    Row::new(
        464,
        "getxattrat",
        Served,
        Always,
        "the path may lie on a mount; the value is named by a struct",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), In(3, Text), In(4, Arg(5))]),
    Row::new(465, "listxattrat", Served, Always, "the path may lie on a mount")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), Out(3, Arg(4))]),
    Row::new(466, "removexattrat", Served, Always, "the path may lie on a mount")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), In(3, Text)]),
    Row::new(
        468,
        "file_getattr",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "inode flags and projects, which plugins do not have",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), Out(2, Arg(3))]),
    Row::new(
        469,
        "file_setattr",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "inode flags and projects, which plugins do not have",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), In(2, Arg(3))]),
    Row::new(80, "chdir", Served, Always, "the working directory may be on a mount")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(79, "getcwd", Served, Always, "the working directory may be on a mount")
        .memory(&[Out(0, Arg(1))]),
    Row::new(161, "chroot", Served, Always, "paths mean something else afterwards")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(
        303,
        "name_to_handle_at",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "handles are the kernel's; what is on a mount has none",
    )
    .paths(&[At(0, 1)])
    .memory(&[In(1, Text), InOut(2, Depends), Out(3, Fixed(4))]),
    Row::new(
        304,
        "open_by_handle_at",
        Passed,
        Never,
        "handles name what is in the kernel's file systems; there is none of ours",
    )
    .fds(&[0])
    .memory(&[In(1, Depends)]),
    Row::new(
        254,
        "inotify_add_watch",
        Served,
        Always,
        "what happens on a mount is not seen by the kernel: refused there (ENOSPC), so that programs poll",
    )
    .fds(&[0])
    .paths(&[Cwd(1)])
    .memory(&[In(1, Text)]),
    Row::new(255, "inotify_rm_watch", Served, Late, "of watches that the kernel has; a place is EBADF")
        .fds(&[0]),
    Row::new(
        301,
        "fanotify_mark",
        RefusedOnMount(Errno::OPNOTSUPP),
        Always,
        "what happens on a mount is not seen by the kernel",
    )
    .fds(&[0])
    .paths(&[At(3, 4)])
    .memory(&[In(4, Text)]),
    Row::new(
        59,
        "execve",
        Served,
        Always,
        "the program may lie on a mount; what the next image must know goes along",
    )
    .paths(&[Cwd(0)])
    .memory(&[In(0, Text), In(1, Texts), In(2, Texts)]),
    Row::new(322, "execveat", Served, Always, "as execve; with AT_EMPTY_PATH the FD may be served")
        .paths(&[At(0, 1)])
        .memory(&[In(1, Text), In(2, Texts), In(3, Texts)]),
    Row::new(134, "uselib", RefusedOnMount(Errno::NOEXEC), Always, "no kernel in use has it switched on")
        .paths(&[Cwd(0)])
        .memory(&[In(0, Text)]),
    Row::new(212, "lookup_dcookie", Passed, Never, "not in Linux since 6.8").memory(&[Out(1, Arg(2))]),
    Row::new(95, "umask", Served, Always, "we apply it to what is made on a mount, so we follow it"),
];
