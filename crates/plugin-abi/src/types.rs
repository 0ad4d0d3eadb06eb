//! What travels between the trait, the shims and the host.

use crate::abi;
use crate::errno::Errno;
use crate::host::Host;
use core::ffi::{CStr, c_int};
use libc::{stat, statfs, timespec};
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
        /// A handle is its descriptor and nothing else: `restore` makes it from that alone.
        const BARE_FD = abi::DEFUSE_CAP_BARE_FD;
        /// `open` makes descriptors that exec closes exactly where it gets `O_CLOEXEC`; otherwise it is not told.
        const CLOEXEC = abi::DEFUSE_CAP_CLOEXEC;
        /// `access` without `AT_SYMLINK_NOFOLLOW`, and `setattr` with [`SetAttr::no_link`], answer `ELOOP` for a symbolic link.
        const TELLS_LINKS = abi::DEFUSE_CAP_TELLS_LINKS;
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
    /// Nothing to set: a symbolic link is to be answered with `ELOOP`. Only with [`Capabilities::TELLS_LINKS`].
    pub no_link: bool,
}

/// What statx(2) tells beyond `struct stat`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MoreAttributes {
    /// When the file was made.
    pub birth: Option<timespec>,
    /// `STATX_ATTR_*` bits that are set.
    pub attributes: u64,
    /// Those that the file system knows.
    pub attributes_mask: u64,
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
    /// Its status flags (`O_DIRECT`, `O_NOATIME`) are changed, as `F_SETFL` was asked for: the descriptor by which the handle reads
    /// and writes, if it is the handle's alone.
    Flags,
}
