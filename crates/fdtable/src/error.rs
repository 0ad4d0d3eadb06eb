//! Why a change of the table was refused.

use std::fmt;
use std::os::fd::RawFd;

/// Why a change of the table was refused. The table is then unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The number cannot be an FD.
    NegativeFd {
        /// The number passed.
        fd: RawFd,
    },
    /// There was no memory for the description or for the part of the table that covers this FD.
    OutOfMemory {
        /// The FD to be entered.
        fd: RawFd,
    },
    /// The FD to be duplicated is not in the table.
    NotOpen {
        /// The FD to be duplicated.
        from: RawFd,
        /// The FD that was to share its description.
        to: RawFd,
    },
    /// The last FD of the description has been closed, and somebody was told so
    /// ([`Released::is_last_fd`](crate::Released::is_last_fd)); it cannot get an FD again.
    Retired {
        /// The FD to be entered.
        fd: RawFd,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NegativeFd { fd } => write!(f, "entering FD {fd}: negative number"),
            Self::OutOfMemory { fd } => write!(f, "entering FD {fd}: out of memory"),
            Self::NotOpen { from, to } => {
                write!(f, "duplicating FD {from} to FD {to}: FD {from} is not in the table")
            }
            Self::Retired { fd } => {
                write!(f, "entering FD {fd}: the last FD of this description has been closed")
            }
        }
    }
}

impl std::error::Error for Error {}
