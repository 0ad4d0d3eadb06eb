//! Locks are the kernel's, on the descriptor behind the handle.

use core::ffi::c_int;
use plugin_abi::{Errno, Result, flock};
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) fn record(file: BorrowedFd<'_>, cmd: c_int, lock: &mut flock) -> Result<()> {
    use libc::{F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_SETLK, F_SETLKW};
    if !matches!(cmd, F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: these commands read and write one `struct flock`.
    answer(unsafe { libc::fcntl(file.as_raw_fd(), cmd, core::ptr::from_mut(lock)) })
}

pub(crate) fn whole_file(file: BorrowedFd<'_>, operation: c_int) -> Result<()> {
    // SAFETY: flock touches no memory.
    answer(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

fn answer(result: c_int) -> Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}
