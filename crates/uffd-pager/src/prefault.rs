//! Mapped memory as an argument of a system call, where a fault would fail: ready before the call, held until it has returned.

use crate::attached::Attached;
use crate::error::{Error, Result};
use crate::fault::{Stop, Wanted};
use crate::fill::Placing;
use crate::mapping::Mapping;
use crate::owner::Owner;
use crate::page::{PAGE, intersection, offset_of, pages_of};
use crate::pager::Pager;
use crate::resident::first_hole;
use crate::room::Room;
use crate::wait::Backoff;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// As many pages a system call gets however little room there is.
const MIN_HELD: u64 = 4;

impl Pager {
    /// Prepares memory for a system call: its served parts are read, and opened for stores if `write`, and
    /// stay so until the result is dropped. Signal handlers may call it.
    ///
    /// Past the end of the file nothing is prepared: the call fails there as it would on a kernel file system. Nor is what lies behind as much as
    /// there is room for at a time ([`Prefaulted::memory`]): there a call that transfers ends early.
    /// EIO and other errors: the source's.
    pub fn prefault(&self, memory: Range<usize>, write: bool) -> Result<Prefaulted<'_>> {
        const ACTION: &str = "reading mapped memory for a system call";
        let reader = self.table.read();
        let mut end = memory.start;
        let mut left = u64::MAX;
        for mapping in reader.overlapping(&memory) {
            let Room { total, .. } =
                Room::of(&mapping.attached.cache, &mapping.attached.ledger, &self.memory);
            left = left.min((total / 8).max(MIN_HELD));
            let part = mapping.part(&whole(&memory));
            let pages = (part.memory.len() / PAGE) as u64;
            end = part.memory.start + offset_of(pages.min(left)) as usize;
            left = left.saturating_sub(pages);
            if left == 0 {
                break;
            }
        }
        let memory = if left == 0 { memory.start..memory.end.min(end) } else { memory };
        let prefaulted = Prefaulted { reader, memory, held: true };
        for mapping in prefaulted.mappings() {
            let attached = &*mapping.attached;
            attached.ledger.pin(attached.slot(), &prefaulted.pages(mapping));
            let mut backoff = Backoff::default();
            while attached.closers.load(Ordering::SeqCst) != 0 {
                backoff.pause();
            }
        }
        for mapping in prefaulted.mappings() {
            let part = mapping.part(&whole(&prefaulted.memory));
            self.prepare(&part, write).map_err(Error::on(ACTION))?;
        }
        Ok(prefaulted)
    }

    fn prepare(&self, part: &Mapping, write: bool) -> std::result::Result<(), Errno> {
        let mut room = Wanted { limited: true, ..Wanted::default() };
        loop {
            match self.try_prepare(part, write, &room) {
                Ok(()) => return Ok(()),
                Err(stop) => self.resume(&part.attached, &(0..0), &stop, &mut room)?,
            }
        }
    }

    fn try_prepare(&self, part: &Mapping, write: bool, room: &Wanted) -> std::result::Result<(), Stop> {
        let attached = &*part.attached;
        let _inside = self.enter(attached)?;
        let pages = intersection(&part.pages(), &(0..pages_of(attached.ledger.length())));
        if pages.end > attached.ledger.capacity_pages() {
            return Err(Errno::FBIG.into());
        }
        if pages.end > attached.ledger.reserved() {
            return Err(Stop::Unreserved(pages.end));
        }
        while let Some(hole) = first_hole(&attached.cache.pages, &pages) {
            let open = if write { pages.clone() } else { hole.start..hole.start };
            self.bring_in(attached, hole.start, room, Some(&Placing { mapping: part, open }))?;
        }
        if write && part.tracked {
            self.open(part, &pages, &part.pages())?;
        } else {
            self.enter_pages(part, &pages, &pages);
        }
        Ok(())
    }
}

/// Memory that a system call may use. Keep it until the call has returned.
pub struct Prefaulted<'a> {
    reader: crate::table::Reader<'a>,
    memory: Range<usize>,
    held: bool,
}

impl Prefaulted<'_> {
    fn mappings(&self) -> &[Mapping] {
        self.reader.overlapping(&whole(&self.memory))
    }

    /// The pages of a mapping that are held.
    fn pages(&self, mapping: &Mapping) -> Range<u64> {
        mapping.part(&whole(&self.memory)).pages()
    }

    /// What was prepared: of what was asked for all, or the beginning.
    pub fn memory(&self) -> Range<usize> {
        self.memory.clone()
    }

    /// Goes on holding the pages, without keeping what is unmapped meanwhile from being let go of: for calls that may wait for long.
    /// Allocates.
    pub fn keep(mut self) -> Kept {
        let part = |mapping: &Mapping| {
            let attached = &mapping.attached;
            (Arc::downgrade(attached), attached.owner(), self.pages(mapping))
        };
        let parts = self.mappings().iter().map(part).collect();
        self.held = false;
        Kept(parts)
    }

    /// To be called in the child of a fork made while this was held: it is the parent's.
    pub fn disown(self) {
        std::mem::forget(self);
    }
}

impl Drop for Prefaulted<'_> {
    fn drop(&mut self) {
        let held = if self.held { self.mappings() } else { &[] };
        for mapping in held {
            mapping.attached.ledger.unpin(mapping.attached.slot(), &self.pages(mapping));
        }
    }
}

/// Pages that stay resident, and open for stores if they were opened, as long as their source is mapped. In the child of a fork it is
/// nothing.
#[derive(Debug)]
pub struct Kept(Vec<(Weak<Attached>, Owner, Range<u64>)>);

impl Drop for Kept {
    fn drop(&mut self) {
        for (attached, owner, pages) in &self.0 {
            if let Some(attached) = attached.upgrade().filter(|attached| attached.owner() == *owner) {
                attached.ledger.unpin(attached.slot(), pages);
            }
        }
    }
}

fn whole(memory: &Range<usize>) -> Range<usize> {
    memory.start / PAGE * PAGE..memory.end.next_multiple_of(PAGE)
}
