//! Inodes on which a plugin has set record locks for this process, and descriptors that stay open for their sake.
//!
//! A process that closes *any* descriptor of an inode loses its record locks on it (fcntl(2)). That is right when the program closes an FD: then the locks
//! are given up first (`serve::locks::drop_record_locks`). All other descriptors that plugins or we close meanwhile are *parked*: left open until the
//! locks are gone. A plugin's descriptor comes from the kernel at the lowest free number, is duplicated at a private one, and the low one closed
//! ([`crate::private_fd`]); a mapping keeps an open file longer than the program; an open may fail at last. The program's close(2) and `close_range` go past
//! a parked descriptor; a dup2(2) onto it takes the locks away.
//!
//! What plugins do themselves is seen as their system calls (`serve::inner`). Locks that they set on their own account, not in their `lock`, they give up by closing
//! as everybody does. A vfork child's locks are its own, and go with it: not noted here.

mod exec;
mod gate;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::flock as RecordLock;

use gate::Gate;

use crate::process::STATES;
use crate::sync::Lock;
use crate::unclaimed::set_cloexec;
use crate::{lock_files, native, private_fd, thread, user};

pub use exec::{for_exec, inherit};

static LOCKED: Lock<Vec<Inode>> = Lock::new(Vec::new());
/// As many as there are in [`LOCKED`], for who has none and need not wait.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// As many descriptors as are parked at numbers that the program could have.
static IN_REACH: AtomicUsize = AtomicUsize::new(0);
/// Inside are those who look whether a descriptor must stay, until they have closed it; alone is who makes an inode known. Taken before [`LOCKED`].
static CLOSING: Gate = Gate::new();

/// Device and inode number.
type Identity = (u64, u64);

struct Inode {
    identity: Identity,
    /// The locks are the program's, not only the plugin's own.
    for_program: bool,
    /// There may be locks.
    held: bool,
    /// Calls under way that set one. They may have to wait, and get it when all others are gone.
    pending: u32,
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

/// Record locks are not inherited. With the FD table in common they are the child's as well, and what is parked is the parent's.
pub fn in_forked_child(shares_files: bool) {
    CLOSING.renew();
    let mut locked = LOCKED.lock();
    if shares_files {
        for inode in &mut *locked {
            inode.pending = 0;
            inode.parked.clear();
        }
        IN_REACH.store(0, Ordering::Release);
        return;
    }
    for inode in locked.drain(..) {
        inode.close_parked();
    }
    COUNT.store(0, Ordering::Release);
}

/// Whether there may be locks of this process.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Acquire) > 0 && !interpose::in_vfork_child()
}

/// A plugin's `F_SETLK` or `F_SETLKW` on its `fd`, which `call` makes.
#[inline(never)]
pub fn set(fd: RawFd, lock: u64, call: impl FnOnce() -> i64) -> i64 {
    if interpose::in_vfork_child() {
        return call();
    }
    let (Ok(lock), Some(identity)) = (user::read::<RecordLock>(lock), identity(fd)) else { return call() };
    if lock.l_type as u32 != sys::F_UNLCK {
        begin(identity);
        let result = call();
        end(identity, result == 0);
        return result;
    }
    if (lock.l_start, lock.l_len, lock.l_whence as u32) == (0, 0, sys::SEEK_SET) {
        gone(identity);
    }
    call()
}

/// A lock is about to be set.
fn begin(identity: Identity) {
    let enter = |inode: &mut Inode| {
        inode.pending += 1;
        inode.for_program |= thread::is_locking();
    };
    if let Some(inode) = LOCKED.lock().iter_mut().find(|inode| inode.identity == identity) {
        return enter(inode);
    }
    // Who has found that its inode has no locks closes before there are any.
    let _alone = CLOSING.alone();
    enter(make_known(&mut LOCKED.lock(), identity));
}

fn make_known(locked: &mut Vec<Inode>, identity: Identity) -> &mut Inode {
    let at = locked.iter().position(|inode| inode.identity == identity).unwrap_or_else(|| {
        locked.push(Inode { identity, for_program: false, held: false, pending: 0, parked: Vec::new() });
        COUNT.store(locked.len(), Ordering::Release);
        locked.len() - 1
    });
    &mut locked[at]
}

