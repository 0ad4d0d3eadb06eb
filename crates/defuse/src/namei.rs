//! From the path arguments of a system call to where they lead: on a mount, or the kernel's business.

use std::cell::Cell;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use interpose::usercopy::{self, CstrError};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::file::{self, FileRef, Owner};
use crate::process::{Cwd, Process};
use crate::resolve::{self, PATH_MAX, PathBytes, Place, Walk};
use crate::{native, private_fd, working_directory};

mod links;
mod spot;

use links::{NamespaceLinks, read_kernel_link};

pub use spot::Spot;

pub use crate::openat2::{NO_SYMLINKS, OpenHow, look_how, may_meet_link, open_waiting};

/// What paths begin with whose links read differently for us and for the kernel, or may: see [`magic_link`] and [`proc_fd`].
pub const MAGIC_PREFIXES: [&[u8]; 3] = [b"/proc", b"/dev/fd", b"/dev/std"];

/// Whether a path that begins at the directory `path` (canonical) may come to begin with one of [`MAGIC_PREFIXES`].
pub fn is_above_magic(path: &[u8]) -> bool {
    let path = if path == b"/" { b"" } else { path };
    MAGIC_PREFIXES
        .iter()
        .any(|prefix| prefix.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/')))
}

/// Where a path argument leads.
pub enum Located {
    /// On a mount.
    Served(Spot),
    /// The kernel's. If the kernel would not get there by the program's own words, the path it is to use.
    Native(Option<PathBytes>),
}

/// A path argument of the program: the directory it is relative to, and its text.
#[derive(Clone)]
pub struct PathArgument {
    /// `AT_FDCWD` or an FD.
    pub dirfd: RawFd,
    /// The text, without the NUL.
    pub text: PathBytes,
}

/// What a path ends in, after slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// A name.
    Name,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// Nothing: the path is all slashes.
    Root,
}

impl PathArgument {
    /// What the path ends in.
    pub fn last(&self) -> Last {
        let trimmed = self.text.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        let start = self.text[..trimmed].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        match &self.text[start..trimmed] {
            b"" => Last::Root,
            b"." => Last::Dot,
            b".." => Last::DotDot,
            _ => Last::Name,
        }
    }

    /// The path without the slashes at its end.
    pub fn without_slashes(&self) -> PathBytes {
        let mut text = self.text.clone();
        let trimmed = text.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        text.truncate(trimmed.max(1));
        text
    }

    /// The path of the directory that the last component is looked up in.
    pub fn parent(&self) -> PathBytes {
        let mut text = self.without_slashes();
        let slash = text.iter().rposition(|&byte| byte == b'/');
        text.truncate(slash.map_or(0, |at| at + 1));
        if text.is_empty() {
            // There is room: a path is at least one byte long.
            let _ = text.try_push(b'.');
        }
        text
    }

    /// Reads the path at `pointer` in the program's memory.
    pub fn read(dirfd: RawFd, pointer: u64) -> Result<Self, Errno> {
        let mut buffer = [MaybeUninit::uninit(); PATH_MAX];
        let text = usercopy::read_cstr(pointer, &mut buffer).map_err(|error| match error {
            CstrError::Efault => Errno::FAULT,
            CstrError::TooLong => Errno::NAMETOOLONG,
        })?;
        let text = PathBytes::try_from(text).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(Self { dirfd, text })
    }

    /// The working directory.
    pub fn here() -> Result<Self, Errno> {
        Ok(Self { dirfd: sys::AT_FDCWD, text: PathBytes::try_from(b".".as_slice())? })
    }

    /// As it was read, or relative to the working directory.
    pub fn is_absolute(&self) -> bool {
        self.text.first() == Some(&b'/')
    }

    /// Where the path leads, going by the text alone; symbolic links are met later, as `ELOOP`.
    pub fn locate(&self, process: &'static Process) -> Result<Located, Errno> {
        self.find(process, true, Walk::plain(false))
    }

    /// Where the path leads with every symbolic link on the way read, the last one too if `follow`.
    pub fn walk(&self, process: &'static Process, follow: bool) -> Result<Located, Errno> {
        self.walk_with(process, Walk::plain(follow))
    }

    /// As [`walk`](Self::walk), with more to say.
    pub fn walk_with(&self, process: &'static Process, walk: Walk) -> Result<Located, Errno> {
        self.find(process, false, walk)
    }

    /// Runs `operation` where the path leads, walking when a symbolic link is met. `follow` tells whether a link in
    /// the last component is followed; `operation` answers `ELOOP` when it finds one where it must not be.
    pub fn perform<R>(
        &self,
        process: &'static Process,
        follow: bool,
        operation: impl FnMut(&Spot) -> Result<R, Errno>,
    ) -> Result<Performed<R>, Errno> {
        self.perform_with(process, Walk::plain(follow), operation)
    }

