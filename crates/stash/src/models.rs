//! Every interleaving of the protocols' atomic steps, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p stash --lib --release models`.

use core::sync::atomic::{AtomicU32, Ordering};

use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::robust::{self, Acquired, WAITERS, Waiting};
use crate::{bitmap, offset};

/// A lock word with a futex, as far as this matters: sleeping and looking at the word are one step. There are no
/// timeouts unless the holder is dead, so a lost wake-up is a deadlock, which loom reports.
struct Lock {
    word: AtomicU64,
    asleep: Mutex<()>,
    woken: Condvar,
    dead: u64,
    inside: AtomicU64,
}

impl Lock {
    fn new(holder: u64) -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(holder),
            asleep: Mutex::new(()),
            woken: Condvar::new(),
            dead: holder & !WAITERS,
            inside: AtomicU64::new(0),
        })
    }

    fn enter(&self, me: u64) -> Acquired {
        let acquired = robust::acquire(&self.word, me, || self).unwrap();
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two holders at a time");
        self.inside.fetch_sub(1, Ordering::Relaxed);
        robust::release(&self.word, me, || self);
        acquired
    }
}

impl Waiting for &Lock {
    fn wait(&mut self, low: u32) -> bool {
        let guard = self.asleep.lock().unwrap();
        let seen = self.word.load(Ordering::SeqCst);
        if seen as u32 == low {
            if seen & !WAITERS == self.dead {
                return false;
            }
            drop(self.woken.wait(guard).unwrap());
        }
        true
    }

    fn wake(&mut self) {
        let _guard = self.asleep.lock().unwrap();
        self.woken.notify_one();
    }

    fn holder_alive(&mut self, holder: u64) -> bool {
        holder != self.dead
    }

    fn patient(&mut self) -> bool {
        true
    }

    fn spin(&mut self) {
        thread::yield_now();
    }
}

/// Runs two threads and the model's own over one lock; returns how the three came by it.
fn three_enter(holder: u64) -> Vec<Acquired> {
    let lock = Lock::new(holder);
    let threads: Vec<_> = [11, 12]
        .into_iter()
        .map(|me| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.enter(me))
        })
        .collect();
    let mut acquired = vec![lock.enter(13)];
    acquired.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    assert_eq!(lock.word.load(Ordering::SeqCst), 0, "the lock is free at the end");
    acquired
}

fn bounded() -> loom::model::Builder {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder
}

#[test]
fn a_lock_excludes_and_wakes_its_waiters() {
    bounded().check(|| assert_eq!(three_enter(0), [Acquired::Free; 3]));
}

#[test]
fn one_waiter_replaces_a_dead_holder() {
    for holder in [0x7_0000_0063, 0x7_0000_0063 | WAITERS] {
        bounded().check(move || {
            let acquired = three_enter(holder);
            assert_eq!(acquired.iter().filter(|&&how| how == Acquired::FromDead).count(), 1);
        });
    }
}

#[test]
fn an_entry_is_claimed_once_whatever_the_hints_say() {
    loom::model(|| {
        // Two entries; a claimer killed half-way left a hint on the first, and a sweeper removes it.
        let table = Arc::new(([AtomicU64::new(!0b10)], [AtomicU64::new(0), AtomicU64::new(0)]));
        let claim = |table: &([AtomicU64; 1], [AtomicU64; 2]), me: u64| {
            let cursor = AtomicU32::new(0);
            bitmap::claim(&table.0, &cursor, |index| {
                let control = table.1.get(index);
                let (ok, lost) = (Ordering::AcqRel, Ordering::Relaxed);
                Ok::<_, ()>(control.is_some_and(|control| control.compare_exchange(0, me, ok, lost).is_ok()))
            })
            .unwrap()
        };
        let other = Arc::clone(&table);
        let other = thread::spawn(move || claim(&other, 1));
        if table.1[0].load(Ordering::Acquire) == 0 {
            bitmap::heal(&table.0, 0);
        }
        let mine = claim(&table, 2);
        let theirs = other.join().unwrap();
        assert!(mine != theirs && theirs.is_some() && mine.is_some(), "{mine:?} {theirs:?}");
    });
}

#[test]
fn reads_and_a_write_share_the_offset() {
    /// Tries twice; the caller would then take the lock.
    fn read(word: &AtomicU64, count: i64) -> Option<(i64, i64)> {
        (0..2).find_map(|_| {
            let start = offset::start_of_read(word)?;
            offset::finish_read(word, start, start + count).then_some((start, start + count))
        })
    }
    bounded().check(|| {
        let word = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = [3, 5]
            .into_iter()
            .map(|count| {
                let word = Arc::clone(&word);
                thread::spawn(move || read(&word, count))
            })
            .collect();
        let start = offset::pin(&*word);
        offset::set(&*word, start + 7);
        let mut parts = vec![(start, start + 7)];
        parts.extend(readers.into_iter().filter_map(|reader| reader.join().unwrap()));
        parts.sort_unstable();
        let end = parts.iter().try_fold(0, |end, part| (part.0 == end).then_some(part.1));
        assert_eq!(end, Some(offset::load(&*word)), "{parts:?}");
    });
}
