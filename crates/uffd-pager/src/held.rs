//! Files that are closed in the handler of a fault, too.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// An [`OwnedFd`] that is closed by the system call itself: libc's `close` may be a function that somebody looks at, and takes kilobytes of a stack for
/// signals that has eight.
#[derive(Debug)]
pub(crate) struct Held {
    file: UnsafeCell<ManuallyDrop<OwnedFd>>,
    /// The number is another process's to close.
    is_lent: AtomicBool,
}

// SAFETY: `file` is changed by `renew` alone, whose caller is the only thread.
unsafe impl Sync for Held {}

impl Held {
    /// The same file by a number of its own, of which `home` may make another one. The number that it had is the parent's to close, with which this process has its FD
    /// table in common; so it is if this fails.
    ///
    /// # Safety
    /// This is the only thread of the process, and no borrow of the file is in use.
    pub(crate) unsafe fn renew(&self, home: fn(OwnedFd) -> OwnedFd) -> Result<(), Errno> {
        self.is_lent.store(true, Ordering::Relaxed);
        let own = home(fcntl_dupfd_cloexec(self.as_fd(), 0)?);
        // SAFETY: nobody else uses it, as the caller says. What was there is not dropped.
        unsafe { *self.file.get() = ManuallyDrop::new(own) };
        self.is_lent.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl From<OwnedFd> for Held {
    fn from(fd: OwnedFd) -> Self {
        Self { file: UnsafeCell::new(ManuallyDrop::new(fd)), is_lent: AtomicBool::new(false) }
    }
}

impl Deref for Held {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        // SAFETY: it is changed while nobody borrows it only.
        unsafe { &*self.file.get() }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if *self.is_lent.get_mut() {
            return;
        }
        // SAFETY: it is not used again.
        let fd = unsafe { ManuallyDrop::take(self.file.get_mut()) }.into_raw_fd();
        // SAFETY: this was the only owner of the number.
        unsafe { rustix::io::close(fd) };
    }
}