/// It was set, or not.
fn end(identity: Identity, is_set: bool) {
    let mut locked = LOCKED.lock();
    let Some(at) = locked.iter().position(|inode| inode.identity == identity) else { return };
    locked[at].pending -= 1;
    locked[at].held |= is_set;
    forget_unlocked(&mut locked, at);
}

/// All locks on this inode go now.
fn gone(identity: Identity) {
    let mut locked = LOCKED.lock();
    if let Some(at) = locked.iter().position(|inode| inode.identity == identity) {
        locked[at].held = false;
        forget_unlocked(&mut locked, at);
    }
}

fn forget_unlocked(locked: &mut Vec<Inode>, at: usize) {
    if !locked[at].held && locked[at].pending == 0 {
        locked.swap_remove(at).close_parked();
        COUNT.store(locked.len(), Ordering::Release);
    }
}

/// Closes a descriptor of ours of a plugin's file, unless locks would be lost by that; then later.
#[inline]
pub fn close(fd: RawFd) {
    close_unless(fd, |inode| {
        keep_parked(inode, fd);
        true
    });
}

/// A plugin's close(2) of its `fd`.
#[inline]
pub fn close_for_plugin(fd: RawFd) -> i64 {
    close_unless(fd, |inode| {
        if inode.for_program {
            keep_parked(inode, fd);
        } else {
            inode.held = false;
        }
        inode.for_program
    })
}

#[inline]
fn close_unless(fd: RawFd, stays: impl FnOnce(&mut Inode) -> bool) -> i64 {
    let close = || native::raw_call(sys::__NR_close, [fd as u64, 0, 0, 0, 0, 0]);
    if interpose::in_vfork_child() {
        return close();
    }
    let _closing = CLOSING.share();
    if COUNT.load(Ordering::Acquire) > 0 && is_parked_now(fd, stays) {
        return 0;
    }
    private_fd::forget(fd);
    close()
}

#[cold]
#[inline(never)]
fn is_parked_now(fd: RawFd, stays: impl FnOnce(&mut Inode) -> bool) -> bool {
    let Some(identity) = identity_of_opened(fd) else { return false };
    let mut locked = LOCKED.lock();
    let Some(at) = locked.iter().position(|inode| inode.identity == identity) else { return false };
    let stay = stays(&mut locked[at]);
    forget_unlocked(&mut locked, at);
    stay
}

/// `fd` stays open, hidden from the program if it has a private number, and not for the next image.
fn keep_parked(inode: &mut Inode, fd: RawFd) {
    set_cloexec(fd, true);
    private_fd::adopt(fd);
    if !private_fd::is_private(fd) {
        // So that whatever the program does with the number comes by us.
        IN_REACH.fetch_add(1, Ordering::AcqRel);
        STATES.forget(fd);
    }
    inode.parked.push(fd);
}

/// Whether what stands at this number is nothing of the program's but parked.
#[inline]
pub fn is_parked(fd: RawFd) -> bool {
    any_in_reach() && !parked_within(fd as u32, fd as u32).is_empty()
}

#[inline]
fn any_in_reach() -> bool {
    IN_REACH.load(Ordering::Acquire) > 0 && any()
}

/// The number `fd` is the program's own from now on: it puts something there, which takes the locks away.
pub fn give_number(fd: RawFd) {
    if !any_in_reach() {
        return;
    }
    for inode in &mut *LOCKED.lock() {
        let before = inode.parked.len();
        inode.parked.retain(|&parked| parked != fd);
        IN_REACH.fetch_sub(before - inode.parked.len(), Ordering::AcqRel);
    }
}

/// Calls `run` for each maximal run of numbers in `first..=last` at which nothing is parked.
pub fn ranges_without(first: u32, last: u32, mut run: impl FnMut(u32, u32)) {
    let mut parked = if any_in_reach() { parked_within(first, last) } else { Vec::new() };
    parked.sort_unstable();
    let mut begin = first;
    for fd in parked {
        if fd > begin {
            run(begin, fd - 1);
        }
        begin = fd + 1;
    }
    if begin <= last {
        run(begin, last);
    }
}

#[cold]
#[inline(never)]
fn parked_within(first: u32, last: u32) -> Vec<u32> {
    let locked = LOCKED.lock();
    let parked = locked.iter().flat_map(|inode| inode.parked.iter().map(move |&fd| (inode, fd)));
    let within = parked.filter(|(inode, fd)| (first..=last).contains(&(*fd as u32)) && inode.is_parked(*fd));
    within.map(|(_, fd)| fd as u32).collect()
}

