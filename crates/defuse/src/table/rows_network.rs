//! Sockets.

use super::Interest::{Always, Late, Never, WhileServing};
use super::Length::{Arg, Fixed, Message, Messages, Pointed};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::{Passed, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(41, "socket", Served, Always, "the kernel's; one for datagrams may send to a path on a mount"),
    Row::new(53, "socketpair", Passed, Never, "gives FDs of the kernel's own").memory(&[Out(3, Fixed(8))]),
    Row::new(42, "connect", Served, Always, "a path on a mount leads to where the kernel has that socket")
        .fds(&[0])
        .memory(&[In(1, Arg(2))]),
    Row::new(
        43,
        "accept",
        Served,
        Always,
        "gives an FD of the kernel's own; a peer's name on a mount is shown as its program gave it",
    )
    .fds(&[0])
    .memory(&[Out(1, Pointed(2)), InOut(2, Fixed(4))]),
    Row::new(
        288,
        "accept4",
        Served,
        Always,
        "gives an FD of the kernel's own; a peer's name on a mount is shown as its program gave it",
    )
    .fds(&[0])
    .memory(&[Out(1, Pointed(2)), InOut(2, Fixed(4))]),
    Row::new(
        49,
        "bind",
        Served,
        Always,
        "the plugin makes the name; the kernel has the socket in the session's folder",
    )
    .fds(&[0])
    .memory(&[In(1, Arg(2))]),
    Row::new(
        50,
        "listen",
        Served,
        Late,
        "a shadow is no socket (ENOTSOCK), as a file is none; a place is EBADF",
    )
    .fds(&[0]),
    Row::new(
        48,
        "shutdown",
        Served,
        Late,
        "a shadow is no socket (ENOTSOCK), as a file is none; a place is EBADF",
    )
    .fds(&[0]),
    Row::new(51, "getsockname", Served, Always, "a name on a mount is shown as the program gave it")
        .fds(&[0])
        .memory(&[Out(1, Pointed(2)), InOut(2, Fixed(4))]),
    Row::new(52, "getpeername", Served, Always, "a name on a mount is shown as the program gave it")
        .fds(&[0])
        .memory(&[Out(1, Pointed(2)), InOut(2, Fixed(4))]),
    Row::new(
        54,
        "setsockopt",
        Served,
        Late,
        "a shadow is no socket (ENOTSOCK), as a file is none; a place is EBADF",
    )
    .fds(&[0])
    .memory(&[In(3, Arg(4))]),
    Row::new(
        55,
        "getsockopt",
        Served,
        Late,
        "a shadow is no socket (ENOTSOCK), as a file is none; a place is EBADF",
    )
    .fds(&[0])
    .memory(&[Out(3, Pointed(4)), InOut(4, Fixed(4))]),
    Row::new(44, "sendto", Served, WhileServing, "as connect, for datagrams")
        .fds(&[0])
        .memory(&[In(1, Arg(2)), In(4, Arg(5))]),
    Row::new(
        45,
        "recvfrom",
        Served,
        WhileServing,
        "a sender's name on a mount is shown as its program gave it",
    )
    .fds(&[0])
    .memory(&[Out(1, Arg(2)), Out(4, Pointed(5)), InOut(5, Fixed(4))]),
    Row::new(
        46,
        "sendmsg",
        Served,
        WhileServing,
        "FDs that are passed get shadows of their own first; the address as in sendto",
    )
    .fds(&[0])
    .memory(&[In(1, Message)]),
    Row::new(307, "sendmmsg", Served, WhileServing, "as sendmsg").fds(&[0]).memory(&[In(1, Messages(2))]),
    Row::new(
        47,
        "recvmsg",
        Served,
        Always,
        "FDs that arrive may be served: their numbers are identified anew; data alone is the kernel's",
    )
    .fds(&[0])
    .memory(&[Out(1, Message)]),
    Row::new(299, "recvmmsg", Served, Always, "as recvmsg")
        .fds(&[0])
        .memory(&[Out(1, Messages(2)), InOut(4, Fixed(16))]),
];
