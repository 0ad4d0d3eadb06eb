//! Descriptors that are not the program's: those that plugins hold open, and our placeholder.
//!
//! They live at and above a base number that the program cannot reach by its own `RLIMIT_NOFILE` (see [`nofile`]), so that the
//! lowest free number is the same as without us. A close, dup2 or `close_range` of the program never touches them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::unclaimed::set_cloexec;
use crate::{locked_inodes, native, nofile};

const TRACKED: usize = 1 << 20;

/// The first private number.
static BASE: AtomicU32 = AtomicU32::new(u32::MAX);
/// A bit for each number from [`BASE`] on: it is ours. In a vfork child these are the bits of its parent, whose other threads go on
/// making and closing private descriptors: the child, which has numbers of its own, leaves them alone.
static OURS: [AtomicU64; TRACKED / 64] = [const { AtomicU64::new(0) }; TRACKED / 64];

/// See [`are_short`].
static SHORT: AtomicBool = AtomicBool::new(false);

/// Sets the first private number. Called once, before any other function here.
pub fn set_base(base: u32) {
    BASE.store(base, Ordering::Relaxed);
}

/// The first private number.
pub fn base() -> u32 {
    BASE.load(Ordering::Relaxed)
}

/// Whether the program must not see or touch `fd`.
pub fn is_private(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
}

/// Whether the program is to take `fd` for one that is not open: private, or parked for the sake of record locks.
pub fn is_hidden(fd: RawFd) -> bool {
    is_private(fd) || locked_inodes::is_parked(fd)
}

/// Whether a descriptor that a plugin has just opened was moved to a private number: always so in a vfork child, which does not mark
/// them.
pub fn was_moved(fd: RawFd) -> bool {
    is_private(fd) || interpose::in_vfork_child()
}

/// Moves `fd` to a private number, closed by exec, and closes the one it had, unless record locks would be lost by that. On failure it stays where
/// it is, open.
pub fn take(fd: RawFd) -> Result<RawFd, Errno> {
    if bit(fd).is_some() {
        // There was no lower one left.
        adopt(fd);
        set_cloexec(fd, true);
        return Ok(fd);
    }
    let private = duplicate(fd)?;
    locked_inodes::close(fd);
    Ok(private)
}

/// A plugin's `fd` could not be moved, and stays where the program sees it. From now on plugins are to keep no more of them than they must.
pub fn out_of_numbers(fd: RawFd) -> RawFd {
    SHORT.store(true, Ordering::Relaxed);
    fd
}

/// Whether a descriptor of a plugin could not be moved.
pub fn are_short() -> bool {
    SHORT.load(Ordering::Relaxed)
}

/// A private duplicate of `fd`, closed by exec.
pub fn duplicate(fd: RawFd) -> Result<RawFd, Errno> {
    let command = u64::from(sys::F_DUPFD_CLOEXEC);
    let args = [fd as u64, command, u64::from(base()), 0, 0, 0];
    let private = nofile::with_room(|| native::checked(sys::__NR_fcntl, args))? as RawFd;
    adopt(private);
    Ok(private)
}

/// A private duplicate of each, or of none.
pub fn duplicate_all(fds: &[RawFd]) -> Result<Vec<RawFd>, Errno> {
    let mut copies = Vec::with_capacity(fds.len());
    for &fd in fds {
        match duplicate(fd) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                copies.into_iter().for_each(locked_inodes::close);
                return Err(error);
            }
        }
    }
    Ok(copies)
}

/// Marks a number that is open already (kept through exec) as private.
pub fn adopt(fd: RawFd) {
    if let Some((word, mask)) = bit(fd).filter(|_| !interpose::in_vfork_child()) {
        word.fetch_or(mask, Ordering::Relaxed);
    }
}

/// The number is not private any more; whoever calls this closes it.
pub fn forget(fd: RawFd) {
    if let Some((word, mask)) = bit(fd).filter(|_| !interpose::in_vfork_child()) {
        word.fetch_and(!mask, Ordering::Relaxed);
    }
}

/// Closes a private descriptor.
pub fn close(fd: RawFd) {
    forget(fd);
    native::close(fd);
}

/// Calls `run` for each private number.
pub fn for_each(mut run: impl FnMut(RawFd)) {
    for (index, word) in OURS.iter().enumerate() {
        let mut left = word.load(Ordering::Relaxed);
        while left != 0 {
            run((base() + 64 * index as u32 + left.trailing_zeros()) as RawFd);
            left &= left - 1;
        }
    }
}

/// Calls `run` for each maximal run of numbers in `first..=last` that holds no private one.
pub fn ranges_without(first: u32, last: u32, mut run: impl FnMut(u32, u32)) {
    let base = base();
    let mut begin = first;
    if last >= base {
        let top = (base.saturating_add(TRACKED as u32 - 1)).min(last);
        let from = first.max(base);
        let mut at = from;
        while at <= top {
            let index = (at - base) as usize;
            let word = OURS[index / 64].load(Ordering::Relaxed) >> (index % 64);
            if word == 0 {
                at = at.saturating_add(64 - (index % 64) as u32);
                continue;
            }
            at += word.trailing_zeros();
            if at > top {
                break;
            }
            if at > begin {
                run(begin, at - 1);
            }
            at += 1;
            begin = at;
        }
    }
    if begin <= last {
        run(begin, last);
    }
}

fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let index = (u32::try_from(fd).ok()?).checked_sub(base())? as usize;
    Some((OURS.get(index / 64)?, 1 << (index % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the base is the process's.
    #[test]
    fn ranges_skip_exactly_the_private_numbers() {
        set_base(700);
        for fd in [700, 701, 763, 764, 900] {
            adopt(fd);
        }
        let runs = |first, last| {
            let mut found = Vec::new();
            ranges_without(first, last, |from, to| found.push((from, to)));
            found
        };
        let mut all = Vec::new();
        for_each(|fd| all.push(fd));
        assert_eq!(all, [700, 701, 763, 764, 900]);
        assert_eq!(runs(3, 699), [(3, 699)]);
        assert_eq!(runs(3, u32::MAX), [(3, 699), (702, 762), (765, 899), (901, u32::MAX)]);
        assert_eq!(runs(701, 763), [(702, 762)]);
        assert_eq!(runs(700, 701), []);
        assert!(is_private(763) && !is_private(762) && !is_private(3) && !is_private(-1));
        forget(763);
        assert!(!is_private(763));
        assert_eq!(runs(760, 764), [(760, 763)]);
    }
}
