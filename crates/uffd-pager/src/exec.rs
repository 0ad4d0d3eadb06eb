//! Over an exec: the other threads of the process end wherever they are, and the process lives on.
//!
//! A lock, or a fault being served, in memory that others share ends with its process ([`Owner`](crate::owner::Owner)). So no thread
//! may be ended by exec inside one: who executes another program keeps the others out, and waits until all have left.
//!
//! Who enters says which thread it is, in a table; who is about to exec sets a word and then looks at the table, who enters does it the other way round. A
//! thread that is inside may enter again. A child of a fork finds entries of its parent's threads, and vfork's child
//! shares the table with its parent: neither's threads are the other's to wait for, and exec ends none of them.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::thread::{is_of_this_process, this_thread};
use crate::wait::Backoff;

/// Sections in which threads can be at a time without waiting for each other.
const PLACES: usize = 128;

/// The threads that are inside, 0 for none.
static INSIDE: [AtomicU32; PLACES] = [const { AtomicU32::new(0) }; PLACES];
/// The thread that executes another program, 0 for none.
static EXECUTING: AtomicU32 = AtomicU32::new(0);

/// To be called right before execve(2) or execveat(2) in a process whose other threads may use a pager or a [`View`](crate::View): waits until none of them
/// holds what other processes wait for, and lets none in until this is dropped, after an exec that has failed. Not in a child of vfork, which
/// ends no thread of its parent's.
///
/// Any thread, not in a signal handler that may have interrupted another call of this. It waits as long as a source takes to
/// read or write what it is asked for, as the kernel's own exec waits for reads that cannot be interrupted.
pub fn before_exec() -> Executing {
    let me = this_thread();
    let mut backoff = Backoff::default();
    loop {
        match EXECUTING.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => break,
            Err(other) => forget_if_gone(&EXECUTING, other),
        }
        backoff.pause();
    }
    for place in &INSIDE {
        let mut backoff = Backoff::default();
        loop {
            let thread = place.load(Ordering::SeqCst);
            if thread == 0 || thread == me || !is_of_this_process(thread) {
                break;
            }
            backoff.pause();
        }
    }
    Executing(())
}

/// No other thread of this process is inside what it shares with other processes: see [`before_exec`].
#[must_use = "the others go on as soon as this is dropped"]
#[derive(Debug)]
pub struct Executing(());

impl Drop for Executing {
    fn drop(&mut self) {
        EXECUTING.store(0, Ordering::SeqCst);
    }
}

/// A thread of a process that this one has the table of, or had: of a parent, or a child of vfork.
fn forget_if_gone(word: &AtomicU32, thread: u32) {
    if thread != 0 && !is_of_this_process(thread) {
        let _ = word.compare_exchange(thread, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}

/// The calling thread is inside: exec waits for it.
#[derive(Debug)]
pub(crate) struct Inside {
    thread: u32,
    /// `None`: it is so by another one of these.
    place: Option<&'static AtomicU32>,
}

impl Inside {
    /// Waits while another thread executes a program, which ends this one if it succeeds. To be held for no longer than what must not be broken
    /// off, and not while waiting for others who hold one: there are only so many places. Any context.
    pub(crate) fn enter() -> Self {
        let me = this_thread();
        let mut backoff = Backoff::default();
        loop {
            if let Some(inside) = Self::try_enter(me) {
                return inside;
            }
            if backoff.pause() {
                forget_if_gone(&EXECUTING, EXECUTING.load(Ordering::SeqCst));
                for place in &INSIDE {
                    forget_if_gone(place, place.load(Ordering::SeqCst));
                }
            }
        }
    }

    fn try_enter(me: u32) -> Option<Self> {
        let first = me as usize % PLACES;
        let (before, after) = INSIDE.split_at(first);
        let take = |place: &&AtomicU32| {
            place.load(Ordering::Relaxed) == 0
                && place.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        let Some(place) = after.iter().chain(before).find(take) else {
            return Self::again(me);
        };
        let executing = EXECUTING.load(Ordering::SeqCst);
        if executing == 0 || executing == me {
            return Some(Self { thread: me, place: Some(place) });
        }
        place.store(0, Ordering::SeqCst);
        Self::again(me)
    }

    /// If the thread is inside already.
    fn again(me: u32) -> Option<Self> {
        let is_inside = INSIDE.iter().any(|place| place.load(Ordering::Relaxed) == me);
        is_inside.then_some(Self { thread: me, place: None })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // Not if somebody has taken this thread, vfork's child or its parent, for one that is gone.
            let _ = place.compare_exchange(self.thread, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
    }
}
