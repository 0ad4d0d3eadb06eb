//! A lock that can be held across `fork` and that needs nothing but a futex.
//!
//! The interposer runs under the program's locks, in forked children of threaded programs and in vfork
//! children, so its own locks must be takeable before a fork and releasable on both sides of it. The standard
//! library's guards cannot be carried across the two hooks; [`Lock::acquire`] and [`Lock::release`] can.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// Mutual exclusion around a `T`, private to this process.
pub struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, or by the holder between `acquire` and `release`; the lock
// word makes those exclusive, so sharing the lock between threads shares `T` by turns only.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock and gives access until the guard is dropped.
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { lock: self }
    }

    /// Waits for the lock without a guard: to hold it across a fork.
    pub fn acquire(&self) {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            // A wake-up for no reason, a signal and a changed word all mean the same: look again.
            let _ = futex::wait(&self.word, futex::Flags::PRIVATE, CONTENDED, None);
        }
    }

    /// Gives up what [`acquire`](Self::acquire) took. Must be called by the side that took it, or, after a fork,
    /// once on each side.
    pub fn release(&self) {
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            let _ = futex::wake(&self.word, futex::Flags::PRIVATE, 1);
        }
    }
}

/// Exclusive access to the value of a [`Lock`].
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while its thread holds the lock word, so nobody else has a reference.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `&mut self` makes this the only use of the guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.release();
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn increments_from_many_threads_are_all_counted() {
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| *COUNT.lock() += 1));
            }
        });
        assert_eq!(*COUNT.lock(), 80_000);
    }
}
