//! The crate's one error type.

use core::fmt;

use rustix::io::Errno;

use crate::{ProcessId, SlotId};

/// What was attempted on an arena, and why it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StashError {
    /// A system call failed.
    Io {
        /// What the call was to achieve.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The configuration asks for a size outside of the supported range.
    BadConfig(&'static str),
    /// The file is no arena, or its header contradicts itself or the file's size.
    NotAnArena(&'static str),
    /// The arena was written by an incompatible version of this crate.
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file belongs to, or can be written by, somebody who is not trusted.
    Untrusted {
        /// The file's owner.
        uid: u32,
        /// The file's type and permission bits (`st_mode`).
        mode: u32,
    },
    /// The slot was freed, perhaps used again, since this identifier was issued.
    StaleSlot(SlotId),
    /// The process record was freed, or never was a valid one.
    NoSuchProcess(ProcessId),
    /// Every entry of the named table is in use.
    Full(&'static str),
    /// The file system that holds the arena is full.
    NoSpace,
    /// A value is longer than the arena can hold.
    TooLong {
        /// What was to be stored.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The largest length accepted, in bytes.
        max: usize,
    },
    /// The caller's buffer is too small for the stored value.
    BufferTooSmall {
        /// The stored value's length in bytes.
        needed: usize,
    },
    /// There is no value of this kind.
    Absent(&'static str),
    /// The stored bytes fail their check: a torn write, or a damaged file.
    Corrupt(&'static str),
    /// The calling thread already holds this lock.
    WouldDeadlock,
    /// The lock is held by somebody else.
    Locked,
    /// The file offset would exceed `i64::MAX`.
    OffsetOverflow,
}

impl fmt::Display for StashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Io { doing, errno } => write!(f, "{doing}: {errno}"),
            Self::BadConfig(why) => write!(f, "creating an arena: {why}"),
            Self::NotAnArena(why) => write!(f, "opening an arena: {why}"),
            Self::Version { found } => {
                write!(f, "opening an arena: version {found}, expected {}", crate::layout::VERSION)
            }
            Self::Untrusted { uid, mode } => {
                write!(f, "opening an arena: owned by uid {uid} with mode {mode:o}, not trusted")
            }
            Self::StaleSlot(id) => write!(f, "using slot {id:?}: it was freed"),
            Self::NoSuchProcess(id) => write!(f, "using process record {id:?}: it was freed"),
            Self::Full(what) => write!(f, "allocating from the arena: {what} exhausted"),
            Self::NoSpace => f.write_str("allocating from the arena: no space left on its file system"),
            Self::TooLong { what, len, max } => {
                write!(f, "storing a {what} of {len} bytes: the limit is {max}")
            }
            Self::BufferTooSmall { needed } => {
                write!(f, "reading a value of {needed} bytes: the buffer is too small")
            }
            Self::Absent(what) => write!(f, "reading a {what}: there is none"),
            Self::Corrupt(what) => write!(f, "reading a {what}: torn or damaged"),
            Self::WouldDeadlock => f.write_str("taking a lock: the calling thread holds it"),
            Self::Locked => f.write_str("taking a lock: held by another thread"),
            Self::OffsetOverflow => f.write_str("advancing a file offset: beyond the largest offset"),
        }
    }
}

impl core::error::Error for StashError {}

/// Attaches to a system call's error what the call was to achieve.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StashError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T, StashError> {
        self.map_err(|errno| StashError::Io { doing, errno })
    }
}
