//! Files that are closed in the handler of a fault, too.

use std::mem::ManuallyDrop;
use std::ops::Deref;

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

/// An [`OwnedFd`] that is closed by the system call itself: libc's `close` may be a function that somebody looks at, and takes kilobytes of a stack for
/// signals that has eight.
#[derive(Debug)]
pub(crate) struct Held(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Held {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl Deref for Held {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.0
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: it is not used again.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) }.into_raw_fd();
        // SAFETY: this was the only owner of the number.
        unsafe { rustix::io::close(fd) };
    }
}
