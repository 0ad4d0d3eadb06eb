//! The lock that serialises a plugin which is not thread-safe.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use rustix::thread::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A futex lock. It keeps nothing per thread and allocates nothing; [`reset`](Self::reset) frees it in a
/// forked child, where the holder does not exist.
#[derive(Debug, Default)]
pub(crate) struct SerialLock {
    state: AtomicU32,
    /// The thread pointer of the holder; 0 while nobody has it, or for the span of a fork.
    holder: AtomicUsize,
}

/// Unlocks when dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a>(&'a SerialLock);

impl SerialLock {
    /// `None` if this thread has it already: the plugin touches memory that it serves itself.
    pub(crate) fn lock(&self) -> Option<Guard<'_>> {
        let me = thread_pointer();
        if self.holder.load(Ordering::Relaxed) == me {
            return None;
        }
        self.acquire();
        self.holder.store(me, Ordering::Relaxed);
        Some(Guard(self))
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

    /// By a thread whose vfork child, which had its thread pointer, is gone: frees the lock if the child was killed with it.
    pub(crate) fn release_of_child(&self) {
        if self.holder.load(Ordering::Relaxed) == thread_pointer() {
            self.holder.store(0, Ordering::Relaxed);
            self.release();
        }
    }

    /// In a forked child, before any second thread exists: frees the lock, whoever held it.
    pub(crate) fn reset(&self) {
        self.holder.store(0, Ordering::Relaxed);
        self.state.store(FREE, Ordering::Release);
    }
}

/// Tells the threads of a process apart, at no cost.
fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: on x86-64 the first word of a thread's control block is its own address (the ABI's TLS variant II).
    unsafe {
        core::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    pointer
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Relaxed);
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
                        let _guard = counter.0.lock().expect("not held by this thread");
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

    #[test]
    fn what_a_killed_child_had_is_free() {
        let lock = SerialLock::default();
        std::mem::forget(lock.lock());
        lock.release_of_child();
        let held = lock.lock().expect("free");
        // Another thread's child had nothing.
        std::thread::scope(|scope| scope.spawn(|| lock.release_of_child()).join().unwrap());
        assert!(lock.lock().is_none());
        drop(held);
    }

    #[test]
    fn who_has_it_does_not_wait_for_itself() {
        let lock = SerialLock::default();
        let held = lock.lock();
        assert!(held.is_some() && lock.lock().is_none());
        drop(held);
        assert!(lock.lock().is_some());
    }
}
