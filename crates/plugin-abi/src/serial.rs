//! The lock that serialises a plugin which is not thread-safe.

use core::sync::atomic::{AtomicU32, Ordering};
use rustix::thread::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A futex lock. It keeps nothing per thread and allocates nothing; [`reset`](Self::reset) frees it in a
/// forked child, where the holder does not exist.
#[derive(Debug, Default)]
pub(crate) struct SerialLock {
    state: AtomicU32,
}

/// Unlocks when dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a>(&'a SerialLock);

impl SerialLock {
    pub(crate) fn lock(&self) -> Guard<'_> {
        self.acquire();
        Guard(self)
    }

    /// Takes the lock without a guard, for the span of a fork.
    pub(crate) fn acquire(&self) {
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            // EAGAIN and EINTR mean: look again.
            let _ = futex::wait(&self.state, futex::Flags::PRIVATE, CONTENDED, None);
        }
    }

    pub(crate) fn release(&self) {
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
        }
    }

    /// In a forked child, before any second thread exists: frees the lock, whoever held it.
    pub(crate) fn reset(&self) {
        self.state.store(FREE, Ordering::Release);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::SerialLock;
    use std::cell::UnsafeCell;

    struct Counter(SerialLock, UnsafeCell<u64>);
    // SAFETY: the cell is only touched under the lock.
    unsafe impl Sync for Counter {}

    #[test]
    fn one_thread_at_a_time() {
        let counter = Counter(SerialLock::default(), UnsafeCell::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let counter = &counter;
                    for _ in 0..10_000 {
                        let _guard = counter.0.lock();
                        // SAFETY: under the lock.
                        unsafe { *counter.1.get() += 1 };
                    }
                });
            }
        });
        assert_eq!(counter.1.into_inner(), 40_000);
    }

    #[test]
    fn reset_frees_a_held_lock() {
        let lock = SerialLock::default();
        lock.acquire();
        lock.reset();
        drop(lock.lock());
    }
}
