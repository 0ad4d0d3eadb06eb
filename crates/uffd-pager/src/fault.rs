//! Serving a fault: reading what is missing, entering what is stored to.

use crate::attached::Attached;
use crate::buffers::Buffer;
use crate::error::{Error, Result};
use crate::ledger::InFlight;
use crate::mapping::{Mapping, Sharing};
use crate::memory;
use crate::page::{PAGE, intersection, offset_of, pages_of};
use crate::pager::{Mode, Pager};
use crate::resident::{first_data, first_hole, hole_at};
use rustix::io::Errno;
use std::ops::Range;

/// Aligned blocks in which scattered stores are looked at together, and how many of a block's pages
/// are dirty when all of them are opened for stores.
const BLOCK: u64 = 16;
const DENSE: u32 = 4;
/// Most pages opened for stores ahead of sequential ones.
const MAX_AHEAD: u64 = 64;

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Let the thread try again: return from the signal handler.
    Retry,
    /// The address is not mapped by this pager: not our signal.
    NotServed,
    /// The page lies past the end of the file: SIGBUS for the program.
    PastEnd,
    /// The source failed, or memory is short: SIGBUS for the program. The next touch tries again.
    Failed(Errno),
}

impl Pager {
    /// Serves a fault of this process at `address`; `write` tells whether it was a store (bit 1 of
    /// the error code in the signal's context).
    ///
    /// To be called from a handler of SIGBUS with `si_code` `BUS_ADRERR` (another code is no fault of ours),
    /// installed with all signals in `sa_mask` and `SA_ONSTACK` or enough stack (4 KiB and what the source needs).
    /// Allocates nothing, takes no lock that the thread may hold, leaves errno alone; calls
    /// [`PageSource::read`](crate::PageSource::read). May wait for other threads' and processes' write
    /// protection or truncation of the same file, and for their reads if those truncate.
    pub fn handle_fault(&self, address: usize, write: bool) -> Handled {
        let reader = self.table.read();
        let Some(mapping) = reader.at(address) else { return Handled::NotServed };
        let page = mapping.page_at(address);
        match self.serve(mapping, page, write) {
            Ok(Served::Ready(ready)) => {
                // Saves the faults of the neighbours. The monitor may not touch what it serves.
                if self.mode == Mode::Signal && ready.end - ready.start > 1 {
                    memory::populate(mapping, &ready, write && mapping.sharing == Sharing::Shared);
                }
                Handled::Retry
            }
            Ok(Served::PastEnd) => Handled::PastEnd,
            Err(errno) => Handled::Failed(errno),
        }
    }

    fn serve(&self, mapping: &Mapping, page: u64, write: bool) -> std::result::Result<Served, Errno> {
        let attached = &*mapping.attached;
        let _inside = self.enter(attached)?;
        if page >= pages_of(attached.ledger.length()) {
            return Ok(Served::PastEnd);
        }
        if page >= attached.ledger.capacity_pages() {
            return Err(Errno::FBIG);
        }
        let filled = self.bring_in(attached, page)?;
        if write && mapping.tracked {
            return self.open_for_stores(mapping, page).map(Served::Ready);
        }
        Ok(Served::Ready(intersection(&filled, &mapping.pages())))
    }

