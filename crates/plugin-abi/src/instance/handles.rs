//! Open files beyond their data: locks, hand-over, descriptors, fork.

use super::{Handle, Instance, Saved, is_open, missing};
use crate::abi::{self, Opened};
use crate::errno::{Errno, Result};
use crate::types::{Capabilities, Open, Purpose};
use core::ffi::{c_int, c_void};
use libc::flock;
use std::os::fd::{BorrowedFd, RawFd};

impl Instance {
    /// fcntl(2)'s record locks. `ENOSYS`: the host keeps them (always so for a serialised plugin, whose other
    /// threads could not unlock while one waits).
    pub fn lock(&self, handle: &Handle, cmd: c_int, lock: &mut flock) -> Result<()> {
        if self.serial.is_some() {
            return Err(Errno::ENOSYS);
        }
        op!(self.lock(handle.0, cmd, core::ptr::from_mut(lock)))
    }

    /// flock(2); `ENOSYS` as for [`lock`](Self::lock).
    pub fn flock(&self, handle: &Handle, operation: c_int) -> Result<()> {
        if self.serial.is_some() {
            return Err(Errno::ENOSYS);
        }
        op!(self.flock(handle.0, operation))
    }

    /// Describes a handle for the next program image. With `ERANGE`, `saved` says what is needed.
    pub fn save(
        &self,
        handle: &Handle,
        blob: &mut [u8],
        keep: &mut [RawFd],
        saved: &mut Saved,
    ) -> Result<()> {
        *saved = Saved::default();
        let (buf, size, fds, room) = (blob.as_mut_ptr().cast(), blob.len(), keep.as_mut_ptr(), keep.len());
        let Saved { len, kept } = saved;
        op!(self.save(handle.0, buf, size, &raw mut *len, fds, room, &raw mut *kept))?;
        self.at_most("save", saved.len, blob.len())?;
        if saved.kept > keep.len() || keep[..saved.kept].iter().any(|&fd| fd < 0) {
            return Err(self.impossible("save", format_args!("lists descriptors that cannot be")));
        }
        Ok(())
    }

    /// Makes a handle from [`save`](Self::save)'s blob and the kept descriptors, which belong to the plugin
    /// when this succeeds.
    pub fn restore(&self, blob: &[u8], fds: &[RawFd]) -> Result<Open<Handle>> {
        let mut opened = Opened::EMPTY;
        let (buf, len, count) = (blob.as_ptr().cast(), blob.len(), fds.len());
        let answer = op!(self.restore(buf, len, fds.as_ptr(), count, &raw mut opened));
        self.opened("restore", answer, opened)
    }

    /// Before fork: from here to [`fork_parent`](Self::fork_parent) or [`fork_child`](Self::fork_child) no
    /// other thread is inside a serialised plugin. Allocates nothing.
    pub fn fork_prepare(&self) {
        if let Some(serial) = &self.serial {
            serial.acquire();
        }
        self.fork_hook(self.table.fork_prepare);
    }

    /// After fork, in the parent, by the thread that called [`fork_prepare`](Self::fork_prepare).
    pub fn fork_parent(&self) {
        self.fork_hook(self.table.fork_parent);
        if let Some(serial) = &self.serial {
            serial.release();
        }
    }

    /// After fork, in the child, before it has a second thread. May also be called after a fork that nobody
    /// prepared: then the plugin was not asked, and only the serialising lock is freed.
    pub fn fork_child(&self) {
        if let Some(serial) = &self.serial {
            serial.reset();
        }
        self.fork_hook(self.table.fork_child);
    }

    /// After a vfork, in the thread that made it, when the child has ended or has its own memory: if it was killed inside of a serialised
    /// plugin, others may enter that again. What the plugin was changing may be half changed.
    pub fn vfork_child_gone(&self) {
        if let Some(serial) = &self.serial {
            serial.release_of_child();
        }
    }

    fn fork_hook(&self, hook: Option<unsafe extern "C" fn(*mut c_void) -> c_int>) {
        if let (true, Some(hook)) = (self.capabilities.contains(Capabilities::FORK_HOOKS), hook) {
            // SAFETY: the plugin's own function with its instance; serialisation is the caller's span.
            unsafe { hook(self.fs) };
        }
    }

    /// Borrows a descriptor behind the handle. It is good until the handle is closed or moved.
    pub fn backing_fd<'a>(&'a self, handle: &'a Handle, purpose: Purpose) -> Result<BorrowedFd<'a>> {
        let purpose = match purpose {
            Purpose::Map => abi::DEFUSE_BACKING_MAP,
            Purpose::Exec => abi::DEFUSE_BACKING_EXEC,
            Purpose::Flags => abi::DEFUSE_BACKING_FLAGS,
        };
        let mut fd = -1;
        op!(self.backing_fd(handle.0, purpose, &raw mut fd))?;
        if !is_open(fd) {
            return Err(
                self.impossible("backing_fd", format_args!("lends descriptor {fd}, which is not open"))
            );
        }
        // SAFETY: it is open, and the plugin keeps it so until the handle is closed.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Tells the plugin that the descriptor behind the handle has another number now.
    pub fn move_fd(&self, handle: &mut Handle, new_fd: RawFd) -> Result<()> {
        if !self.capabilities.contains(Capabilities::RELOCATABLE) {
            return Err(Errno::ENOSYS);
        }
        op!(self.move_fd(&raw mut handle.0, new_fd))
    }

    /// ioctl(2).
    ///
    /// # Safety
    /// `arg` is what the request demands.
    pub unsafe fn ioctl(&self, handle: &Handle, request: u64, arg: *mut c_void) -> Result<c_int> {
        let mut result = 0;
        let answer = op!(self.ioctl(handle.0, request, arg, &raw mut result)).map(|()| result);
        missing(answer, Err(Errno::ENOTTY))
    }

    /// Opens the handle's file once more; `ENOSYS` if the plugin cannot, then its path has to do.
    pub fn reopen(&self, handle: &Handle, flags: c_int) -> Result<Open<Handle>> {
        let mut opened = Opened::EMPTY;
        let answer = op!(self.reopen(handle.0, self.open_flags(flags), &raw mut opened));
        self.opened("reopen", answer, opened)
    }
}
