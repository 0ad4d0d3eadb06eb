//! Many may be inside, or one alone, for whom those inside leave first and nobody comes in.
//!
//! Unlike a lock of the standard library it can be made new in the child of a fork, whose other threads are gone.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// Somebody is alone, or waits for those inside to leave.
const ALONE: u32 = 1 << 31;
/// Somebody waits for that one.
const WAITED: u32 = 1 << 30;
/// The bits that count those inside.
const INSIDE: u32 = WAITED - 1;

pub struct Gate(AtomicU32);

impl Gate {
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Comes in together with others, until the guard is dropped.
    #[inline]
    pub fn share(&self) -> Sharing<'_> {
        let word = self.0.load(Ordering::Relaxed);
        if word & ALONE != 0 || !self.changes(word, word + 1) {
            self.share_later();
        }
        Sharing(self)
    }

    #[cold]
    #[inline(never)]
    fn share_later(&self) {
        loop {
            let word = self.0.load(Ordering::Relaxed);
            if word & ALONE != 0 {
                self.wait(word);
            } else if self.changes(word, word + 1) {
                return;
            }
        }
    }

    /// Is alone until the guard is dropped. Not by who is inside.
    pub fn alone(&self) -> Alone<'_> {
        loop {
            let word = self.0.load(Ordering::Relaxed);
            if word & ALONE != 0 {
                self.wait(word);
            } else if self.changes(word, word | ALONE) {
                break;
            }
        }
        loop {
            let word = self.0.load(Ordering::Acquire);
            if word & INSIDE == 0 {
                return Alone(self);
            }
            // Woken by the last; whoever else changes the word makes it look again.
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, word, None);
        }
    }

    /// In the child of a fork: whoever was inside is not here.
    pub fn renew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn changes(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Waits until `word`, in which somebody is alone, is not so any more.
    fn wait(&self, word: u32) {
        if word & WAITED != 0 || self.changes(word, word | WAITED) {
            let _ = futex::wait(&self.0, futex::Flags::PRIVATE, word | WAITED, None);
        }
    }

    fn wake_all(&self) {
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}

/// One of those inside.
pub struct Sharing<'a>(&'a Gate);

impl Drop for Sharing<'_> {
    #[inline]
    fn drop(&mut self) {
        let before = self.0.0.fetch_sub(1, Ordering::Release);
        if before & ALONE != 0 && before & INSIDE == 1 {
            self.0.wake_all();
        }
    }
}

/// The one who is alone.
pub struct Alone<'a>(&'a Gate);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if self.0.0.swap(0, Ordering::Release) & WAITED != 0 {
            self.0.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn who_is_alone_waits_for_those_inside_and_lets_nobody_in() {
        static GATE: Gate = Gate::new();
        let [left, came] = [(); 2].map(|()| AtomicBool::new(false));
        let inside = GATE.share();
        thread::scope(|scope| {
            let alone = scope.spawn(|| {
                let alone = GATE.alone();
                assert!(left.load(Ordering::Acquire) && !came.load(Ordering::Acquire));
                drop(alone);
            });
            while GATE.0.load(Ordering::Relaxed) & ALONE == 0 {
                thread::yield_now();
            }
            let late = scope.spawn(|| {
                let _inside = GATE.share();
                came.store(true, Ordering::Release);
            });
            while GATE.0.load(Ordering::Relaxed) & WAITED == 0 {
                thread::yield_now();
            }
            left.store(true, Ordering::Release);
            drop(inside);
            alone.join().unwrap();
            late.join().unwrap();
        });
        assert_eq!(GATE.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_alone_meets_nobody() {
        static GATE: Gate = Gate::new();
        let (inside, alone) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let _sharing = GATE.share();
                        inside.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(alone.load(Ordering::Relaxed), 0);
                        inside.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _alone = GATE.alone();
                        assert_eq!(alone.fetch_add(1, Ordering::Relaxed), 0);
                        assert_eq!(inside.load(Ordering::Relaxed), 0);
                        alone.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
    }
}