    /// A thread that is reading from this source already is inside; one that is changing its length would wait
    /// for itself: EDEADLK.
    fn enter<'a>(&self, attached: &'a Attached) -> std::result::Result<InFlight<'a>, Errno> {
        if self.buffers.in_use_here(attached.id()) {
            Ok(attached.ledger.enter_nested(attached.slot()))
        } else {
            attached.ledger.enter(attached.slot(), attached.owner())
        }
    }

    /// Makes a page resident, and those that the plan for it takes along. Returns what is resident
    /// now around the page.
    fn bring_in(&self, attached: &Attached, page: u64) -> std::result::Result<Range<u64>, Errno> {
        let file = &attached.cache.pages;
        let length = attached.ledger.length();
        let plan = attached.runs.plan(page, pages_of(length));
        let hole = hole_at(file, &(page..plan.end));
        if hole.is_empty() {
            return Ok(page..page + 1);
        }
        let mut pages = plan.start..hole.end;
        while let Some(data) = first_data(file, &(pages.start..page)) {
            pages.start = data.end;
        }
        let Some(mut buffer) = self.buffers.take(attached.id()) else { return Err(Errno::DEADLK) };
        // Reading ahead must not fail what was asked for.
        if read(attached, &mut buffer, &pages, length).is_err() {
            pages = page..page + 1;
            read(attached, &mut buffer, &pages, length)?;
        }
        let data = &buffer.bytes()[..offset_of(pages.end - pages.start) as usize];
        attached.window.fill(&self.uffd, &attached.cache, pages.start, data)?;
        attached.runs.filled(&pages);
        Ok(pages)
    }

    /// Enters pages as dirty and lets them be stored to: the one, and those around it that are likely next.
    fn open_for_stores(&self, mapping: &Mapping, page: u64) -> std::result::Result<Range<u64>, Errno> {
        let attached = &*mapping.attached;
        let limits = intersection(&mapping.pages(), &(0..pages_of(attached.ledger.length())));
        let pages = intersection(&likely(attached, page), &limits);
        let memory = mapping.addresses(&pages);
        // Who writes back takes the entry away and then protects: if that fell between our two steps,
        // the pages would be open and not entered.
        loop {
            attached.ledger.mark(attached.slot(), pages.clone());
            self.uffd.write_protect(&memory, false)?;
            if attached.ledger.count(attached.slot(), pages.clone()) as u64 == pages.end - pages.start {
                return Ok(pages);
            }
        }
    }

    /// Prepares memory for a system call: its served parts are read, and opened for stores if `write`, and
    /// stay so until the result is dropped. Signal handlers may call it.
    ///
    /// Past the end of the file nothing is prepared: the call fails there as it would on a kernel file system.
    /// EIO and other errors: the source's.
    pub fn prefault(&self, memory: Range<usize>, write: bool) -> Result<Prefaulted<'_>> {
        let prefaulted = Prefaulted { reader: self.table.read(), memory };
        for mapping in prefaulted.mappings() {
            mapping.attached.ledger.pin(mapping.attached.slot());
        }
        for mapping in prefaulted.mappings() {
            let part = mapping.part(&whole(&prefaulted.memory));
            self.prepare(&part, write).map_err(Error::on("reading mapped memory for a system call"))?;
        }
        Ok(prefaulted)
    }

    fn prepare(&self, part: &Mapping, write: bool) -> std::result::Result<(), Errno> {
        let attached = &*part.attached;
        let _inside = self.enter(attached)?;
        let pages = intersection(&part.pages(), &(0..pages_of(attached.ledger.length())));
        if pages.end > attached.ledger.capacity_pages() {
            return Err(Errno::FBIG);
        }
        while let Some(hole) = first_hole(&attached.cache.pages, &pages) {
            self.bring_in(attached, hole.start)?;
        }
        if write && part.tracked && !pages.is_empty() {
            let memory = part.addresses(&pages);
            attached.ledger.mark(attached.slot(), pages);
            self.uffd.write_protect(&memory, false)?;
        }
        Ok(())
    }
}

/// Memory that a system call may use. Keep it until the call has returned.
pub struct Prefaulted<'a> {
    reader: crate::table::Reader<'a>,
    memory: Range<usize>,
}

impl Prefaulted<'_> {
    fn mappings(&self) -> &[Mapping] {
        self.reader.overlapping(&whole(&self.memory))
    }

    /// To be called in the child of a fork made while this was held: it is the parent's.
    pub fn disown(self) {
        std::mem::forget(self);
    }
}

impl Drop for Prefaulted<'_> {
    fn drop(&mut self) {
        for mapping in self.mappings() {
            mapping.attached.ledger.unpin(mapping.attached.slot());
        }
    }
}

enum Served {
    /// These pages can be touched without the pager.
    Ready(Range<u64>),
    PastEnd,
}

/// Reads pages and clears what lies past the end of the file.
fn read(
    attached: &Attached,
    buffer: &mut Buffer<'_>,
    pages: &Range<u64>,
    length: u64,
) -> std::result::Result<(), Errno> {
    let buffer = &mut buffer.bytes()[..offset_of(pages.end - pages.start) as usize];
    let offset = offset_of(pages.start);
    let inside = (length - offset).min(buffer.len() as u64) as usize;
    let done = attached.source.read(offset, &mut buffer[..inside])?;
    if done < inside {
        return Err(Errno::IO);
    }
    buffer[inside..].fill(0);
    Ok(())
}

/// The pages to open for a store to one: half as many again as were stored to just before it, or the
/// whole block if a good part of it is dirty. So at most four times as much is written back as was stored to.
fn likely(attached: &Attached, page: u64) -> Range<u64> {
    let dirty = |pages: Range<u64>| attached.ledger.count(attached.slot(), pages);
    let before =
        (1..=MAX_AHEAD.min(page)).take_while(|&back| dirty(page - back..page - back + 1) == 1).count() as u64;
    if before >= 2 {
        return page..page + before;
    }
    let block = page / BLOCK * BLOCK..page / BLOCK * BLOCK + BLOCK;
    if dirty(block.clone()) >= DENSE { block } else { page..page + 1 }
}

fn whole(memory: &Range<usize>) -> Range<usize> {
    memory.start / PAGE * PAGE..memory.end.next_multiple_of(PAGE)
}
