//! A lock that can be held across `fork` and that needs nothing but a futex.
//!
//! The interposer runs under the program's locks, in forked children of threaded programs and in vfork
//! children, so its own locks must be takeable before a fork and releasable on both sides of it. The standard
//! library's guards cannot be carried across the two hooks; [`Lock::acquire`] and [`Lock::release`] can.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::thread::futex;

use crate::thread;

const FREE: u32 = 0;
/// Somebody has it. The bits above the lowest two name the suspended thread whose vfork child that is, if it is one.
const HELD: u32 = 1;
/// Somebody waits.
const WAITED: u32 = 2;
const THREAD: u32 = 2;
/// The holder has had all who wait look again. Above all threads' ids.
const TOLD: u32 = 1 << 31;

/// Mutual exclusion around a `T`, private to this process.
pub struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, or by the holder between `acquire` and `release`; the lock
// word makes those exclusive, so sharing the lock between threads shares `T` by turns only.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

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

    /// As [`lock`](Self::lock), unless `instead` has an answer: asked before each wait, and again when the holder has called
    /// [`tell_waiters`](Self::tell_waiters). Not in a vfork child.
    pub fn lock_unless<R>(&self, instead: impl FnMut() -> Option<R>) -> Result<Guard<'_, T>, R> {
        match take_unless(&self.word, HELD, instead) {
            None => Ok(Guard { lock: self }),
            Some(answer) => Err(answer),
        }
    }

    /// By the holder: whoever waits, and from now on begins to, finds what the holder did before.
    pub fn tell_waiters(&self) {
        // The word stays another one until the lock is released, so nobody falls asleep who looked earlier.
        self.word.fetch_or(TOLD, Ordering::AcqRel);
        let _ = futex::wake(&self.word, futex::Flags::PRIVATE, i32::MAX as u32);
    }

    /// Waits for the lock without a guard: to hold it across a fork.
    pub fn acquire(&self) {
        if interpose::in_vfork_child() {
            return self.acquire_for_child();
        }
        take(&self.word, HELD);
    }

    /// As [`acquire`](Self::acquire), for the vfork child that this thread is or is about to make: if it is killed before it lets go,
    /// [`release_of_child`] does.
    pub fn acquire_for_child(&self) {
        let thread = thread::id();
        Held::note(&self.word, thread);
        take(&self.word, HELD | thread << THREAD);
    }

    /// Gives up what [`acquire`](Self::acquire) took. Must be called by the side that took it, or, after a fork,
    /// once on each side.
    pub fn release(&self) {
        let word = give(&self.word);
        if child(word) != 0 {
            Held::forget(&self.word, child(word));
        }
    }
}

/// The thread whose vfork child had a lock with this word, or 0.
fn child(word: u32) -> u32 {
    (word & !TOLD) >> THREAD
}

fn take(word: &AtomicU32, mine: u32) {
    take_unless(word, mine, || None::<()>);
}

/// `None` when it was taken.
fn take_unless<R>(word: &AtomicU32, mine: u32, mut instead: impl FnMut() -> Option<R>) -> Option<R> {
    if word.compare_exchange(FREE, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return None;
    }
    loop {
        // Who has waited does not know whether others do.
        let Err(seen) = word.compare_exchange(FREE, mine | WAITED, Ordering::Acquire, Ordering::Acquire)
        else {
            return None;
        };
        let waited = seen | WAITED;
        if seen == waited || word.compare_exchange(seen, waited, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            // The word says that somebody waits: one wake-up may have been ours, and the next release makes another.
            if let Some(answer) = instead() {
                return Some(answer);
            }
            // A wake-up for no reason, a signal and a changed word all mean the same: look again.
            let _ = futex::wait(word, futex::Flags::PRIVATE, waited, None);
        }
    }
}

fn give(word: &AtomicU32) -> u32 {
    let before = word.swap(FREE, Ordering::Release);
    if before & WAITED != 0 {
        let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
    }
    before
}

