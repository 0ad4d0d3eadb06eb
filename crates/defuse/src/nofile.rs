//! `RLIMIT_NOFILE`: what the program believes, and what the kernel enforces.
//!
//! The kernel's soft limit is the program's own, so that every call that makes an FD fails where it would fail without us, also the
//! calls that we never see, before it has had any effect. Private descriptors lie above; the limit is raised for the moment in
//! which one is made. Two things differ from what the program believes:
//!
//! - Where there is no room above its limit, the private range lies below: the kernel's soft limit is then the first private number,
//!   and the program meets EMFILE somewhat early.
//! - The kernel's hard limit is never lowered, and the runner may have raised it, to leave that room.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::process::Process;
use crate::sync::{Guard, Lock};
use crate::{native, thread, vfork};

/// The program gets no number at or above this, whatever its limit.
static CEILING: AtomicU64 = AtomicU64::new(u64::MAX);
/// As [`limit`] says.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
/// The kernel's hard limit when it was last seen.
static KERNEL_HARD: AtomicU64 = AtomicU64::new(0);
/// Held while the kernel's soft limit is not the program's. Waited for by holders of any other lock but the heap's.
static RAISING: Lock<()> = Lock::new(());
/// The thread that holds it in [`with_room`].
static RAISED_BY: AtomicU32 = AtomicU32::new(0);

/// Says where the private numbers begin and what limit the session's first program was to see. Called once, before any other
/// function here.
pub fn begin(private_fd_base: u32, first_limit: u64) {
    let base = u64::from(private_fd_base);
    if first_limit > base {
        CEILING.store(base, Ordering::Relaxed);
    }
}

/// The number below which the program's FDs are when it believes in the limit `soft`.
pub fn enforced(soft: u64) -> u64 {
    soft.min(CEILING.load(Ordering::Relaxed))
}

/// Runs `make`, which makes FDs, with room for them above the program's limit. It may do the same again, but wait for no lock
/// other than the heap's and that of a shadow which is looked at.
pub fn with_room<R>(make: impl FnOnce() -> R) -> R {
    let thread = thread::id();
    if RAISED_BY.load(Ordering::Relaxed) == thread {
        return make();
    }
    let _one_at_a_time = RAISING.lock();
    let before = raise();
    RAISED_BY.store(thread, Ordering::Relaxed);
    let made = make();
    RAISED_BY.store(0, Ordering::Relaxed);
    if let Some(before) = before {
        // Lowering is allowed to everybody.
        let _ = set(&before);
    }
    made
}

/// Sets the soft limit to the hard one; the limits before, if that changed them.
fn raise() -> Option<[u64; 2]> {
    let known = KERNEL_HARD.load(Ordering::Relaxed);
    let exchanged = if known == 0 { Err(Errno::PERM) } else { exchange(&[known, known]) };
    let before = exchanged.or_else(|_| {
        // Not asked yet, or somebody else has lowered it since.
        let now = get()?;
        KERNEL_HARD.store(now[1], Ordering::Relaxed);
        set(&[now[1], now[1]]).map(|()| now)
    });
    before.ok().filter(|[soft, hard]| soft != hard)
}

/// Brings what the program is shown up to date: others can change a process's limits, and images that were not intercepted
/// their own.
pub fn refresh(process: &Process) {
    let childs = limits_of_child(process);
    let one_at_a_time = RAISING.lock();
    let Ok([soft, hard]) = get() else { return };
    KERNEL_HARD.store(hard, Ordering::Relaxed);
    let (shown_soft, shown_hard) = childs.unwrap_or_else(|| process.nofile());
    let soft = if soft == enforced(shown_soft) { shown_soft } else { soft };
    remember(process, one_at_a_time, soft, shown_hard.min(hard));
}

/// Sets the program's limits, if it may.
pub fn change(process: &Process, [soft, hard]: [u64; 2]) -> Result<(), Errno> {
    if soft > hard {
        return Err(Errno::INVAL);
    }
    let childs = limits_of_child(process);
    let one_at_a_time = RAISING.lock();
    let kernel = get()?;
    // What the kernel's own limit would allow may still be more than the program was given.
    if hard > childs.unwrap_or_else(|| process.nofile()).1 && hard <= kernel[1] && !privileged() {
        return Err(Errno::PERM);
    }
    let wanted = [enforced(soft), kernel[1].max(hard)];
    set(&wanted)?;
    KERNEL_HARD.store(wanted[1], Ordering::Relaxed);
    remember(process, one_at_a_time, soft, hard);
    Ok(())
}

