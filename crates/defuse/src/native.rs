//! The kernel's own answer: system calls made from our text, which is never rewritten.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use interpose::{Call, raw};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::nofile;
use crate::resolve::PATH_MAX;

/// Makes `call` as it stands.
pub fn call(call: &Call) -> i64 {
    raw_call(call.nr, call.args)
}

/// As [`raw_call`], where it may wait: a signal of the program ends it. The result, which may be
/// [`interpose::RESTART`], goes back to the program as it is.
pub fn interruptible(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: as for `raw_call`.
    unsafe { raw::interruptible(nr, args) }
}

/// gettid(2).
pub fn thread_id() -> u32 {
    raw_call(sys::__NR_gettid, [0; 6]) as u32
}

/// getpid(2).
pub fn pid() -> u32 {
    raw_call(sys::__NR_getpid, [0; 6]) as u32
}

/// Makes the call `nr` with `args`; a value or `-errno`.
pub fn raw_call(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the arguments are the program's own, or name memory of ours that the caller keeps alive; the kernel checks
    // every pointer it follows, and what the program asks to be done to its own memory is the program's business.
    unsafe { raw::syscall6(nr, args) }
}

/// As [`checked`], for a call that may wait: a signal that the program handles ends it with `EINTR`, or with
/// [`interpose::RESTART`] in its place, which is to be returned as it is.
pub fn checked_interruptible(nr: u32, args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: as for `raw_call`.
    told_apart(unsafe { raw::interruptible(nr, args) })
}

/// As [`raw_call`], telling errors from values.
pub fn checked(nr: u32, args: [u64; 6]) -> Result<u64, Errno> {
    told_apart(raw_call(nr, args))
}

fn told_apart(result: i64) -> Result<u64, Errno> {
    if (-4095..0).contains(&result) {
        Err(Errno::from_raw_os_error(-result as i32))
    } else {
        Ok(result as u64)
    }
}

/// As [`checked`], for a call that makes an FD for our own use, to be closed or moved soon: the program's limit does not count.
pub fn new_fd(nr: u32, args: [u64; 6]) -> Result<RawFd, Errno> {
    match checked(nr, args) {
        Err(Errno::MFILE) => nofile::with_room(|| checked(nr, args)),
        result => result,
    }
    .map(|fd| fd as RawFd)
}

/// As [`new_fd`], for an FD that is closed in the end by who has it.
pub fn new_owned_fd(nr: u32, args: [u64; 6]) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel has just made this descriptor, for nobody else.
    new_fd(nr, args).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fstat(2).
pub fn fstat(fd: RawFd) -> Result<sys::stat, Errno> {
    let mut stat = MaybeUninit::<sys::stat>::uninit();
    checked(sys::__NR_fstat, [fd as u64, stat.as_mut_ptr() as u64, 0, 0, 0, 0])?;
    // SAFETY: the kernel filled in the whole structure when it reported success.
    Ok(unsafe { stat.assume_init() })
}

/// fstatfs(2).
pub fn fstatfs(fd: RawFd) -> Result<sys::statfs, Errno> {
    let mut found = MaybeUninit::<sys::statfs>::uninit();
    checked(sys::__NR_fstatfs, [fd as u64, found.as_mut_ptr() as u64, 0, 0, 0, 0])?;
    // SAFETY: the kernel filled in the whole structure when it reported success.
    Ok(unsafe { found.assume_init() })
}

/// stat(2) of the NUL-terminated `path`.
pub fn stat(path: &CStr) -> Result<sys::stat, Errno> {
    let mut stat = MaybeUninit::<sys::stat>::uninit();
    checked(sys::__NR_stat, [path.as_ptr() as u64, stat.as_mut_ptr() as u64, 0, 0, 0, 0])?;
    // SAFETY: the kernel filled in the whole structure when it reported success.
    Ok(unsafe { stat.assume_init() })
}

