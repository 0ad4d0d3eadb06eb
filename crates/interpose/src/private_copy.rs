//! A file in memory, to be changed there.

use core::ffi::c_void;
use core::{ptr, slice};
use std::os::fd::OwnedFd;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A file's content in memory, of which only what is changed is copied.
pub struct PrivateCopy {
    start: *mut c_void,
    length: usize,
}

impl PrivateCopy {
    /// `length` bytes of `file`.
    pub fn of(file: &OwnedFd, length: usize) -> Option<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: takes nothing away from anybody.
        let mapped = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::PRIVATE, file, 0) };
        let copy = Self { start: mapped.ok()?, length };
        // One call for all pages, before Linux 5.14 a fault for a few of them at a time.
        // SAFETY: ours; changes nothing of what is in it.
        let _ = unsafe { madvise(copy.start, length, Advice::LinuxPopulateRead) };
        Some(copy)
    }

    /// What it is.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as this lives, and changed only by who has it mutably. (Who writes to a library that is in use
        // has broken all programs that use it.)
        unsafe { slice::from_raw_parts(self.start.cast(), self.length) }
    }

    /// To be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // SAFETY: ours, and no reference is left.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
