//! From the path arguments of a system call to where they lead: on a mount, or the kernel's business.

use std::cell::Cell;
use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use interpose::usercopy::{self, CstrError};
use linux_raw_sys::general as sys;
use plugin_abi::{Instance, MountPath};
use rustix::io::Errno;

use crate::file::{self, FileRef, Owner, plugin_errno};
use crate::mount::Mount;
use crate::process::{Cwd, Process};
use crate::resolve::{self, Links, PATH_MAX, PathBytes, Place, Walk};
use crate::{native, private_fd, working_directory};

pub use crate::openat2::{NO_SYMLINKS, OpenHow, look_how, open_waiting, why_not};

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

/// A place on a mount.
pub struct Spot {
    /// The mount.
    pub mount: &'static Mount,
    /// Path below its point, NUL-terminated.
    path: PathBytes,
    /// The program's text demands a directory.
    pub directory: bool,
    /// The program's text ends in `.` or `..`.
    pub dot: bool,
}

impl Spot {
    /// The place at `path` (begins with `/`, normalised) on `mount`.
    pub fn new(mount: &'static Mount, mut path: PathBytes, directory: bool) -> Result<Self, Errno> {
        path.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(Self { mount, path, directory, dot: false })
    }

    /// Path below the mount point.
    pub fn path(&self) -> &MountPath {
        // A path comes from a C string or a link's target, without its NUL.
        MountPath::from_normalised(CStr::from_bytes_until_nul(&self.path).unwrap_or(c"/"))
    }

    /// Runs an operation of the plugin here.
    pub fn call<R>(
        &self,
        operation: impl FnOnce(&Instance, &MountPath) -> plugin_abi::Result<R>,
    ) -> Result<R, Errno> {
        operation(self.mount.instance()?, self.path()).map_err(plugin_errno)
    }

    /// Why nothing can be looked up in the directory that it lies in, if so.
    pub fn check_parent(&self) -> Result<(), Errno> {
        let text = self.path().as_bytes();
        let slash = text.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let parent = PathBytes::try_from(&text[..slash.max(1)]).map_err(|_| Errno::NAMETOOLONG)?;
        Self::new(self.mount, parent, true)?.check_directory()
    }

    /// Whether it is the mount point itself.
    pub fn is_root(&self) -> bool {
        self.path.as_slice() == b"/\0"
    }

    /// `ENOTDIR` if the text demands a directory and there is something else.
    pub fn check_directory(&self) -> Result<(), Errno> {
        if !self.directory || self.is_root() {
            return Ok(());
        }
        let mode = self.call(Instance::getattr)?.st_mode;
        match mode & sys::S_IFMT {
            sys::S_IFDIR => Ok(()),
            sys::S_IFLNK => Err(Errno::LOOP),
            _ => Err(Errno::NOTDIR),
        }
    }
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
        self.find(process, None)
    }

    /// Where the path leads with every symbolic link on the way read, the last one too if `follow`.
    pub fn walk(&self, process: &'static Process, follow: bool) -> Result<Located, Errno> {
        self.walk_with(process, Walk::plain(follow))
    }

    /// As [`walk`](Self::walk), with more to say.
    pub fn walk_with(&self, process: &'static Process, walk: Walk) -> Result<Located, Errno> {
        self.find(process, Some(walk))
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
        let first = if self.is_magic() { self.walk_with(process, walk) } else { self.locate(process) };
        match first? {
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

    /// Whether the kernel, given this path as it is, would meet a symbolic link; with `follow` also as the last component.
    pub fn meets_link(&self, follow: bool) -> bool {
        why_not(self.dirfd, &self.text, follow) == Errno::LOOP
    }

    fn find(&self, process: &'static Process, walk: Option<Walk>) -> Result<Located, Errno> {
        if self.text.is_empty() {
            return Err(Errno::NOENT);
        }
        if walk.is_none() && self.is_absolute() && resolve::is_plain(&self.text) {
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
            Base::Elsewhere if walk.is_none() && !has_dot_dot(&self.text) => {
                return Ok(Located::Native(None));
            }
            Base::Elsewhere => match fd_path(self.dirfd) {
                Ok(path) => path,
                Err(_) => return Ok(Located::Native(None)),
            },
        };
        let magic = walk.is_none_or(|walk| walk.magic);
        let links = NamespaceLinks { process, magic, differs: Cell::new(false) };
        let place = match walk {
            None => match resolve::lexical(&process.table, &base, &self.text)? {
                Place::Unclear => {
                    resolve::walk(&process.table, &links, &base, &self.text, Walk::plain(false))?
                }
                clear => clear,
            },
            Some(walk) => resolve::walk(&process.table, &links, &base, &self.text, walk)?,
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

/// Whether a component of the path is `..`.
pub fn has_dot_dot(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| name == b"..")
}

/// Reads the link at the NUL-terminated `path`.
fn read_kernel_link(path: *const u8, target: &mut PathBytes) -> Result<(), Errno> {
    let mut buffer = [0u8; PATH_MAX];
    let length = native::checked(
        sys::__NR_readlink,
        [path as u64, buffer.as_mut_ptr() as u64, PATH_MAX as u64 - 1, 0, 0, 0],
    )?;
    target.clear();
    target.try_extend_from_slice(&buffer[..length as usize]).map_err(|_| Errno::NAMETOOLONG)
}

/// Links as this process sees them: those on mounts from the plugins, the others from the kernel.
struct NamespaceLinks {
    process: &'static Process,
    /// Those of /proc that only the kernel can read are followed.
    magic: bool,
    /// A link was met that the kernel reads differently.
    differs: Cell<bool>,
}

impl Links for NamespaceLinks {
    fn read(&self, path: &[u8], inside: Option<(usize, &[u8])>, target: &mut PathBytes) -> Result<(), Errno> {
        if let Some((mount, below)) = inside {
            let spot = Spot::new(
                &self.process.mounts[mount],
                PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?,
                false,
            )?;
            let mut buffer = [0u8; PATH_MAX];
            let length = spot.call(|instance, path| instance.readlink(path, &mut buffer[..PATH_MAX - 1]))?;
            return target.try_extend_from_slice(&buffer[..length]).map_err(|_| Errno::NAMETOOLONG);
        }
        if let Some(served) = crate::proc_links::magic_link(self.process, path)? {
            if !self.magic {
                return Err(Errno::LOOP);
            }
            self.differs.set(true);
            return target.try_extend_from_slice(&served).map_err(|_| Errno::NAMETOOLONG);
        }
        let mut name = PathBytes::try_from(path).map_err(|_| Errno::NAMETOOLONG)?;
        name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        read_kernel_link(name.as_ptr(), target)?;
        if path.starts_with(b"/proc/") && target.first() != Some(&b'/') && !path.ends_with(b"self") {
            return Err(Errno::INVAL); // A magic link: its text is no path, only the kernel can follow it.
        }
        if path.starts_with(b"/proc/") && target.first() == Some(&b'/') && !self.magic {
            return Err(Errno::LOOP);
        }
        Ok(())
    }

    fn expect_directory(&self, path: &[u8], inside: Option<(usize, &[u8])>) -> Result<(), Errno> {
        if let Some((mount, below)) = inside {
            let below = PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?;
            return Spot::new(&self.process.mounts[mount], below, true)?.check_directory();
        }
        let how = OpenHow {
            flags: u64::from(sys::O_PATH | sys::O_CLOEXEC | sys::O_DIRECTORY),
            mode: 0,
            resolve: 0,
        };
        let fd = look_how(sys::AT_FDCWD, path, &how)?;
        native::close(fd);
        Ok(())
    }
}