/// Closes `fd`, which the kernel would not have made: a message passed more than the program has room for. Where this process has record locks on
/// the file, set by a plugin or by the program itself, it stays open.
pub fn close_excess(fd: RawFd) {
    let locked = |identity| LOCKED.lock().iter().any(|inode| inode.identity == identity);
    if any() && identity(fd).is_some_and(locked) || !has_record_locks(fd) {
        close(fd);
    }
}

/// Whether this process has record locks on what `fd` is. One file may be taken for another of the same inode number.
fn has_record_locks(fd: RawFd) -> bool {
    first_in_the_way(fd).unwrap_or_else(|| is_listed(fd))
}

/// As [`has_record_locks`], without a descriptor for it. Locks of a description are never the process's own, so to them the process's record locks are in
/// the way; but the kernel tells of the first one only, and another process's may be the first.
fn first_in_the_way(fd: RawFd) -> Option<bool> {
    let mut lock = lock_files::whole_file(sys::F_WRLCK);
    let args = [fd as u64, sys::F_OFD_GETLK.into(), &raw mut lock as u64, 0, 0, 0];
    native::checked(sys::__NR_fcntl, args).ok()?;
    if lock.l_type as u32 == sys::F_UNLCK {
        return Some(false);
    }
    (i64::from(lock.l_pid) == native::raw_call(sys::__NR_getpid, [0; 6])).then_some(true)
}

/// As [`has_record_locks`], by the kernel's list (`proc_locks(5)`).
fn is_listed(fd: RawFd) -> bool {
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
    let pid = native::pid();
    String::from_utf8_lossy(&text).lines().any(|line| {
        // `1: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF`
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, "POSIX", _, _, holder, place, ..] = words[..] else { return false };
        let listed = place.rsplit(':').next().and_then(|inode| inode.parse().ok());
        holder.parse() == Ok(pid) && (inode.is_none() || inode == listed)
    })
}

impl Inode {
    /// The program may have put something else at the number.
    fn is_parked(&self, fd: RawFd) -> bool {
        identity(fd) == Some(self.identity)
    }

    fn close_parked(self) {
        for &fd in &self.parked {
            if !private_fd::is_private(fd) {
                IN_REACH.fetch_sub(1, Ordering::AcqRel);
            }
            if self.is_parked(fd) {
                private_fd::close(fd);
            }
        }
    }
}

/// Nothing for one opened with `O_PATH`, which may come and go.
fn identity_of_opened(fd: RawFd) -> Option<Identity> {
    let flags = || native::raw_call(sys::__NR_fcntl, [fd as u64, sys::F_GETFL.into(), 0, 0, 0, 0]);
    identity(fd).filter(|_| flags() as u32 & sys::O_PATH == 0)
}

fn identity(fd: RawFd) -> Option<Identity> {
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
        let (again, other) = (again.as_raw_fd(), other.as_raw_fd());
        assert_eq!((first_in_the_way(again), is_listed(again)), (Some(false), false));
        rustix::fs::fcntl_lock(locked.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!((first_in_the_way(again), is_listed(again)), (Some(true), true));
        assert_eq!((first_in_the_way(other), is_listed(other)), (Some(false), false));
    }

    #[test]
    fn locks_of_others_do_not_hide_those_of_this_process() {
        let locked = tempfile::NamedTempFile::new().unwrap();
        let again = locked.reopen().unwrap();
        let mut lock = lock_files::whole_file(sys::F_RDLCK);
        let args = [again.as_raw_fd() as u64, sys::F_OFD_SETLK.into(), &raw mut lock as u64, 0, 0, 0];
        // Another description's is in the way first, and no process's.
        native::checked(sys::__NR_fcntl, args).unwrap();
        let third = locked.reopen().unwrap();
        assert_eq!((first_in_the_way(third.as_raw_fd()), has_record_locks(third.as_raw_fd())), (None, false));
        rustix::fs::fcntl_lock(locked.as_file(), rustix::fs::FlockOperation::LockShared).unwrap();
        assert!(has_record_locks(third.as_raw_fd()));
    }
}