    /// As [`perform`](Self::perform), with more to say.
    pub fn perform_with<R>(
        &self,
        process: &'static Process,
        walk: Walk,
        mut operation: impl FnMut(&Spot) -> Result<R, Errno>,
    ) -> Result<Performed<R>, Errno> {
        match self.find(process, !self.is_magic(), walk)? {
            Located::Native(path) => return Ok(Performed::Native(path)),
            Located::Served(spot) => match operation(&spot) {
                Err(Errno::LOOP) => {}
                other => return other.map(Performed::Served),
            },
        }
        match self.walk_with(process, walk)? {
            Located::Native(path) => Ok(Performed::Native(path)),
            Located::Served(spot) => operation(&spot).map(Performed::Served),
        }
    }

    /// Whether the path begins in /proc, whose links to what is served read differently for us and for the kernel.
    pub fn is_magic(&self) -> bool {
        self.text.starts_with(b"/proc/")
    }

    /// Whether the kernel, given this path as it is, may meet a symbolic link; with `follow` also as the last component. See
    /// [`may_meet_link`].
    pub fn may_meet_link(&self, follow: bool) -> bool {
        may_meet_link(self.dirfd, &self.text, follow)
    }

    /// Where the path leads: with `by_text` by that alone, as far as it tells.
    fn find(&self, process: &'static Process, by_text: bool, walk: Walk) -> Result<Located, Errno> {
        if self.text.is_empty() {
            return Err(Errno::NOENT);
        }
        if by_text && self.is_absolute() && resolve::is_plain(&self.text) {
            // As `lexical` would answer, without a copy of the path.
            return match resolve::located(&process.table, &self.text) {
                Some((mount, below)) => Ok(Located::Served(Spot::new(
                    &process.mounts[mount],
                    PathBytes::try_from(below)?,
                    false,
                )?)),
                None => Ok(Located::Native(None)),
            };
        }
        let base = match self.base(process)? {
            Base::Path(path) => path,
            Base::Elsewhere if by_text && !has_dot_dot(&self.text) => {
                return Ok(Located::Native(None));
            }
            Base::Elsewhere => match fd_path(self.dirfd) {
                // With the path of anything else `..` would lead to the directory that it is in.
                Ok(_) if !native::fstat(self.dirfd).is_ok_and(|found| is_directory(&found)) => {
                    return Err(Errno::NOTDIR);
                }
                Ok(path) => path,
                Err(_) => return Ok(Located::Native(None)),
            },
        };
        let links = NamespaceLinks { process, magic: walk.magic, differs: Cell::new(false) };
        let told =
            if by_text { resolve::lexical(&process.table, &base, &self.text)? } else { Place::Unclear };
        let place = match told {
            Place::Unclear => resolve::walk(&process.table, &links, &base, &self.text, walk)?,
            clear => clear,
        };
        match place {
            Place::Inside { mount, path, directory } => {
                let mut spot = Spot::new(&process.mounts[mount], path, directory)?;
                spot.dot = !matches!(self.last(), Last::Name);
                Ok(Located::Served(spot))
            }
            Place::Outside { path, rewritten } => {
                Ok(Located::Native((rewritten || links.differs.get()).then_some(path)))
            }
            Place::Unclear => Err(Errno::LOOP),
        }
    }

    /// Whether a name is looked up in the directory that a relative path starts from.
    fn goes_down(&self) -> bool {
        let mut names = self.text.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        names.next().is_some_and(|name| name != b"..")
    }

    /// The canonical directory that a relative path starts from; `ENOENT` if it was removed, so that nothing is in it.
    fn base(&self, process: &'static Process) -> Result<Base, Errno> {
        if self.is_absolute() {
            return Ok(Base::Path(PathBytes::new()));
        }
        if self.dirfd == sys::AT_FDCWD {
            return if self.goes_down() && working_directory::is_removed(process) {
                Err(Errno::NOENT)
            } else {
                Ok(Base::Path(working_path(process)?))
            };
        }
        if private_fd::is_hidden(self.dirfd) {
            return Err(Errno::BADF);
        }
        match file::owner(process, self.dirfd) {
            Owner::Served(file) if !file.is_directory()? => Err(Errno::NOTDIR),
            Owner::Served(file) if self.goes_down() && file.is_removed() => Err(Errno::NOENT),
            Owner::Served(file) => Ok(Base::Path(file.absolute_path()?)),
            Owner::Ancestor => Ok(fd_path(self.dirfd).map_or(Base::Elsewhere, Base::Path)),
            Owner::Foreign | Owner::Closed => Ok(Base::Elsewhere),
        }
    }
}

