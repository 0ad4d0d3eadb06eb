//! Inodes on which a plugin has set record locks for this process, and descriptors that stay open for their sake.
//!
//! A process that closes *any* descriptor of an inode loses its record locks on it (fcntl(2)). A plugin's descriptor comes from the kernel at the lowest
//! free number, is duplicated at a private one, and the low one closed ([`crate::private_fd`]). On such an inode it is *parked* instead: left as it is until the
//! locks are gone. Nobody uses it, so the program may close it; that takes the locks away as would closing any other of its FDs of the file.
//!
//! What plugins do themselves is seen as their system calls (`serve::inner`). A vfork child's locks are its own, and go with it: not noted here.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::flock as RecordLock;

use crate::sync::Lock;
use crate::{native, user};

static LOCKED: Lock<Vec<Inode>> = Lock::new(Vec::new());
/// As many as there are in [`LOCKED`], for who has none and need not wait.
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Inode {
    /// Device and inode number.
    identity: (u64, u64),
    parked: Vec<RawFd>,
}

/// Before a fork, when nothing of a plugin's runs any more, and [`after_fork`] on both sides.
pub fn before_fork() {
    LOCKED.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    LOCKED.release();
}

/// Record locks are not inherited.
pub fn in_forked_child() {
    for inode in LOCKED.lock().drain(..) {
        inode.close_parked();
    }
    COUNT.store(0, Ordering::Release);
}

/// A plugin is about to make this `F_SETLK` or `F_SETLKW` on its `fd`.
#[inline(never)]
pub fn about_to_lock(fd: RawFd, lock: u64) {
    let Ok(lock) = user::read::<RecordLock>(lock) else { return };
    if lock.l_type as u32 != sys::F_UNLCK {
        note(fd);
    } else if (lock.l_start, lock.l_len, lock.l_whence as u32) == (0, 0, sys::SEEK_SET) {
        gone(identity_where_some(fd));
    }
}

fn note(fd: RawFd) {
    let Some(identity) = identity(fd).filter(|_| !interpose::in_vfork_child()) else { return };
    let mut locked = LOCKED.lock();
    if !locked.iter().any(|inode| inode.identity == identity) {
        locked.push(Inode { identity, parked: Vec::new() });
        COUNT.store(locked.len(), Ordering::Release);
    }
}

/// A plugin is about to close its `fd`.
#[inline]
pub fn about_to_close(fd: RawFd) {
    if COUNT.load(Ordering::Acquire) > 0 {
        gone_with(fd);
    }
}

#[cold]
#[inline(never)]
fn gone_with(fd: RawFd) {
    gone(identity_of_opened(fd));
}

/// All locks on this inode go now.
fn gone(identity: Option<(u64, u64)>) {
    let Some(identity) = identity else { return };
    let mut locked = LOCKED.lock();
    if let Some(at) = locked.iter().position(|inode| inode.identity == identity) {
        locked.swap_remove(at).close_parked();
        COUNT.store(locked.len(), Ordering::Release);
    }
}

/// Whether `fd`, of which there is a duplicate, must not be closed. If so it is, later.
#[inline]
pub fn park(fd: RawFd) -> bool {
    COUNT.load(Ordering::Acquire) > 0 && parked(fd)
}

#[cold]
#[inline(never)]
fn parked(fd: RawFd) -> bool {
    let Some(identity) = identity_of_opened(fd) else { return false };
    let mut locked = LOCKED.lock();
    let inode = locked.iter_mut().find(|inode| inode.identity == identity);
    inode.map(|inode| inode.parked.push(fd)).is_some()
}

/// Closes `fd`, which the kernel would not have made: a message passed more than the program has room for. Where this process has record locks on
/// the file, set by a plugin or by the program itself, it stays open.
pub fn close_excess(fd: RawFd) {
    if !park(fd) && !has_record_locks(fd) {
        native::close(fd);
    }
}

/// Whether this process has record locks on what `fd` is, as the kernel lists them (`proc_locks(5)`). One file may be taken for another of the same inode number.
fn has_record_locks(fd: RawFd) -> bool {
    let inode = match native::fstat(fd) {
        Ok(stat) if stat.st_mode & sys::S_IFMT == sys::S_IFREG => Some(stat.st_ino),
        Ok(_) => return false,
        // A shadow of the kernel module.
        Err(_) => None,
    };
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC);
    let args = [c"/proc/locks".as_ptr() as u64, flags, 0, 0, 0, 0];
    let Ok(list) = native::new_owned_fd(sys::__NR_open, args) else { return false };
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = rustix::io::read(&list, &mut part) {
        text.extend_from_slice(&part[..read]);
    }
    let pid = native::raw_call(sys::__NR_getpid, [0; 6]);
    String::from_utf8_lossy(&text).lines().any(|line| {
        // `1: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF`
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, "POSIX", _, _, holder, place, ..] = words[..] else { return false };
        let listed = place.rsplit(':').next().and_then(|inode| inode.parse().ok());
        holder.parse() == Ok(pid) && (inode.is_none() || inode == listed)
    })
}

impl Inode {
    fn close_parked(self) {
        for fd in self.parked {
            // The program may have closed it, and opened something else.
            if identity(fd) == Some(self.identity) {
                native::close(fd);
            }
        }
    }
}

fn identity_where_some(fd: RawFd) -> Option<(u64, u64)> {
    let some = COUNT.load(Ordering::Acquire) > 0 && !interpose::in_vfork_child();
    some.then(|| identity(fd)).flatten()
}

/// Nothing for one opened with `O_PATH`, which may come and go.
fn identity_of_opened(fd: RawFd) -> Option<(u64, u64)> {
    let flags = || native::raw_call(sys::__NR_fcntl, [fd as u64, sys::F_GETFL.into(), 0, 0, 0, 0]);
    identity_where_some(fd).filter(|_| flags() as u32 & sys::O_PATH == 0)
}

fn identity(fd: RawFd) -> Option<(u64, u64)> {
    native::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_kernel_tells_which_files_this_process_has_locked() {
        let [locked, other] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let again = locked.reopen().unwrap();
        assert!(!has_record_locks(again.as_raw_fd()));
        rustix::fs::fcntl_lock(locked.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert!(has_record_locks(again.as_raw_fd()) && !has_record_locks(other.as_raw_fd()));
    }
}
