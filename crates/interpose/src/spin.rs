//! A lock for what few threads want at a time, without libc and without memory of its own.

use core::hint::spin_loop;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::raw;

const SYS_SCHED_YIELD: u32 = 24;

/// Only taken inside, where no handler of the program can interrupt; and around fork, so that the child does not inherit it held.
pub struct Spin(AtomicBool);

/// Held until dropped.
pub struct Guard<'a>(&'a Spin);

impl Spin {
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Waits until it is free.
    pub fn lock(&self) -> Guard<'_> {
        while self.0.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            spin_loop();
            // SAFETY: no arguments.
            unsafe { raw::syscall1(SYS_SCHED_YIELD, 0) };
        }
        Guard(self)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Release);
    }
}
