//! Faults on one side, taking pages away on the other: never both.
//!
//! Serving a fault brings a page in or lets it be stored to. Evicting or cutting off pages meanwhile
//! would lose a store or bring back what was cut off. A fault enters ([`InFlight`]); who takes pages away
//! closes the gate and waits until all who are inside have left. The dead do not count on either side.

use super::{Ledger, Locked, SLOTS};
use crate::exec::Inside;
use crate::owner::Owner;
use crate::signals::{Blocked, block_all};
use crate::thread::this_thread;
use crate::wait::Backoff;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

impl Ledger {
    /// Enters, waiting while the gate is closed. Any thread, signal handlers too; not recursive: who is
    /// inside may not wait for the gate again ([`Ledger::enter_nested`]). EDEADLK: the thread itself has closed it.
    pub(crate) fn enter(&self, slot: usize, me: Owner) -> Result<InFlight<'_>, Errno> {
        let mut backoff = Backoff::default();
        loop {
            let inside = self.enter_nested(slot);
            let closed_by = self.header().closed_by.load(Ordering::SeqCst);
            if closed_by == 0 {
                return Ok(inside);
            }
            drop(inside);
            if closed_by == me.0 && self.header().closer.load(Ordering::Relaxed) == this_thread() {
                return Err(Errno::DEADLK);
            }
            if backoff.pause() {
                self.break_gate();
            }
        }
    }

    /// Enters without waiting: for who is inside already.
    pub(crate) fn enter_nested(&self, slot: usize) -> InFlight<'_> {
        let inside = Inside::enter();
        self.slot(slot).in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight { ledger: self, slot, _inside: inside }
    }

    /// Runs `read`, which looks at resident pages by FD; `None` if some may have been given back before it was done.
    pub(crate) fn unless_given_back<T>(&self, me: Owner, read: impl FnOnce() -> T) -> Option<T> {
        let header = self.header();
        let mut backoff = Backoff::default();
        let before = loop {
            let before = header.given_back.load(Ordering::SeqCst);
            let closed_by = header.closed_by.load(Ordering::SeqCst);
            let by_us = closed_by == me.0 && header.closer.load(Ordering::Relaxed) == this_thread();
            if before.is_multiple_of(2) || closed_by == 0 || by_us {
                break before;
            }
            if backoff.pause() {
                self.break_gate();
            }
        };
        let result = read();
        (header.given_back.load(Ordering::SeqCst) == before).then_some(result)
    }

    fn break_gate(&self) {
        let word = &self.header().closed_by;
        let holder = word.load(Ordering::Relaxed);
        if holder != 0 && !Owner(holder).is_alive() {
            let _ = word.compare_exchange(holder, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
    }
}

/// A fault is being served.
pub(crate) struct InFlight<'a> {
    ledger: &'a Ledger,
    slot: usize,
    _inside: Inside,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.ledger.slot(self.slot).in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Locked<'_> {
    /// Closes the gate and waits for the faults inside. Signals are blocked until it opens again, but for those
    /// that the thread's own instructions raise: a handler of this thread that touches the file would fail.
    pub(crate) fn close_gate(&self) -> Closed<'_> {
        self.close(true).expect("whoever is patient closes it")
    }

    /// As [`Locked::close_gate`]; `None`, without `patience`, if somebody stays inside for more than a moment: for who may be
    /// inside itself, or be waited for by those who are.
    pub(crate) fn close_gate_in_fault(&self, patience: bool) -> Option<Closed<'_>> {
        self.close(patience)
    }

    fn close(&self, patience: bool) -> Option<Closed<'_>> {
        let closed = Closed { ledger: self.ledger, _signals: block_all() };
        let word = &self.ledger.header().closed_by;
        self.ledger.header().closer.store(this_thread(), Ordering::Relaxed);
        // Only the lock's holder closes; a dead one may have left it closed.
        word.store(self.me.0, Ordering::SeqCst);
        // Who takes a slot from now on finds the gate closed.
        for slot in (1..SLOTS).filter(|&slot| self.ledger.owner(slot).is_somebody()) {
            let mut backoff = Backoff::default();
            while self.ledger.slot(slot).in_flight.load(Ordering::SeqCst) != 0 {
                if backoff.pause() {
                    if !self.ledger.owner(slot).is_alive() {
                        break;
                    }
                    if !patience {
                        return None;
                    }
                }
            }
        }
        Some(closed)
    }
}

/// No fault is served until this is dropped.
pub(crate) struct Closed<'a> {
    ledger: &'a Ledger,
    _signals: Blocked,
}

impl Closed<'_> {
    /// Runs `punch`, which takes pages away, and lets readers by FD know ([`Ledger::unless_given_back`]).
    pub(crate) fn giving_back<T>(&self, punch: impl FnOnce() -> T) -> T {
        let word = &self.ledger.header().given_back;
        // A dead one may have left it odd.
        word.store((word.load(Ordering::SeqCst) | 1) + 2, Ordering::SeqCst);
        let result = punch();
        word.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// Where to go on giving back; `set_hand` says it for the next time.
    pub(crate) fn hand(&self) -> u64 {
        self.ledger.header().hand.load(Ordering::Relaxed)
    }

    pub(crate) fn set_hand(&self, page: u64) {
        self.ledger.header().hand.store(page, Ordering::Relaxed);
    }

    /// Sets the length. Of the pages past it only the orphans are forgotten: the processes' own bits also say
    /// which pages are open for stores, and those still are when the file grows again.
    pub(crate) fn set_length(&self, length: u64) {
        let old = self.ledger.header().length.swap(length, Ordering::AcqRel);
        let gone = crate::page::pages_of(length)..crate::page::pages_of(old);
        if !gone.is_empty() {
            self.ledger.clear(super::ORPHANS, gone);
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // The gate opens before the signals are let in: fields drop after this.
        self.ledger.header().closed_by.store(0, Ordering::SeqCst);
    }
}
