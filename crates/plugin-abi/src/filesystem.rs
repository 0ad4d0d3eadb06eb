//! The safe trait a Rust plugin implements.

use crate::errno::{Errno, Result};
use crate::handle::RawHandle;
use crate::path::MountPath;
use crate::types::{
    Capabilities, DirSink, InitError, MoreAttributes, Open, Purpose, SaveSink, SetAttr, Setup, Written,
};
use core::ffi::{CStr, c_int, c_void};
use libc::{flock, stat, statfs};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

/// A file system. Everything but [`init`](Self::init), [`getattr`](Self::getattr), [`open`](Self::open) and
/// [`close`](Self::close) has a default.
///
/// Methods run on a thread of the program, inside one of its system calls, and several may run at once.
/// What the defaults mean is said at the member of [`crate::abi::Table`] of the same name. A panic becomes `EIO`
/// and a log line.
#[allow(unused_variables, reason = "defaults use none of their arguments, and the names are documentation")]
pub trait FileSystem: Send + Sync + Sized + 'static {
    /// What an open file is to the plugin.
    type Handle: RawHandle;

    /// A short name for messages.
    const NAME: &'static CStr;
    /// What it can do; `THREAD_SAFE` is added for every Rust plugin.
    const CAPABILITIES: Capabilities = Capabilities::empty();

    /// Makes an instance for one mount.
    fn init(setup: &Setup<'_>) -> Result<Self, InitError>;
    /// The last call.
    fn finalize(self) {}

    /// Attributes of the file itself (`lstat`).
    fn getattr(&self, path: &MountPath) -> Result<stat>;
    /// Attributes of an open file.
    fn fgetattr(&self, handle: &Self::Handle) -> Result<stat> {
        Err(Errno::ENOSYS)
    }
    /// Changes attributes.
    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Changes attributes of an open file.
    fn fsetattr(&self, handle: &Self::Handle, attr: &SetAttr) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// What `getattr` cannot tell.
    fn getmore(&self, path: &MountPath) -> Result<MoreAttributes> {
        Err(Errno::ENOSYS)
    }
    /// The same of an open file.
    fn fgetmore(&self, handle: &Self::Handle) -> Result<MoreAttributes> {
        Err(Errno::ENOSYS)
    }

    /// Opens or creates; `flags` are open(2)'s.
    fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<Self::Handle>>;
    /// Ends a handle.
    fn close(&self, handle: Self::Handle) -> Result<()>;
    /// A descriptor of the handle is being closed.
    fn flush(&self, handle: &Self::Handle) -> Result<()> {
        Ok(())
    }

    /// Reads at `offset`; fewer bytes than asked only at the end of the file.
    fn read(&self, handle: &Self::Handle, buf: &mut [u8], offset: u64) -> Result<usize> {
        Err(Errno::ENOSYS)
    }
    /// Writes at `offset`, or at the end when `append`.
    fn write(&self, handle: &Self::Handle, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        Err(Errno::ENOSYS)
    }
    /// Reads into several buffers.
    fn readv(&self, handle: &Self::Handle, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        Err(Errno::ENOSYS)
    }
    /// Writes from several buffers.
    fn writev(
        &self,
        handle: &Self::Handle,
        bufs: &[IoSlice<'_>],
        offset: u64,
        append: bool,
    ) -> Result<Written> {
        Err(Errno::ENOSYS)
    }
    /// fsync(2) or fdatasync(2).
    fn fsync(&self, handle: &Self::Handle, datasync: bool) -> Result<()> {
        Ok(())
    }
    /// fallocate(2).
    fn fallocate(&self, handle: &Self::Handle, mode: c_int, offset: u64, len: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// `SEEK_DATA` and `SEEK_HOLE`.
    fn lseek(&self, handle: &Self::Handle, offset: u64, whence: c_int) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    /// `copy_file_range(2)` inside the mount.
    fn copy_range(
        &self,
        source: &Self::Handle,
        source_offset: u64,
        target: &Self::Handle,
        target_offset: u64,
        len: usize,
    ) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Hands entries from `cookie` on to `emit`, `.` and `..` among them.
    fn readdir(&self, handle: &Self::Handle, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// Makes a directory.
    fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Removes an empty directory.
    fn rmdir(&self, path: &MountPath) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Removes a name.
    fn unlink(&self, path: &MountPath) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// renameat2(2).
    fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Another name for `path`.
    fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// A name for an open file.
    fn flink(&self, handle: &Self::Handle, new: &MountPath) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Makes a symbolic link at `path`.
    fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// The target, cut at the buffer's length; returns how many bytes were put there.
    fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        Err(Errno::ENOSYS)
    }
    /// A FIFO, socket, device or plain file.
    fn mknod(&self, path: &MountPath, mode: u32, dev: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// access(2), with faccessat2(2)'s `AT_EACCESS` in `flags`.
    fn access(&self, path: &MountPath, mode: c_int, flags: c_int) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// statfs(2).
    fn statfs(&self, path: &MountPath) -> Result<statfs> {
        Err(Errno::ENOSYS)
    }
    /// fstatfs(2).
    fn fstatfs(&self, handle: &Self::Handle) -> Result<statfs> {
        Err(Errno::ENOSYS)
    }
    /// syncfs(2).
    fn syncfs(&self) -> Result<()> {
        Ok(())
    }

    /// lgetxattr(2): an empty buffer asks for the length.
    fn getxattr(&self, path: &MountPath, name: &CStr, value: &mut [u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }
    /// lsetxattr(2).
    fn setxattr(&self, path: &MountPath, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// llistxattr(2): an empty buffer asks for the length.
    fn listxattr(&self, path: &MountPath, list: &mut [u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }
    /// lremovexattr(2).
    fn removexattr(&self, path: &MountPath, name: &CStr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// fgetxattr(2).
    fn fgetxattr(&self, handle: &Self::Handle, name: &CStr, value: &mut [u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }
    /// fsetxattr(2).
    fn fsetxattr(&self, handle: &Self::Handle, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// flistxattr(2).
    fn flistxattr(&self, handle: &Self::Handle, list: &mut [u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }
    /// fremovexattr(2).
    fn fremovexattr(&self, handle: &Self::Handle, name: &CStr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// fcntl(2)'s record lock commands.
    fn lock(&self, handle: &Self::Handle, cmd: c_int, lock: &mut flock) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// flock(2). With `LOCK_NB` alone, which is no operation, the host only asks whether there is an answer other than `ENOSYS`.
    fn flock(&self, handle: &Self::Handle, operation: c_int) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// Describes the handle for the next program image.
    fn save(&self, handle: &Self::Handle, sink: &mut SaveSink<'_>) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Makes a handle from [`save`](Self::save)'s blob; `fds` belong to the handle from here on, unless this
    /// fails. With `Capabilities::BARE_FD` the blob may be empty, and the only descriptor that of the handle.
    fn restore(&self, blob: &[u8], fds: &[c_int]) -> Result<Open<Self::Handle>> {
        Err(Errno::ENOSYS)
    }

    /// Before fork: no allocation.
    fn fork_prepare(&self) {}
    /// After fork, in the parent: no allocation.
    fn fork_parent(&self) {}
    /// After fork, in the child: no allocation.
    fn fork_child(&self) {}

    /// Lends a descriptor whose pages are the file's.
    fn backing_fd<'a>(&'a self, handle: &'a Self::Handle, purpose: Purpose) -> Result<BorrowedFd<'a>> {
        Err(Errno::ENOSYS)
    }
    /// The handle's descriptor has another number now; the old number must be neither used nor closed.
    /// Called only with `Capabilities::RELOCATABLE`, and never beside another call on this handle.
    fn move_fd(&self, handle: Self::Handle, new_fd: c_int) -> Self::Handle {
        handle
    }
    /// ioctl(2).
    ///
    /// # Safety
    /// `arg` is whatever the program passed.
    unsafe fn ioctl(&self, handle: &Self::Handle, request: u64, arg: *mut c_void) -> Result<c_int> {
        Err(Errno::ENOTTY)
    }
    /// Opens the handle's file once more, also when its name is gone; never with `O_CREAT`.
    fn reopen(&self, handle: &Self::Handle, flags: c_int) -> Result<Open<Self::Handle>> {
        Err(Errno::ENOSYS)
    }
}
