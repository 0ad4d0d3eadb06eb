//! The protocol of a robust lock word.
//!
//! The word holds zero, or its holder: thread number in bits 0-30, "somebody waits" in bit 31, process record in
//! bits 32-63. A holder that died is found by its waiters, who look after each timeout, and replaced by
//! compare-and-swap. A wake-up lost with a killed process costs its waiters one timeout.

use core::sync::atomic::Ordering;

use crate::StashError;
use crate::word::Word64;

/// Set in the half of the word on which waiters sleep.
pub(crate) const WAITERS: u64 = 1 << 31;

/// How often a taken lock is tried before going to sleep: holders mostly keep it for less than a microsecond.
/// Spinning adds nothing to a model but interleavings.
const SPINS: u32 = if cfg!(loom) { 0 } else { 60 };

/// How a waiter sleeps and how it learns that the holder is dead.
pub(crate) trait Waiting {
    /// Sleeps until woken, or until a timeout, while the word's low half is `low`. Returns false at the timeout.
    fn wait(&mut self, low: u32) -> bool;
    /// Wakes one waiter.
    fn wake(&mut self);
    /// Whether the holder named by this word can still release it.
    fn holder_alive(&mut self, holder: u64) -> bool;
    /// Whether the caller wants to go on waiting; asked after each timeout.
    fn patient(&mut self) -> bool;
    /// Passes the time between two tries.
    fn spin(&mut self);
}

/// How the lock was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    Free,
    /// Its holder died with it: what it protects may be half changed.
    FromDead,
}

/// Takes the lock if it is free.
#[inline]
pub(crate) fn try_acquire<W: Word64>(word: &W, me: u64) -> bool {
    word.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Takes the lock, waiting for it.
#[inline]
pub(crate) fn acquire<W: Word64, T: Waiting>(
    word: &W,
    me: u64,
    waiting: impl FnOnce() -> T,
) -> Result<Acquired, StashError> {
    if try_acquire(word, me) { Ok(Acquired::Free) } else { acquire_slowly(word, me, waiting()) }
}

#[cold]
fn acquire_slowly<W: Word64>(word: &W, me: u64, mut waiting: impl Waiting) -> Result<Acquired, StashError> {
    if word.load(Ordering::Relaxed) & !WAITERS == me {
        return Err(StashError::WouldDeadlock);
    }
    let mut left = SPINS;
    while left > 0 {
        left -= 1;
        waiting.spin();
        if word.load(Ordering::Relaxed) == 0 && try_acquire(word, me) {
            return Ok(Acquired::Free);
        }
    }
    loop {
        let seen = word.load(Ordering::Relaxed);
        let holder = seen & !WAITERS;
        if holder == 0 {
            // Others may sleep, and nobody knows: the bit is kept, for a wake-up too many at worst.
            if replace(word, seen, me | WAITERS) {
                return Ok(Acquired::Free);
            }
            continue;
        }
        if holder == me {
            return Err(StashError::WouldDeadlock);
        }
        if seen & WAITERS == 0 && !replace(word, seen, seen | WAITERS) {
            continue;
        }
        let expected = holder | WAITERS;
        if waiting.wait(expected as u32) {
            continue;
        }
        if word.load(Ordering::Relaxed) == expected {
            if !waiting.holder_alive(holder) && replace(word, expected, me | WAITERS) {
                return Ok(Acquired::FromDead);
            }
            if !waiting.patient() {
                return Err(StashError::Locked);
            }
        }
    }
}

/// Gives the lock back. Does nothing if the caller was (wrongly) replaced meanwhile.
#[inline]
pub(crate) fn release<W: Word64, T: Waiting>(word: &W, me: u64, waiting: impl FnOnce() -> T) {
    if word.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed).is_err() {
        release_slowly(word, me, waiting());
    }
}

#[cold]
fn release_slowly<W: Word64>(word: &W, me: u64, mut waiting: impl Waiting) {
    // The only change that others make to a held word is to set the bit.
    if word.compare_exchange(me | WAITERS, 0, Ordering::Release, Ordering::Relaxed).is_ok() {
        waiting.wake();
    }
}

fn replace<W: Word64>(word: &W, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
}
