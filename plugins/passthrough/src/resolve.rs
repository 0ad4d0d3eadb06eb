//! From a path to a directory descriptor and a name, without following a symbolic link.

use crate::Passthrough;
use crate::kept::InUse;
use core::ffi::CStr;
use core::fmt::Write;
use plugin_abi::{Errno, MountPath, Result};
use rustix::fs::{Mode, OFlags, readlinkat_raw};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The longest path the kernel takes, its NUL counted.
const PATH_MAX: usize = 4096;
/// Long enough for most: clearing room for all would take as long as a short system call.
const USUAL: usize = 256;

/// A name in a directory that is held open.
#[derive(Debug)]
pub(crate) struct Located<'a> {
    dir: Directory<'a>,
    name: &'a CStr,
}

#[derive(Debug)]
enum Directory<'a> {
    Root(BorrowedFd<'a>),
    Kept(InUse<'a>),
    Opened(OwnedFd),
}

impl Located<'_> {
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        match &self.dir {
            Directory::Root(root) => *root,
            Directory::Kept(dir) => dir.as_fd(),
            Directory::Opened(dir) => dir.as_fd(),
        }
    }

    pub(crate) fn name(&self) -> &CStr {
        self.name
    }

    /// `ELOOP` if a symbolic link is there.
    pub(crate) fn expect_no_link(&self) -> Result<()> {
        let mut byte = [0_u8; 1];
        // Sooner answered than what else tells a link.
        match readlinkat_raw(self.dir(), self.name(), &mut byte) {
            Ok(_) => Err(Errno::ELOOP),
            Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Passthrough {
    /// For one component the root itself serves; for more the parent is opened, if it is not kept, `ELOOP` when a symbolic link
    /// is on the way.
    pub(crate) fn locate<'a>(&'a self, path: &'a MountPath) -> Result<Located<'a>> {
        let root = Directory::Root(self.root.as_fd());
        let Some((parent, name)) = path.split() else { return Ok(Located { dir: root, name: c"." }) };
        let dir = match parent.len() {
            0 => root,
            1..USUAL => self.directory(&mut [0; USUAL], parent)?,
            _ => self.directory(&mut [0; PATH_MAX], parent)?,
        };
        Ok(Located { dir, name })
    }

    /// As `locate`, for what makes or removes a name: the root has none, and is answered with `for_root`.
    pub(crate) fn locate_entry<'a>(&'a self, path: &'a MountPath, for_root: Errno) -> Result<Located<'a>> {
        if path.is_root() { Err(for_root) } else { self.locate(path) }
    }

    /// The directory at `path`, which is put into `room` to have its NUL.
    fn directory(&self, room: &mut [u8], path: &[u8]) -> Result<Directory<'_>> {
        let room = room.get_mut(..=path.len()).ok_or(Errno::ENAMETOOLONG)?;
        room[..path.len()].copy_from_slice(path);
        let path = CStr::from_bytes_with_nul(room).map_err(|_| Errno::EINVAL)?;
        let open = || self.openat2(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        if self.host.may_keep_descriptors() {
            if let Some(kept) = self.kept.find(self.root.as_fd(), path) {
                return Ok(Directory::Kept(kept));
            }
            if self.kept.wants(path) {
                let opened = open()?;
                // Asked again: the host may have no place for it out of the program's sight.
                if self.host.may_keep_descriptors()
                    && let Some(kept) = self.kept.keep(path, opened)
                {
                    return Ok(Directory::Kept(kept));
                }
            }
        }
        Ok(Directory::Opened(self.host.briefly(open)?))
    }
}

/// `/proc/thread-self/fd/N/name`: a path for calls that have no `*at` form.
pub(crate) struct ProcPath {
    bytes: [u8; PATH_MAX],
    len: usize,
}

impl ProcPath {
    /// Of `name` in `dir`, or of `dir` itself when `name` is empty.
    pub(crate) fn of(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let mut path = Self { bytes: [0; PATH_MAX], len: 0 };
        write!(path, "/proc/thread-self/fd/{}", dir.as_raw_fd()).map_err(|_| Errno::ENAMETOOLONG)?;
        if !name.is_empty() {
            path.push(b"/")?;
            path.push(name.to_bytes())?;
        }
        Ok(path)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[..=self.len]).unwrap_or(c"")
    }

    fn push(&mut self, piece: &[u8]) -> Result<()> {
        let end = self.len + piece.len();
        // One byte stays for the NUL.
        if end >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.len..end].copy_from_slice(piece);
        self.len = end;
        Ok(())
    }
}

impl Write for ProcPath {
    fn write_str(&mut self, piece: &str) -> core::fmt::Result {
        self.push(piece.as_bytes()).map_err(|_| core::fmt::Error)
    }
}
