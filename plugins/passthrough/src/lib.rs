//! Serves a directory of the machine: every operation becomes the system call of the same meaning below it.
//!
//! Options: see [`Options`]. FIFOs, sockets and devices are always handed over to the program.
//!
//! No symbolic link is ever followed here: one in the middle of a path is answered with `ELOOP`, and the host
//! walks. Nothing leads out of the directory. An operation allocates nothing.

mod attributes;
mod kept;
mod locks;
mod open;
mod options;
mod resolve;
mod xattr;

use options::Options;
use plugin_abi::{
    CStr, Capabilities, DirEntry, DirSink, Errno, FileSystem, Host, InitError, MoreAttributes, MountPath,
    Open, Purpose, Result, SaveSink, SetAttr, Setup, Written, flock, stat, statfs,
};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom,
    fallocate, fstat, linkat, mkdirat, mknodat, openat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::ReadWriteFlags;
use std::ffi::{OsStr, c_int};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

plugin_abi::export_plugin!(Passthrough);

/// What `save` writes first; device and inode follow, to tell the kept descriptor from another one of its number.
const BLOB: &[u8] = b"passthrough 2";

/// One directory, served.
#[derive(Debug)]
pub struct Passthrough {
    root: OwnedFd,
    kept: kept::Kept,
    options: Options,
    host: Host,
}

impl FileSystem for Passthrough {
    /// An open file is its descriptor.
    type Handle = OwnedFd;

