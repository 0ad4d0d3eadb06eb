//! openat2(2) on the kernel's name space.

use std::os::fd::RawFd;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::resolve::PATH_MAX;
use crate::{native, nofile};

/// openat2(2)'s argument.
#[repr(C)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: u64,
    /// Permission bits for what is created.
    pub mode: u64,
    /// `RESOLVE_*`.
    pub resolve: u64,
}

/// `RESOLVE_NO_SYMLINKS`.
pub const NO_SYMLINKS: u64 = sys::RESOLVE_NO_SYMLINKS as u64;

/// As [`open_how`], for a look: the FD is closed before the call is over, and may have any number.
pub fn look_how(dirfd: RawFd, path: &[u8], how: &OpenHow) -> Result<RawFd, Errno> {
    match open_how(dirfd, path, how) {
        Err(Errno::MFILE) => nofile::with_room(|| open_how(dirfd, path, how)),
        result => result,
    }
}

/// Whether there is something: `ELOOP` if there is a symbolic link on the way (with `follow` also as the last component), `ENOENT`, `ENOTDIR`. As a
/// look-up does, and no other open, this leaves an automount point that the path names alone. Where there is something, it takes as long as to open and to close.
pub fn look(dirfd: RawFd, path: &[u8], follow: bool) -> Result<(), Errno> {
    let nofollow = if follow { 0 } else { sys::O_NOFOLLOW };
    let flags = u64::from(sys::O_PATH | sys::O_CLOEXEC | nofollow);
    let fd = look_how(dirfd, path, &OpenHow { flags, mode: 0, resolve: NO_SYMLINKS })?;
    native::close(fd);
    Ok(())
}

/// Why the path cannot be opened in a way that never succeeds: `ELOOP` if there is a symbolic link on the way (with `follow` also as the
/// last component), `EISDIR` for a directory, `ENOTDIR` for anything else or if that is on the way, `ENOENT`. No descriptor is made, so this takes less than to
/// open and to close.
pub fn why_not(dirfd: RawFd, path: &[u8], follow: bool) -> Errno {
    // A directory cannot be opened for writing, and nothing else can as a directory; both is found before rights and open files matter.
    let nofollow = if follow { 0 } else { sys::O_NOFOLLOW };
    let flags = u64::from(sys::O_WRONLY | sys::O_DIRECTORY | sys::O_CLOEXEC | nofollow);
    match look_how(dirfd, path, &OpenHow { flags, mode: 0, resolve: NO_SYMLINKS }) {
        Ok(fd) => {
            native::close(fd);
            Errno::ISDIR
        }
        Err(error) => error,
    }
}

/// Whether there may be a symbolic link on the way (with `follow` also as the last component): also if it cannot be told, as there is no such call, or
/// a filter of the program's forbids it with any error that it likes.
pub fn may_meet_link(dirfd: RawFd, path: &[u8], follow: bool) -> bool {
    !matches!(why_not(dirfd, path, follow), Errno::ISDIR | Errno::NOTDIR | Errno::NOENT)
}

/// openat2(2) on the kernel's name space.
pub fn open_how(dirfd: RawFd, path: &[u8], how: &OpenHow) -> Result<RawFd, Errno> {
    openat2(native::checked, dirfd, path, how)
}

/// As [`open_how`], for an open that the program itself has asked for: it may wait (for the other end of a FIFO), and a signal
/// ends it ([`native::checked_interruptible`]).
pub fn open_waiting(dirfd: RawFd, path: &[u8], how: &OpenHow) -> Result<RawFd, Errno> {
    openat2(native::checked_interruptible, dirfd, path, how)
}

fn openat2(
    call: impl Fn(u32, [u64; 6]) -> Result<u64, Errno>,
    dirfd: RawFd,
    path: &[u8],
    how: &OpenHow,
) -> Result<RawFd, Errno> {
    let mut name = ArrayVec::<u8, { PATH_MAX + 1 }>::new();
    name.try_extend_from_slice(path).map_err(|_| Errno::NAMETOOLONG)?;
    name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    let how_pointer = std::ptr::from_ref(how) as u64;
    let size = size_of::<OpenHow>() as u64;
    call(sys::__NR_openat2, [dirfd as u64, name.as_ptr() as u64, how_pointer, size, 0, 0])
        .map(|fd| fd as RawFd)
}
