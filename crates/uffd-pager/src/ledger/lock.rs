//! One at a time writes back, evicts or changes the length.

use super::{Ledger, ORPHANS, SLOTS};
use crate::exec::Inside;
use crate::owner::Owner;
use crate::thread::this_thread;
use crate::wait::Backoff;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

impl Ledger {
    /// Waits for the lock, or takes it from a process that is dead. Not for signal handlers: it is not recursive.
    pub(crate) fn lock(&self, me: Owner) -> Locked<'_> {
        let mut backoff = Backoff::default();
        loop {
            if let Some(locked) = self.try_lock(me) {
                return locked;
            }
            if backoff.pause() {
                self.break_lock();
            }
        }
    }

    pub(crate) fn try_lock(&self, me: Owner) -> Option<Locked<'_>> {
        let word = &self.header().locked_by;
        if word.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let inside = Inside::enter();
        word.compare_exchange(0, me.0, Ordering::Acquire, Ordering::Relaxed).ok()?;
        self.header().locker.store(this_thread(), Ordering::Relaxed);
        Some(Locked { ledger: self, me, _inside: inside })
    }

    /// As [`Ledger::lock`] for who serves a fault: `None` if this thread holds the lock already, or, without
    /// `patience`, anybody for more than a moment.
    pub(crate) fn lock_in_fault(&self, me: Owner, patience: bool) -> Option<Locked<'_>> {
        let header = self.header();
        let mut backoff = Backoff::default();
        loop {
            if let Some(locked) = self.try_lock(me) {
                return Some(locked);
            }
            let ours = header.locked_by.load(Ordering::Acquire) == me.0;
            if ours && header.locker.load(Ordering::Relaxed) == this_thread() {
                return None;
            }
            if backoff.pause() {
                self.break_lock();
                if !patience {
                    return None;
                }
            }
        }
    }

    fn break_lock(&self) {
        let word = &self.header().locked_by;
        let holder = word.load(Ordering::Relaxed);
        if holder != 0 && !Owner(holder).is_alive() {
            // Whoever comes first; what the dead one was writing back is still marked as an orphan.
            let _ = word.compare_exchange(holder, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// The lock is held.
pub(crate) struct Locked<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) me: Owner,
    _inside: Inside,
}

impl Locked<'_> {
    /// Takes over the slots of dead processes.
    pub(crate) fn adopt_orphans(&self) {
        for slot in 1..SLOTS {
            let owner = self.ledger.owner(slot);
            if owner != Owner::NOBODY && owner != self.me && !owner.is_alive() {
                self.orphan(slot);
            }
        }
    }

    /// Takes over the slots that this process has, of a time when it executed another program.
    pub(crate) fn adopt_own(&self) {
        (1..SLOTS).filter(|&slot| self.ledger.owner(slot) == self.me).for_each(|slot| self.orphan(slot));
    }

    /// Makes a slot's dirty pages orphans and frees the slot. Nobody may store by it any more.
    pub(crate) fn orphan(&self, slot: usize) {
        let pages = crate::page::pages_of(self.ledger.length()).min(self.ledger.reserved());
        for word in 0..pages.div_ceil(64) as usize {
            let bits = self.ledger.word(slot, word);
            let dirty = bits.load(Ordering::Acquire);
            if dirty != 0 {
                // Orphans first: a page is never in neither.
                self.ledger.word(ORPHANS, word).fetch_or(dirty, Ordering::SeqCst);
                bits.store(0, Ordering::SeqCst);
            }
        }
        self.ledger.slot(slot).owner.store(0, Ordering::Release);
    }
}

impl Locked<'_> {
    /// Has memory for the bits of `pages` pages, in every slot.
    pub(crate) fn reserve(&self, file: &OwnedFd, pages: u64) -> Result<(), Errno> {
        let Ledger { stride, .. } = *self.ledger;
        let header = self.ledger.header();
        let wanted = super::reservation(pages, header.capacity_pages);
        let reserved = self.ledger.reserved();
        if wanted <= reserved {
            return Ok(());
        }
        header.reserving.store(wanted, Ordering::SeqCst);
        let in_use = |&slot: &usize| slot == ORPHANS || header.slots[slot].owner.load(Ordering::SeqCst) != 0;
        let done = (0..SLOTS).filter(in_use).try_for_each(|slot| super::allocate(file, stride, slot, wanted));
        match done {
            Ok(()) => header.reserved.store(wanted, Ordering::Release),
            Err(_) => header.reserving.store(reserved, Ordering::SeqCst),
        }
        done
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.ledger.header().locker.store(0, Ordering::Relaxed);
        self.ledger.header().locked_by.store(0, Ordering::Release);
    }
}