/// What a vfork child is shown: behind a lock that may not be waited for by who has that of the limit.
fn limits_of_child(process: &Process) -> Option<(u64, u64)> {
    interpose::in_vfork_child().then(|| process.nofile())
}

/// Notes what the program is to be shown. The limits of a vfork child are its own.
fn remember(process: &Process, one_at_a_time: Guard<'_, ()>, soft: u64, hard: u64) {
    if interpose::in_vfork_child() {
        drop(one_at_a_time);
        return vfork::children().set_limits((soft, hard));
    }
    show(process, soft);
    process.nofile.1.store(hard, Ordering::Relaxed);
}

/// The program's FDs are below this, as far as the kernel is not about to make a private one.
pub fn limit() -> &'static AtomicU64 {
    &LIMIT
}

/// Sets the limit that the program is shown.
pub fn show(process: &Process, soft: u64) {
    process.nofile.0.store(soft, Ordering::Relaxed);
    // With a table in common no number is to be marked as the kernel's: all opens are looked at.
    let limit = if process.common.table() { 0 } else { enforced(soft) };
    LIMIT.store(limit, Ordering::Relaxed);
}

/// Before a fork: the child must not inherit a limit that is raised.
pub fn before_fork() {
    RAISING.acquire();
}

/// Before a vfork, whose child lets go, unless it is killed before.
pub fn before_vfork() {
    RAISING.acquire_for_child();
}

/// This thread's vfork child is gone. If it was killed with the limit raised, that was its own.
pub fn forget_child() {
    let _ = RAISED_BY.compare_exchange(thread::id(), 0, Ordering::Relaxed, Ordering::Relaxed);
}

/// After a fork, on both sides.
pub fn after_fork() {
    RAISING.release();
}

fn get() -> Result<[u64; 2], Errno> {
    let mut limits = [0; 2];
    prlimit(None, Some(&mut limits)).map(|()| limits)
}

fn set(limits: &[u64; 2]) -> Result<(), Errno> {
    prlimit(Some(limits), None)
}

fn exchange(limits: &[u64; 2]) -> Result<[u64; 2], Errno> {
    let mut before = [0; 2];
    prlimit(Some(limits), Some(&mut before)).map(|()| before)
}

fn prlimit(new: Option<&[u64; 2]>, old: Option<&mut [u64; 2]>) -> Result<(), Errno> {
    let new = new.map_or(0, |limits| limits.as_ptr() as u64);
    let old = old.map_or(0, |limits| limits.as_mut_ptr() as u64);
    native::checked(sys::__NR_prlimit64, [0, sys::RLIMIT_NOFILE.into(), new, old, 0, 0]).map(drop)
}

/// Whether this process may raise hard limits (`CAP_SYS_RESOURCE`, bit 24, effective).
fn privileged() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    let asked =
        native::checked(sys::__NR_capget, [header.as_ptr() as u64, sets.as_mut_ptr() as u64, 0, 0, 0, 0]);
    asked.is_ok() && sets[0] & 1 << 24 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since limits are the process's.
    #[test]
    fn room_is_there_only_while_a_descriptor_is_made() {
        let [soft, hard] = get().unwrap();
        let low = soft.min(hard - 1);
        set(&[low, hard]).unwrap();
        let inside = with_room(|| get().unwrap());
        assert_eq!((inside, get().unwrap()), ([hard, hard], [low, hard]));
        // Known by now, and wrong once somebody has lowered it.
        set(&[low, hard - 1]).unwrap();
        let inside = with_room(|| get().unwrap());
        assert!(inside == [hard - 1, hard - 1] || inside == [hard, hard], "{inside:?}");
        assert_eq!(get().unwrap()[0], low);
    }

    #[test]
    fn without_room_above_the_private_range_is_the_limit() {
        assert_eq!(enforced(1024), 1024);
        begin(700, 1000);
        assert_eq!((enforced(1000), enforced(512)), (700, 512));
    }
}
