//! What can go wrong when code is changed.

use core::fmt;

use rustix::io::Errno;

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The system's policy does not let the process execute memory it can write (`SELinux`'s `execmem` or `execmod`,
    /// `PR_SET_MDWE`, a seccomp filter). Only Syscall User Dispatch is left.
    Forbidden {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// No free address range within 2 GiB of the text.
    NoRoom {
        /// Start of the text.
        text: u64,
    },
    /// Anything else the kernel refused.
    System {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl Error {
    pub(super) fn of(attempt: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Forbidden { attempt, errno },
            _ => Self::System { attempt, errno },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden { attempt, errno } => {
                write!(f, "{attempt}: {errno}; code may not be changed here")
            }
            Self::NoRoom { text } => write!(f, "no free memory within 2 GiB of the text at {text:#x}"),
            Self::System { attempt, errno } => write!(f, "{attempt}: {errno}"),
        }
    }
}

impl core::error::Error for Error {}
