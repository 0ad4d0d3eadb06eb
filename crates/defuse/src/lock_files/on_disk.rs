//! The files in the session's folder that carry the locks.
//!
//! One for each inode that has or had locks, named after it. Whoever opens, makes or removes one holds the inode's lock
//! in the arena, so that nobody goes on with a file that has just lost its name.

use std::io::Write;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::InodeGuard;

use super::Inode;
use crate::file::stash_errno;
use crate::process::Process;
use crate::session::names;
use crate::{native, private_fd};

/// Anybody of the session may set locks; nobody else knows the folder.
const MODE: u64 = 0o666;

/// A private descriptor, with a description of its own, of the lock file of `inode`.
///
/// It is opened at a number below and moved, and the close of the first number drops the record locks that this process
/// has on the file: the caller knows that it has none.
pub fn open(process: &Process, inode: Inode) -> Result<RawFd, Errno> {
    let path = path(process, inode);
    let _alone = alone(process, inode)?;
    let fd = match open_at(&path, 0) {
        Err(Errno::NOENT) => make(&path, inode)?,
        other => other?,
    };
    private_fd::take(fd).inspect_err(|_| native::close(fd))
}

fn make(path: &ArrayVec<u8, 4096>, inode: Inode) -> Result<RawFd, Errno> {
    let fd = open_at(path, sys::O_CREAT | sys::O_EXCL)?;
    let words: Vec<u8> = inode.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // The umask does not count.
    let made = native::checked(sys::__NR_fchmod, [fd as u64, MODE, 0, 0, 0, 0]).and_then(|_| {
        let args = [fd as u64, words.as_ptr() as u64, words.len() as u64, 0, 0, 0];
        native::checked(sys::__NR_pwrite64, args)
    });
    if let Err(error) = made {
        native::raw_call(sys::__NR_unlink, [path.as_ptr() as u64, 0, 0, 0, 0, 0]);
        native::close(fd);
        return Err(error);
    }
    Ok(fd)
}

/// Which inode the lock file behind `fd` is for.
pub fn inode_of(fd: RawFd) -> Option<Inode> {
    let mut words: Inode = [0; 3];
    let args = [fd as u64, words.as_mut_ptr() as u64, size_of::<Inode>() as u64, 0, 0, 0];
    let length = native::checked(sys::__NR_pread64, args).ok()?;
    (length == size_of::<Inode>() as u64).then_some(words)
}

/// Removes the lock file of `inode` unless somebody has it open. This process has not.
///
/// The kernel grants a lease for writing only to who alone has a file open. Nobody can open it meanwhile, so the lease is
/// never broken. Without the right to leases, or to remove the file, it stays until the session ends.
pub fn remove(process: &Process, inode: Inode) {
    let path = path(process, inode);
    let Ok(_alone) = alone(process, inode) else { return };
    let Ok(fd) = open_at(&path, 0) else { return };
    let lease = |kind: u32| {
        native::checked(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETLEASE), u64::from(kind), 0, 0, 0])
    };
    if lease(sys::F_WRLCK).is_ok() {
        native::raw_call(sys::__NR_unlink, [path.as_ptr() as u64, 0, 0, 0, 0, 0]);
    }
    native::close(fd);
}

fn alone(process: &Process, [mount, device, inode]: Inode) -> Result<InodeGuard<'_>, Errno> {
    let key = inode ^ device.rotate_left(32) ^ mount.rotate_left(48);
    process.arena.inode_lock(key, process.holder()).map_err(stash_errno)
}

fn open_at(path: &ArrayVec<u8, 4096>, flags: u32) -> Result<RawFd, Errno> {
    let flags = sys::O_RDWR | sys::O_CLOEXEC | sys::O_NOFOLLOW | flags;
    native::new_fd(sys::__NR_open, [path.as_ptr() as u64, u64::from(flags), MODE, 0, 0, 0])
}

fn path(process: &Process, [mount, device, inode]: Inode) -> ArrayVec<u8, 4096> {
    let mut path = ArrayVec::new();
    // The folder's path is short (checked when the session was opened), so this cannot fail.
    let _ = path.write_all(&process.shared_folder);
    let _ = write!(path, "/{}/{mount}-{device:x}-{inode:x}\0", names::LOCKS);
    path
}
