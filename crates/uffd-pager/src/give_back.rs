//! Giving resident pages back: those that nobody can have stored to since they were last written back.
//!
//! With the gate closed no page comes in and none is opened for stores. What is clean then (no process has its bit) can be
//! stored to by nobody, so it can be taken away: the next touch, of whatever process, is a fault that waits for the gate and reads
//! the page again.
//!
//! That rests on every process's protection to outlive its pages. The kernel keeps the mark in the page table when it takes a page away, except
//! for a page that is entered there at that very moment: so where pages can be stored to the kernel enters none by itself, and the pager does ([`enter`](crate::enter)) only
//! inside the gate.

use crate::attached::Attached;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::ledger::{Closed, Ledger, Locked};
use crate::page::{intersection, offset_of, pages_of};
use crate::pager::{Pager, Source};
use crate::resident::first_data;
use crate::room::Room;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::ops::Range;

impl Pager {
    /// Gives resident pages that are not dirty back to the kernel; the next touch, of whatever process, reads
    /// them again from the source. Returns how many. With `write_back` all that is dirty in this process only
    /// is written back before. Pages that system calls use stay ([`Pager::prefault`]).
    ///
    /// The pager does so by itself when room grows short. This is also how a source that changed behind the cache's back comes
    /// to be seen.
    pub fn drop_pages(&self, source: &Source, write_back: bool) -> Result<u64> {
        const ACTION: &str = "giving clean pages back";
        let attached = &*source.0;
        let locked = attached.ledger.lock(attached.owner());
        locked.adopt_orphans();
        if write_back {
            self.write_back(&locked, attached, 0..u64::MAX, true).map_err(Error::on(ACTION))?;
        }
        let closed = locked.close_gate();
        drop_clean(&attached.ledger, &attached.cache, &closed, &(0..0), u64::MAX).map_err(Error::on(ACTION))
    }

    /// Makes room for a fault on `attached`: gives `wanted` pages back, or as many as there are, but for `keep`; of other sources
    /// too if these are too few. In the handler of a fault; the thread is not inside, unless it is reading from some source.
    pub(crate) fn make_room(&self, attached: &Attached, keep: &Range<u64>, wanted: u64) -> u64 {
        let patience = !self.buffers.any_in_use_here();
        let mut given = self.give_back(attached, keep, wanted, patience);
        let reader = self.table.read();
        let mut last = std::ptr::from_ref(attached);
        for row in reader.rows() {
            let other = std::ptr::from_ref(&*row.attached);
            if given >= wanted {
                break;
            }
            if !std::ptr::eq(other, last) && !std::ptr::eq(other, attached) {
                given += self.give_back(&row.attached, &(0..0), wanted - given, patience);
            }
            last = other;
        }
        if given < wanted && patience {
            given += (self.host.reclaim)(wanted - given);
        }
        given
    }

    fn give_back(&self, attached: &Attached, keep: &Range<u64>, wanted: u64, patience: bool) -> u64 {
        if !attached.is_usable() {
            return 0;
        }
        attached.runs.forget();
        let Some(locked) = attached.ledger.lock_in_fault(attached.owner(), patience) else { return 0 };
        let clean = |wanted| {
            let Some(closed) = locked.close_gate_in_fault(patience) else { return 0 };
            drop_clean(&attached.ledger, &attached.cache, &closed, keep, wanted).unwrap_or(0)
        };
        let mut given = clean(wanted);
        // What the dead left is looked for last: that takes some 10 us for each process that uses the source.
        for adopt in [false, true] {
            if given < wanted {
                if adopt {
                    locked.adopt_orphans();
                }
                // What cannot be written stays.
                let _ = self.write_back(&locked, attached, 0..u64::MAX, false);
                given += clean(wanted - given);
            }
        }
        given
    }

    /// Writes back what this process has open if it has more open than there is room left, so that whatever the others do, what
    /// is dirty never takes up all of it: of what one process has open nothing can be given back by others.
    pub(crate) fn limit_open(&self, attached: &Attached, room: Room) {
        let open = |attached: &Attached| {
            let pages = 0..pages_of(attached.ledger.length());
            u64::from(attached.ledger.count(attached.slot(), pages))
        };
        let reader = self.table.read();
        let rows = reader.rows();
        let firsts = rows.iter().enumerate().filter(|(index, row)| {
            *index == 0 || !std::ptr::eq(&raw const *rows[index - 1].attached, &raw const *row.attached)
        });
        let all: u64 = firsts.clone().map(|(_, row)| open(&row.attached)).sum();
        if all <= room.free.max(MOST_OPEN) {
            attached.look_after((room.free.saturating_sub(all) / 256).clamp(MOST_OPEN, MOST_UNSEEN));
            return;
        }
        attached.look_after(MOST_OPEN);
        let patience = !self.buffers.any_in_use_here();
        let write = |attached: &Attached| {
            if let Some(locked) = attached.ledger.lock_in_fault(attached.owner(), patience) {
                // An error leaves them dirty, and comes out at the next msync.
                let _ = self.write_back(&locked, attached, 0..u64::MAX, false);
            }
        };
        write(attached);
        firsts.filter(|(_, row)| open(&row.attached) > MOST_OPEN).for_each(|(_, row)| write(&row.attached));
    }
}

/// As many pages a process may have open for stores however little room there is.
const MOST_OPEN: u64 = 16;
/// Most pages opened before it is seen whether too many are.
const MOST_UNSEEN: u64 = 1024;

/// Punches holes where pages are clean and nobody holds them, from the hand on, until `wanted` are gone.
pub(crate) fn drop_clean(
    ledger: &Ledger,
    cache: &Cache,
    closed: &Closed<'_>,
    keep: &Range<u64>,
    wanted: u64,
) -> std::result::Result<u64, Errno> {
    let pinned = ledger.pinned();
    let end = pages_of(ledger.length());
    let hand = closed.hand().min(end);
    let mut given = 0;
    closed.giving_back(|| {
        for part in [hand..end, 0..hand] {
            let mut rest = part;
            while given < wanted
                && let Some(data) = first_data(&cache.pages, &rest)
            {
                let data = data.start..data.end.min(data.start.saturating_add(wanted - given));
                rest.start = data.end;
                for outside in [data.start..data.end.min(keep.start), data.start.max(keep.end)..data.end] {
                    let mut clean_from = intersection(&outside, &data);
                    while let Some(clean) = ledger.first_clean(clean_from.clone()) {
                        clean_from.start = clean.end;
                        for free in pinned.free(clean) {
                            punch(cache, &free)?;
                            given += free.end - free.start;
                        }
                    }
                }
                closed.set_hand(rest.start);
            }
        }
        Ok(given)
    })
}

fn punch(cache: &Cache, pages: &Range<u64>) -> std::result::Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&cache.pages, flags, offset_of(pages.start), offset_of(pages.end - pages.start))
}

/// As [`Pager::drop_pages`] by who has nothing attached: what is dirty stays.
pub(crate) fn give_back_clean(
    locked: &Locked<'_>,
    ledger: &Ledger,
    cache: &Cache,
    wanted: u64,
) -> std::result::Result<u64, Errno> {
    locked.adopt_orphans();
    let Some(closed) = locked.close_gate_in_fault(true) else { return Ok(0) };
    drop_clean(ledger, cache, &closed, &(0..0), wanted)
}
