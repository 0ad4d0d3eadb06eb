//! What was attempted and what the kernel or the source answered.

use rustix::io::Errno;
use std::fmt;

/// A call that failed: what was attempted, and the error number to hand to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    attempted: &'static str,
    errno: Errno,
}

impl Error {
    pub(crate) fn new(attempted: &'static str, errno: Errno) -> Self {
        Self { attempted, errno }
    }

    /// For `map_err`.
    pub(crate) fn on(attempted: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { attempted, errno }
    }

    /// The error number, of the kernel or of the source.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.attempted, self.errno)
    }
}

impl std::error::Error for Error {}

/// What the calls of this crate return.
pub type Result<T> = std::result::Result<T, Error>;
