//! The safe trait a Rust plugin implements.

use crate::abi;
use crate::errno::{Errno, Result};
use crate::handle::RawHandle;
use crate::host::Host;
use crate::path::MountPath;
use core::ffi::{CStr, c_int, c_void};
use libc::{flock, stat, statfs, timespec};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

bitflags::bitflags! {
    /// What a plugin can do beyond the plain operations (`DEFUSE_CAP_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Capabilities: u64 {
        /// May be called from several threads at once (always so for a Rust plugin).
        const THREAD_SAFE = abi::DEFUSE_CAP_THREAD_SAFE;
        /// `open` may answer with a native descriptor.
        const NATIVE_FD = abi::DEFUSE_CAP_NATIVE_FD;
        /// Wants the three fork hooks.
        const FORK_HOOKS = abi::DEFUSE_CAP_FORK_HOOKS;
        /// The descriptor behind a handle may be renumbered by the host.
        const RELOCATABLE = abi::DEFUSE_CAP_RELOCATABLE;
        /// Appends are atomic, between processes too.
        const APPEND = abi::DEFUSE_CAP_APPEND;
        /// One read never sees half of one write.
        const ATOMIC_IO = abi::DEFUSE_CAP_ATOMIC_IO;
        /// Applies the process's umask itself.
        const UMASK = abi::DEFUSE_CAP_UMASK;
        /// Follows symbolic links in the middle of a path itself.
        const FOLLOWS_SYMLINKS = abi::DEFUSE_CAP_FOLLOWS_SYMLINKS;
        /// Files live in this process only.
        const PROCESS_LOCAL = abi::DEFUSE_CAP_PROCESS_LOCAL;
    }
}

/// What an instance is made from.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Where the program sees the mount (absolute).
    pub mount_point: &'a CStr,
    /// What stands after the library in `-m POINT=LIB:BACKEND`; empty when absent.
    pub backend: &'a CStr,
    /// Comma-separated options; empty when absent.
    pub options: &'a CStr,
    /// For log lines.
    pub host: Host,
}

impl Setup<'_> {
    /// The options, split at commas, without empty ones.
    pub fn options(&self) -> impl Iterator<Item = &[u8]> {
        self.options.to_bytes().split(|&b| b == b',').filter(|option| !option.is_empty())
    }
}

/// Why an instance could not be made: a sentence for the user and an errno for the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitError {
    /// What a system call that needs the instance fails with.
    pub errno: Errno,
    /// What was attempted and what was wrong.
    pub message: String,
}

impl InitError {
    /// Both parts.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }
}

impl std::fmt::Display for InitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.message.is_empty() {
            self.errno.fmt(f)
        } else {
            write!(f, "{}: {}", self.message, self.errno)
        }
    }
}

impl std::error::Error for InitError {}

impl From<Errno> for InitError {
    fn from(errno: Errno) -> Self {
        Self::new(errno, "")
    }
}

/// A `stat` of zeros, to be filled in.
pub const fn empty_stat() -> stat {
    // SAFETY: `stat` is integers only.
    unsafe { core::mem::zeroed() }
}

/// A `statfs` of zeros, to be filled in.
pub const fn empty_statfs() -> statfs {
    // SAFETY: `statfs` is integers only.
    unsafe { core::mem::zeroed() }
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum SetTime {
    /// The current time.
    Now,
    /// A given one.
    At(timespec),
}

/// Attributes to change: all of those that are `Some`, or none.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits (0o7777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
}

/// The answer of `open` and `restore`.
#[derive(Debug)]
pub enum Open<H> {
    /// The file is served by the plugin's own operations.
    Served {
        /// Names the open file in later calls.
        handle: H,
        /// A descriptor behind the file; it stays the handle's, but see `Capabilities::RELOCATABLE`.
        backing_fd: Option<c_int>,
        /// The file's type (`S_IFMT` bits), 0 when not known.
        mode_type: u32,
        /// Whether the host should offer locks on it to the plugin.
        locks: bool,
    },
    /// The program's descriptor becomes this one; there is no handle.
    Native {
        /// The file itself.
        fd: OwnedFd,
        /// The file's type (`S_IFMT` bits), 0 when not known.
        mode_type: u32,
    },
}

impl<H> Open<H> {
    /// Served, and nothing more is known.
    pub fn served(handle: H) -> Self {
        Self::Served { handle, backing_fd: None, mode_type: 0, locks: true }
    }
}

/// One directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name; `.` and `..` are entries too.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// `DT_*`.
    pub d_type: u8,
    /// Where a later `readdir` goes on after this entry.
    pub next_cookie: u64,
}

/// Takes directory entries. `true` from `emit`: enough, return `Ok`.
pub type DirSink<'a> = dyn FnMut(DirEntry<'_>) -> bool + 'a;

/// What was written and where it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub count: usize,
    /// File offset after the last byte.
    pub end: u64,
}

/// Fills a blob of at most the host's buffer, and lists descriptors to keep.
#[derive(Debug)]
pub struct SaveSink<'a> {
    pub(crate) blob: &'a mut [u8],
    pub(crate) len: usize,
    pub(crate) keep: &'a mut [c_int],
    pub(crate) kept: usize,
}

impl<'a> SaveSink<'a> {
    /// Over the host's two buffers.
    pub fn new(blob: &'a mut [u8], keep: &'a mut [c_int]) -> Self {
        Self { blob, len: 0, keep, kept: 0 }
    }

    /// Appends to the blob. What does not fit is counted, and the whole save becomes `ERANGE`.
    pub fn write(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.blob.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
        }
        self.len = end;
    }

    /// Keeps a descriptor open across exec.
    pub fn keep(&mut self, fd: BorrowedFd<'_>) {
        if let Some(room) = self.keep.get_mut(self.kept) {
            *room = std::os::fd::AsRawFd::as_raw_fd(&fd);
        }
        self.kept += 1;
    }

    pub(crate) fn fits(&self) -> bool {
        self.len <= self.blob.len() && self.kept <= self.keep.len()
    }
}

/// A purpose for which a descriptor is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its pages are mapped into the program.
    Map,
    /// It is executed.
    Exec,
}

/// A file system. Everything but [`init`](Self::init), [`getattr`](Self::getattr), [`open`](Self::open) and
/// [`close`](Self::close) has a default.
///
/// Methods run on a thread of the program, inside one of its system calls, and several may run at once.
/// What the defaults mean is said at the member of [`abi::Table`] of the same name. A panic becomes `EIO`
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
    /// flock(2).
    fn flock(&self, handle: &Self::Handle, operation: c_int) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// Describes the handle for the next program image.
    fn save(&self, handle: &Self::Handle, sink: &mut SaveSink<'_>) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Makes a handle from [`save`](Self::save)'s blob; `fds` belong to the handle from here on, unless this
    /// fails.
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
}