/// stat(2) of the path at the address `path`, relative to `directory`.
pub fn stat_at(directory: RawFd, path: u64) -> Result<sys::stat, Errno> {
    stat_with(directory, path, 0)
}

/// statx(2) of `path`, relative to `directory`, with links followed.
pub fn statx_path(directory: RawFd, path: &[u8], mask: u32) -> Result<sys::statx, Errno> {
    let name = with_nul(path)?;
    statx_with(directory, name.as_ptr() as u64, 0, mask)
}

/// statx(2) of the NUL-terminated `path`, as far as it is known without asking a file system that is somewhere else.
pub fn statx_as_known(path: &CStr, mask: u32) -> Result<sys::statx, Errno> {
    statx_with(sys::AT_FDCWD, path.as_ptr() as u64, sys::AT_STATX_DONT_SYNC, mask)
}

fn statx_with(directory: RawFd, path: u64, flags: u32, mask: u32) -> Result<sys::statx, Errno> {
    let mut found = MaybeUninit::<sys::statx>::uninit();
    let address = found.as_mut_ptr() as u64;
    checked(sys::__NR_statx, [directory as u64, path, flags.into(), mask.into(), address, 0])?;
    // SAFETY: the kernel filled in the whole structure when it reported success.
    Ok(unsafe { found.assume_init() })
}

fn with_nul(path: &[u8]) -> Result<ArrayVec<u8, { PATH_MAX + 1 }>, Errno> {
    let mut name = ArrayVec::new();
    name.try_extend_from_slice(path).map_err(|_| Errno::NAMETOOLONG)?;
    name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    Ok(name)
}

/// fstatat(2) of `path`, relative to `directory`. Unlike a look by [`openat2`](crate::openat2) it makes no descriptor.
pub fn stat_path(directory: RawFd, path: &[u8], follow: bool) -> Result<sys::stat, Errno> {
    let name = with_nul(path)?;
    stat_with(directory, name.as_ptr() as u64, if follow { 0 } else { sys::AT_SYMLINK_NOFOLLOW })
}

fn stat_with(directory: RawFd, path: u64, flags: u32) -> Result<sys::stat, Errno> {
    let mut stat = MaybeUninit::<sys::stat>::uninit();
    let address = stat.as_mut_ptr() as u64;
    checked(sys::__NR_newfstatat, [directory as u64, path, address, flags.into(), 0, 0])?;
    // SAFETY: the kernel filled in the whole structure when it reported success.
    Ok(unsafe { stat.assume_init() })
}

/// getsockopt(2) of a number at the level `SOL_SOCKET`.
pub fn socket_option(fd: RawFd, option: u32) -> Result<u32, Errno> {
    const SOL_SOCKET: u64 = 1;
    let (mut found, mut length) = (0_u32, size_of::<u32>() as u32);
    let (value, size) = (&raw mut found as u64, &raw mut length as u64);
    checked(sys::__NR_getsockopt, [fd as u64, SOL_SOCKET, option.into(), value, size, 0])?;
    Ok(found)
}

/// Pid, user and group of who is at the other end of a Unix socket (`SO_PEERCRED`).
pub fn peer_credentials(fd: RawFd) -> Result<[u32; 3], Errno> {
    const SOL_SOCKET: u64 = 1;
    const SO_PEERCRED: u64 = 17;
    let (mut found, mut length) = ([0_u32; 3], size_of::<[u32; 3]>() as u32);
    let (value, size) = (&raw mut found as u64, &raw mut length as u64);
    checked(sys::__NR_getsockopt, [fd as u64, SOL_SOCKET, SO_PEERCRED, value, size, 0])?;
    Ok(found)
}

/// close(2). There is nothing to be done about an error.
pub fn close(fd: RawFd) {
    raw_call(sys::__NR_close, [fd as u64, 0, 0, 0, 0, 0]);
}

/// execve(2) or execveat(2): the next image inherits the signal mask that the program believes it has.
pub fn exec(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: as for `raw_call`; this is called while serving a call.
    unsafe { interpose::exec(nr, args) }
}