/// What became of an operation on a path.
#[allow(clippy::large_enum_variant, reason = "paths live on the stack: nothing is allocated for a look-up")]
pub enum Performed<R> {
    /// Done by a plugin.
    Served(R),
    /// The kernel's, with the path to use if not the program's own.
    Native(Option<PathBytes>),
}

#[allow(clippy::large_enum_variant, reason = "paths live on the stack: nothing is allocated for a look-up")]
enum Base {
    Path(PathBytes),
    /// A directory of the kernel's that is not above any mount point, or whose path nothing tells: in a new root
    /// without /proc (chroot, pivot_root) the kernel alone knows what is below it.
    Elsewhere,
}

/// The canonical absolute path of the working directory.
pub fn working_path(process: &'static Process) -> Result<PathBytes, Errno> {
    let changes = process.cwd_changes.load(Ordering::Relaxed);
    let known = process.with_cwd(|cwd| match cwd {
        // Known is where it was.
        Cwd::Native(_) if process.in_chdir.load(Ordering::SeqCst) != 0 => None,
        Cwd::Native(path) => Some(Ok(path.clone())),
        Cwd::Served { mount, path, held } => {
            let now = held.as_ref().and_then(|held| held.path().ok());
            Some(absolute(process, *mount, now.as_ref().unwrap_or(path)))
        }
        Cwd::Unknown => None,
    });
    if let Some(path) = known {
        return path;
    }
    let path = kernel_cwd()?;
    process.learn_cwd(path.clone(), changes);
    Ok(path)
}

/// `.` on a mount: the very directory that the path is relative to, wherever its name is now.
pub fn directory_itself(process: &'static Process, argument: &PathArgument) -> Option<FileRef> {
    if !matches!(argument.text.as_slice(), b"." | b"./") {
        return None;
    }
    if argument.dirfd == sys::AT_FDCWD {
        return working_file(process);
    }
    file::served(process, argument.dirfd).filter(|file| file.is_directory().unwrap_or(false))
}

/// What a call with an empty path is about: an FD, or the working directory; if that is on a mount.
pub fn open_at(process: &'static Process, fd: RawFd) -> Option<FileRef> {
    if fd == sys::AT_FDCWD { working_file(process) } else { file::served(process, fd) }
}

/// The working directory as an open file, if it lies on a mount.
pub fn working_file(process: &'static Process) -> Option<FileRef> {
    working_directory::held(process)?.file().map(FileRef::WorkingDirectory)
}

/// The absolute path of `below` on mount number `mount`.
pub fn absolute(process: &Process, mount: usize, below: &[u8]) -> Result<PathBytes, Errno> {
    let mut path = PathBytes::try_from(process.table.point(mount)).map_err(|_| Errno::NAMETOOLONG)?;
    if below != b"/" {
        path.try_extend_from_slice(below).map_err(|_| Errno::NAMETOOLONG)?;
    }
    Ok(path)
}

fn kernel_cwd() -> Result<PathBytes, Errno> {
    let mut buffer = [0u8; PATH_MAX];
    let length =
        native::checked(sys::__NR_getcwd, [buffer.as_mut_ptr() as u64, PATH_MAX as u64, 0, 0, 0, 0])?;
    // Unreachable directories read as "(unreachable)/...", unlinked ones fail: neither leads to a mount.
    PathBytes::try_from(&buffer[..(length as usize).saturating_sub(1)]).map_err(|_| Errno::NAMETOOLONG)
}

/// The path of the directory behind a kernel FD.
pub fn fd_path(fd: RawFd) -> Result<PathBytes, Errno> {
    if fd == sys::AT_FDCWD {
        return kernel_cwd();
    }
    let mut link = ArrayVec::<u8, 32>::new();
    write!(link, "/proc/self/fd/{fd}\0").map_err(|_| Errno::BADF)?;
    let mut path = PathBytes::new();
    read_kernel_link(link.as_ptr(), &mut path).map_err(|_| Errno::BADF)?;
    Ok(path)
}

/// `ENOTDIR` (or why it cannot be known) unless the kernel has a directory there.
pub fn expect_directory(dirfd: RawFd, path: &[u8]) -> Result<(), Errno> {
    let found = native::stat_path(dirfd, path, true)?;
    if is_directory(&found) { Ok(()) } else { Err(Errno::NOTDIR) }
}

fn is_directory(found: &sys::stat) -> bool {
    found.st_mode & sys::S_IFMT == sys::S_IFDIR
}

/// Whether a component of the path is `..`.
pub fn has_dot_dot(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| name == b"..")
}