    const NAME: &'static CStr = c"passthrough";
    const CAPABILITIES: Capabilities = Capabilities::NATIVE_FD
        .union(Capabilities::RELOCATABLE)
        .union(Capabilities::BARE_FD)
        .union(Capabilities::APPEND)
        .union(Capabilities::UMASK)
        .union(Capabilities::CLOEXEC)
        .union(Capabilities::TELLS_LINKS);

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        let options = Options::parse(setup.options())?;
        let backend = OsStr::from_bytes(setup.backend.to_bytes()).display();
        if setup.backend.is_empty() {
            return Err(InitError::new(
                Errno::EINVAL,
                "the backend directory is missing: passthrough:DIRECTORY",
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, setup.backend, flags, Mode::empty()) {
            Ok(root) => {
                let kept = kept::Kept::new(root.as_fd());
                Ok(Self { root, kept, options, host: setup.host })
            }
            Err(errno) => {
                Err(InitError::new(errno.into(), format!("cannot use {backend} as the backend directory")))
            }
        }
    }

    fn getattr(&self, path: &MountPath) -> Result<stat> {
        let at = self.locate(path)?;
        Ok(attributes::from_rustix(rustix::fs::statat(at.dir(), at.name(), AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn fgetattr(&self, handle: &OwnedFd) -> Result<stat> {
        Ok(attributes::from_rustix(fstat(handle)?))
    }

    fn getmore(&self, path: &MountPath) -> Result<MoreAttributes> {
        let at = self.locate(path)?;
        attributes::more(at.dir(), at.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn fgetmore(&self, handle: &OwnedFd) -> Result<MoreAttributes> {
        attributes::more(handle.as_fd(), c"", AtFlags::EMPTY_PATH)
    }

    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        attributes::set_at(self, path, attr)
    }

    fn fsetattr(&self, handle: &OwnedFd, attr: &SetAttr) -> Result<()> {
        attributes::set(handle.as_fd(), attr)
    }

    fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<OwnedFd>> {
        let flags = flags as u32;
        let (asked, mode) = open::for_openat2(flags, mode);
        // O_TMPFILE has the bit of O_DIRECTORY: it names the directory in which it makes a file.
        let tmpfile = flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32;
        let directory = flags & libc::O_DIRECTORY as u32 != 0 && !tmpfile;
        if flags & libc::O_PATH as u32 != 0 || directory {
            return Ok(served(self.openat2(path.relative(), asked, mode)?, 0));
        }
        if tmpfile {
            // Never handed over: it gets its name by linkat, which is `EXDEV` between the program's own file and a mount.
            return Ok(served(self.openat2(path.relative(), asked, mode)?, libc::S_IFREG));
        }
        let fd = self.open_to_answer(path.relative(), asked, mode)?;
        let (native, mode_type) = open::is_native(fd.as_fd(), self.options.backing_fd, asked)?;
        if !native {
            return Ok(served(fd, mode_type));
        }
        // The program's own descriptor: its status flags are the program's, O_APPEND too.
        if flags & libc::O_APPEND as u32 != 0 {
            let status = rustix::fs::fcntl_getfl(&fd)? | OFlags::APPEND;
            rustix::fs::fcntl_setfl(&fd, status)?;
        }
        Ok(Open::Native { fd, mode_type })
    }

    fn close(&self, handle: OwnedFd) -> Result<()> {
        // SAFETY: the descriptor is owned and given up here; close(2)'s answer is of interest (EDQUOT, EIO).
        unsafe { rustix::io::try_close(handle.into_raw_fd()) }.map_err(Errno::from)
    }

    fn read(&self, handle: &OwnedFd, buf: &mut [u8], offset: u64) -> Result<usize> {
        Ok(rustix::io::pread(handle, buf, offset)?)
    }

    fn write(&self, handle: &OwnedFd, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        if append {
            return append_to(handle, &[IoSlice::new(buf)], offset);
        }
        let count = rustix::io::pwrite(handle, buf, offset)?;
        Ok(Written { count, end: offset + count as u64 })
    }

    fn readv(&self, handle: &OwnedFd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        Ok(rustix::io::preadv(handle, bufs, offset)?)
    }

    fn writev(&self, handle: &OwnedFd, bufs: &[IoSlice<'_>], offset: u64, append: bool) -> Result<Written> {
        if append {
            return append_to(handle, bufs, offset);
        }
        let count = rustix::io::pwritev(handle, bufs, offset)?;
        Ok(Written { count, end: offset + count as u64 })
    }

    fn fsync(&self, handle: &OwnedFd, datasync: bool) -> Result<()> {
        Ok(if datasync { rustix::fs::fdatasync(handle) } else { rustix::fs::fsync(handle) }?)
    }

    fn fallocate(&self, handle: &OwnedFd, mode: c_int, offset: u64, len: u64) -> Result<()> {
        Ok(fallocate(handle, FallocateFlags::from_bits_retain(mode as u32), offset, len)?)
    }

    fn lseek(&self, handle: &OwnedFd, offset: u64, whence: c_int) -> Result<u64> {
        let target = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::EINVAL),
        };
        Ok(rustix::fs::seek(handle, target)?)
    }

    fn copy_range(
        &self,
        source: &OwnedFd,
        from: u64,
        target: &OwnedFd,
        to: u64,
        len: usize,
    ) -> Result<usize> {
        let (mut from, mut to) = (from, to);
        Ok(rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len)?)
    }

    #[allow(
        clippy::large_stack_arrays,
        reason = "an eighth of the stack that there is, and nothing is allocated here"
    )]
    fn readdir(&self, handle: &OwnedFd, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        // As much as libc asks for at a time, so that one call of the program's is one here.
        let mut buf = [MaybeUninit::uninit(); 32 * 1024];
        rustix::fs::seek(handle, SeekFrom::Start(cookie))?;
        let mut entries = RawDir::new(handle, &mut buf);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let d_type = attributes::d_type(entry.file_type());
            if emit(DirEntry { name, ino: entry.ino(), d_type, next_cookie: entry.next_entry_cookie() }) {
                break;
            }
        }
        Ok(())
    }

    fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        let at = self.locate_entry(path, Errno::EEXIST)?;
        Ok(mkdirat(at.dir(), at.name(), Mode::from_raw_mode(mode))?)
    }

    fn rmdir(&self, path: &MountPath) -> Result<()> {
        let at = self.locate_entry(path, Errno::EBUSY)?;
        unlinkat(at.dir(), at.name(), AtFlags::REMOVEDIR)?;
        self.kept.forget(path.relative());
        Ok(())
    }

    fn unlink(&self, path: &MountPath) -> Result<()> {
        let at = self.locate_entry(path, Errno::EISDIR)?;
        Ok(unlinkat(at.dir(), at.name(), AtFlags::empty())?)
    }

    fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        let from = self.locate_entry(old, Errno::EBUSY)?;
        match (old.split(), new.split()) {
            (Some((one, _)), Some((other, name))) if one == other => {
                renameat_with(from.dir(), from.name(), from.dir(), name, flags)?;
            }
            _ => {
                let to = self.locate_entry(new, Errno::EBUSY)?;
                renameat_with(from.dir(), from.name(), to.dir(), to.name(), flags)?;
            }
        }
        self.kept.forget(old.relative());
        self.kept.forget(new.relative());
        Ok(())
    }

    fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        let (old, new) = (self.locate_entry(path, Errno::EPERM)?, self.locate_entry(new, Errno::EEXIST)?);
        Ok(linkat(old.dir(), old.name(), new.dir(), new.name(), AtFlags::empty())?)
    }

    fn flink(&self, handle: &OwnedFd, new: &MountPath) -> Result<()> {
        let new = self.locate_entry(new, Errno::EEXIST)?;
        // The direct way is for the privileged only; the way through /proc is what open(2) advises.
        match linkat(handle, c"", new.dir(), new.name(), AtFlags::EMPTY_PATH) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::PERM) => {
                let magic = resolve::ProcPath::of(handle.as_fd(), c"")?;
                Ok(linkat(CWD, magic.as_c_str(), new.dir(), new.name(), AtFlags::SYMLINK_FOLLOW)?)
            }
            answer => Ok(answer?),
        }
    }

    fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        let at = self.locate_entry(path, Errno::EEXIST)?;
        Ok(symlinkat(target, at.dir(), at.name())?)
    }

    fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let at = self.locate(path)?;
        Ok(rustix::fs::readlinkat_raw(at.dir(), at.name(), buf)?)
    }

    fn mknod(&self, path: &MountPath, mode: u32, dev: u64) -> Result<()> {
        let at = self.locate_entry(path, Errno::EEXIST)?;
        let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { mode & libc::S_IFMT };
        Ok(mknodat(
            at.dir(),
            at.name(),
            FileType::from_raw_mode(kind),
            Mode::from_raw_mode(mode & 0o7777),
            dev,
        )?)
    }

    fn access(&self, path: &MountPath, mode: c_int, flags: c_int) -> Result<()> {
        let at = self.locate(path)?;
        let mode = rustix::fs::Access::from_bits_retain(mode as u32);
        let flags = AtFlags::from_bits_retain(flags as u32);
        if !flags.contains(AtFlags::SYMLINK_NOFOLLOW) {
            at.expect_no_link()?;
        }
        let flags = flags & AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::accessat(at.dir(), at.name(), mode, flags)?)
    }

    fn statfs(&self, path: &MountPath) -> Result<statfs> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.openat2(path.relative(), flags, Mode::empty())?;
        Ok(attributes::statfs_from_rustix(rustix::fs::fstatfs(file)?))
    }

    fn fstatfs(&self, handle: &OwnedFd) -> Result<statfs> {
        Ok(attributes::statfs_from_rustix(rustix::fs::fstatfs(handle)?))
    }

    fn syncfs(&self) -> Result<()> {
        // The root is held by O_PATH, which syncfs does not take.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::syncfs(openat(&self.root, c".", flags, Mode::empty())?)?)
    }

    fn getxattr(&self, path: &MountPath, name: &CStr, value: &mut [u8]) -> Result<usize> {
        xattr::get(&self.locate(path)?, name, value)
    }

    fn setxattr(&self, path: &MountPath, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        xattr::set(&self.locate(path)?, name, value, flags)
    }

    fn listxattr(&self, path: &MountPath, list: &mut [u8]) -> Result<usize> {
        xattr::list(&self.locate(path)?, list)
    }

    fn removexattr(&self, path: &MountPath, name: &CStr) -> Result<()> {
        xattr::remove(&self.locate(path)?, name)
    }

    fn fgetxattr(&self, handle: &OwnedFd, name: &CStr, value: &mut [u8]) -> Result<usize> {
        xattr::fget(handle.as_fd(), name, value)
    }

    fn fsetxattr(&self, handle: &OwnedFd, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        let flags = rustix::fs::XattrFlags::from_bits_retain(flags as u32);
        Ok(rustix::fs::fsetxattr(handle, name, value, flags)?)
    }

    fn flistxattr(&self, handle: &OwnedFd, list: &mut [u8]) -> Result<usize> {
        xattr::flist(handle.as_fd(), list)
    }

    fn fremovexattr(&self, handle: &OwnedFd, name: &CStr) -> Result<()> {
        Ok(rustix::fs::fremovexattr(handle, name)?)
    }

    fn lock(&self, handle: &OwnedFd, cmd: c_int, lock: &mut flock) -> Result<()> {
        if self.options.locks { locks::record(handle.as_fd(), cmd, lock) } else { Err(Errno::ENOSYS) }
    }

    fn flock(&self, handle: &OwnedFd, operation: c_int) -> Result<()> {
        if self.options.locks { locks::whole_file(handle.as_fd(), operation) } else { Err(Errno::ENOSYS) }
    }

    fn save(&self, handle: &OwnedFd, sink: &mut SaveSink<'_>) -> Result<()> {
        sink.write(&blob(&fstat(handle)?));
        sink.keep(handle.as_fd());
        Ok(())
    }

    fn restore(&self, described: &[u8], fds: &[c_int]) -> Result<Open<OwnedFd>> {
        let &[fd] = fds else { return Err(Errno::EINVAL) };
        if fd < 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: only asks what the number is; a closed one is answered with an error.
        let found = fstat(unsafe { BorrowedFd::borrow_raw(fd) })?;
        // Without a description it is the very descriptor that `open` made.
        if !described.is_empty() && described != self::blob(&found) {
            return Err(Errno::ESTALE);
        }
        let mode = found.st_mode;
        // SAFETY: it is open, and the host gives it to the handle.
        Ok(served(unsafe { OwnedFd::from_raw_fd(fd) }, mode & libc::S_IFMT))
    }

    fn backing_fd<'a>(&'a self, handle: &'a OwnedFd, purpose: Purpose) -> Result<BorrowedFd<'a>> {
        if purpose == Purpose::Map && !self.options.lends {
            return Err(Errno::ENOSYS);
        }
        Ok(handle.as_fd())
    }

    fn move_fd(&self, handle: OwnedFd, new_fd: c_int) -> OwnedFd {
        let _moved_away = handle.into_raw_fd();
        // SAFETY: the host moved the handle's file to this number and says that it belongs to the handle.
        unsafe { OwnedFd::from_raw_fd(new_fd) }
    }

    fn reopen(&self, handle: &OwnedFd, flags: c_int) -> Result<Open<OwnedFd>> {
        let asked = OFlags::from_bits_retain(flags as u32 & !(libc::O_NOFOLLOW as u32));
        let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let fd = rustix::fs::openat(rustix::fs::CWD, name.as_str(), asked - OFlags::APPEND, Mode::empty())?;
        let mode_type = fstat(&fd)?.st_mode & libc::S_IFMT;
        Ok(served(fd, mode_type))
    }

    unsafe fn ioctl(&self, handle: &OwnedFd, request: u64, arg: *mut libc::c_void) -> Result<c_int> {
        // SAFETY: the caller vouches for `arg`, as for the system call itself.
        let result = unsafe { libc::ioctl(handle.as_raw_fd(), request, arg) };
        if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(result) }
    }
}

