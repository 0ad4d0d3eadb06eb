//! Keeps operations out while the process forks.
//!
//! A forked child has one thread. If another was in the middle of an operation, its locks would stay taken
//! for ever and its data half changed. So every operation passes this gate, and fork closes it first.

use core::sync::atomic::{AtomicU32, Ordering};

/// Set while the process forks; the rest of the word counts who is inside.
const CLOSED: u32 = 1 << 31;

/// One word a cache line, so that threads which read side by side do not share one.
const SHARDS: usize = 8;

#[repr(align(64))]
#[derive(Debug, Default)]
struct Shard(AtomicU32);

#[derive(Debug, Default)]
pub(crate) struct Gate {
    shards: [Shard; SHARDS],
}

/// Inside, until dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a AtomicU32);

impl Gate {
    /// Goes in; waits while the process forks.
    #[inline]
    pub(crate) fn enter(&self) -> Pass<'_> {
        // Threads have their own stacks, and stacks are far apart: a place on it tells threads apart well
        // enough, without thread-local storage.
        let place = 0_u8;
        let shard = &self.shards[(core::ptr::from_ref(&place) as usize >> 17) % SHARDS].0;
        while shard.fetch_add(1, Ordering::Acquire) & CLOSED != 0 {
            shard.fetch_sub(1, Ordering::Release);
            std::thread::yield_now();
        }
        Pass(shard)
    }

    /// Waits until nobody is inside, and lets nobody in.
    pub(crate) fn close(&self) {
        for Shard(shard) in &self.shards {
            shard.fetch_or(CLOSED, Ordering::Acquire);
            while shard.load(Ordering::Acquire) & !CLOSED != 0 {
                std::thread::yield_now();
            }
        }
    }

    /// Lets everybody in again.
    pub(crate) fn open(&self) {
        for Shard(shard) in &self.shards {
            shard.fetch_and(!CLOSED, Ordering::Release);
        }
    }

    /// In a forked child: nobody else exists.
    pub(crate) fn reset(&self) {
        for Shard(shard) in &self.shards {
            shard.store(0, Ordering::Release);
        }
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn nobody_is_inside_a_closed_gate() {
        let (gate, closed, stop) = (Gate::default(), AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(SeqCst) {
                        let _pass = gate.enter();
                        assert!(!closed.load(SeqCst));
                    }
                });
            }
            for _ in 0..1000 {
                gate.close();
                closed.store(true, SeqCst);
                std::thread::yield_now();
                closed.store(false, SeqCst);
                gate.open();
            }
            stop.store(true, SeqCst);
        });
    }

    #[test]
    fn a_child_finds_the_gate_open() {
        let gate = Gate::default();
        std::mem::forget(gate.enter());
        gate.reset();
        gate.close();
        gate.reset();
        drop(gate.enter());
    }
}