/// A lock that a vfork child has, or is about to take. It runs on its parent's memory, and may be killed with the lock.
struct Held {
    thread: AtomicU32,
    word: AtomicPtr<AtomicU32>,
}

/// More than all vfork children of a process have at one time; one that finds no place holds its lock unnoted.
static HELD_BY_CHILDREN: [Held; 128] =
    [const { Held { thread: AtomicU32::new(0), word: AtomicPtr::new(ptr::null_mut()) } }; 128];

impl Held {
    fn note(word: &AtomicU32, thread: u32) {
        let claims = |held: &&Self| {
            held.thread.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if let Some(held) = HELD_BY_CHILDREN.iter().find(claims) {
            held.word.store(ptr::from_ref(word).cast_mut(), Ordering::Release);
        }
    }

    fn forget(word: &AtomicU32, thread: u32) {
        let is_it = |held: &&Self| {
            held.thread.load(Ordering::Relaxed) == thread && ptr::eq(held.word.load(Ordering::Relaxed), word)
        };
        if let Some(held) = HELD_BY_CHILDREN.iter().find(is_it) {
            held.free();
        }
    }

    fn free(&self) {
        self.word.store(ptr::null_mut(), Ordering::Relaxed);
        self.thread.store(0, Ordering::Release);
    }
}

/// The vfork child of this thread has ended or has its own memory: lets go of the locks that it had if it was killed.
///
/// What such a lock protects may be half changed. Nothing of ours is, but for the heap: whoever is killed inside of an allocation, for
/// some 50 ns, may leave that broken.
pub fn release_of_child() {
    let thread = thread::id();
    for held in HELD_BY_CHILDREN.iter().filter(|held| held.thread.load(Ordering::Acquire) == thread) {
        let word = held.word.load(Ordering::Acquire);
        held.free();
        // SAFETY: `note` got it from a lock, and all are statics or parts of the process's state or of its mounts, which stay.
        let Some(word) = (unsafe { word.as_ref() }) else { continue };
        if child(word.load(Ordering::Relaxed)) == thread {
            give(word);
        } else {
            // It may have been woken to take the lock, and been killed before it did.
            let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
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
    use super::{Lock, release_of_child};

    #[test]
    fn what_a_killed_child_had_is_let_go_of_by_its_parent() {
        static LOCK: Lock<u32> = Lock::new(1);
        static OTHER: Lock<u32> = Lock::new(2);
        LOCK.acquire_for_child();
        OTHER.acquire_for_child();
        OTHER.release();
        let other = OTHER.lock();
        let waiting = std::thread::spawn(|| *LOCK.lock());
        release_of_child();
        assert_eq!(waiting.join().unwrap(), 1);
        // Nobody's child has this one.
        assert!(OTHER.word.load(std::sync::atomic::Ordering::Relaxed) != super::FREE);
        drop(other);
        assert_eq!((*LOCK.lock(), *OTHER.lock()), (1, 2));
    }

    #[test]
    fn who_waits_is_told_to_look_again() {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        static LOCK: Lock<u32> = Lock::new(1);
        let (told, asked) = (AtomicU32::new(0), AtomicU32::new(0));
        let answer = || {
            asked.fetch_add(1, SeqCst);
            (told.load(SeqCst) != 0).then_some(7)
        };
        let held = LOCK.lock();
        std::thread::scope(|scope| {
            let waiting = [(); 3].map(|()| scope.spawn(|| LOCK.lock_unless(answer).map(|guard| *guard)));
            let other = scope.spawn(|| *LOCK.lock());
            while asked.load(SeqCst) < 3 {
                std::thread::yield_now();
            }
            told.store(1, SeqCst);
            LOCK.tell_waiters();
            assert_eq!(waiting.map(|thread| thread.join().unwrap()), [Err(7); 3]);
            drop(held);
            assert_eq!(other.join().unwrap(), 1);
        });
        assert_eq!(LOCK.lock_unless(|| Some(0)).map(|guard| *guard), Ok(1));
    }

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