impl Passthrough {
    /// Opens below the root; any symbolic link on the way is `ELOOP`. That alone keeps it below, since a path of a mount has
    /// no `..`, and without `RESOLVE_BENEATH` the kernel need not look whether it did, which takes a fifth of the time.
    fn openat2(&self, relative: &CStr, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(&self.root, relative, flags, mode, ResolveFlags::NO_SYMLINKS)
    }

    /// As [`openat2`](Self::openat2), for what `open` answers with.
    fn open_to_answer(&self, relative: &CStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let (root, resolve) = (self.root.as_fd(), ResolveFlags::NO_SYMLINKS.bits());
        // What rustix adds as well.
        let asked = u64::from((flags | OFlags::LARGEFILE).bits());
        match self.host.openat2(root, relative, asked, mode.bits().into(), resolve) {
            Some(opened) => opened,
            None => Ok(self.openat2(relative, flags, mode)?),
        }
    }
}

/// What identifies an open file to the next image.
fn blob(stat: &rustix::fs::Stat) -> Vec<u8> {
    [BLOB, &stat.st_dev.to_ne_bytes(), &stat.st_ino.to_ne_bytes()].concat()
}

fn served(fd: OwnedFd, mode_type: u32) -> Open<OwnedFd> {
    let backing_fd = Some(fd.as_raw_fd());
    Open::Served { handle: fd, backing_fd, mode_type, locks: true }
}

/// The kernel finds the end and writes there in one step. It moves the descriptor's own offset, which
/// nothing else uses, to where the write ended.
fn append_to(handle: &OwnedFd, bufs: &[IoSlice<'_>], offset: u64) -> Result<Written> {
    const AT_OWN_OFFSET: u64 = u64::MAX;
    let count = rustix::io::pwritev2(handle, bufs, AT_OWN_OFFSET, ReadWriteFlags::APPEND)?;
    let end = if count == 0 { offset } else { rustix::fs::tell(handle)? };
    Ok(Written { count, end })
}
