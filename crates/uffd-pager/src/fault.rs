//! Serving a fault: reading what is missing, entering what is stored to.

use crate::attached::Attached;
use crate::buffers::Buffer;
use crate::error::{Error, Result};
use crate::ledger::InFlight;
use crate::mapping::{Mapping, Sharing};
use crate::memory;
use crate::owner::Owner;
use crate::page::{PAGE, intersection, offset_of, pages_of};
use crate::pager::{Mode, Pager};
use crate::resident::{first_data, first_hole, hole_at};
use crate::room::Room;
use crate::runs::MAX_RUN;
use crate::wait::Backoff;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

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
            Ok(Served::Entered) => Handled::Retry,
            Ok(Served::PastEnd) => Handled::PastEnd,
            Err(errno) => Handled::Failed(errno),
        }
    }

    fn serve(&self, mapping: &Mapping, page: u64, write: bool) -> std::result::Result<Served, Errno> {
        let attached = &*mapping.attached;
        let mut room = Wanted::default();
        loop {
            match self.try_serve(mapping, page, write, &room) {
                Ok(served) => return Ok(served),
                Err(stop) => self.resume(attached, &(page..page + 1), &stop, &mut room)?,
            }
        }
    }

    /// Inside: serves the fault, or says what is to be done first outside.
    fn try_serve(
        &self,
        mapping: &Mapping,
        page: u64,
        write: bool,
        room: &Wanted,
    ) -> std::result::Result<Served, Stop> {
        let attached = &*mapping.attached;
        let _inside = self.enter(attached)?;
        if page >= pages_of(attached.ledger.length()) {
            return Ok(Served::PastEnd);
        }
        if page >= attached.ledger.capacity_pages() {
            return Err(Errno::FBIG.into());
        }
        if page >= attached.ledger.reserved() {
            return Err(Stop::Unreserved(page + 1));
        }
        let filled = self.bring_in(attached, page, room)?;
        if write && mapping.tracked {
            return self.open_for_stores(mapping, page, room).map(Served::Ready);
        }
        if !self.enters(mapping) {
            return Ok(Served::Ready(intersection(&filled, &mapping.pages())));
        }
        // Up to a page that is not there, in both directions.
        let block = page / BLOCK * BLOCK..page / BLOCK * BLOCK + BLOCK;
        self.enter_pages(mapping, &(page..filled.end.max(block.end)));
        self.enter_pages(mapping, &(filled.start.min(block.start)..page));
        Ok(Served::Entered)
    }

    /// Outside: does what made [`Pager::try_serve`] stop.
    fn resume(
        &self,
        attached: &Attached,
        pages: &Range<u64>,
        stop: &Stop,
        room: &mut Wanted,
    ) -> std::result::Result<(), Errno> {
        match *stop {
            Stop::Failed(errno) => return Err(errno),
            Stop::Short(wanted) => {
                room.asked = true;
                self.make_room(attached, pages, wanted);
            }
            Stop::Full(wanted) => {
                room.asked = true;
                room.attempts += 1;
                if self.make_room(attached, pages, wanted) == 0 && room.attempts > ATTEMPTS {
                    return Err(Errno::NOMEM);
                }
            }
            Stop::Unreserved(pages) => {
                let patience = !self.buffers.any_in_use_here();
                let locked =
                    attached.ledger.lock_in_fault(attached.owner(), patience).ok_or(Errno::DEADLK)?;
                let reserved = locked.reserve(&attached.cache.ledger, pages);
                drop(locked);
                if let Err(errno) = reserved {
                    room.attempts += 1;
                    if self.make_room(attached, &(0..0), BLOCK) == 0 || room.attempts > ATTEMPTS {
                        return Err(errno);
                    }
                }
            }
            Stop::TooManyOpen(now) => {
                room.limited = true;
                self.limit_open(attached, now);
            }
        }
        Ok(())
    }

    /// Whether resident pages are entered into the page table by us, as the kernel does not do it by itself.
    fn enters(&self, mapping: &Mapping) -> bool {
        mapping.tracked && self.features.minor_faults()
    }

    /// Enters resident pages that are not entered, protected against stores.
    fn enter_pages(&self, mapping: &Mapping, pages: &Range<u64>) {
        let memory = mapping.addresses(pages);
        if self.enters(mapping) && !memory.is_empty() {
            self.uffd.enter_protected(&memory);
        }
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
    fn bring_in(
        &self,
        attached: &Attached,
        page: u64,
        room: &Wanted,
    ) -> std::result::Result<Range<u64>, Stop> {
        let file = &attached.cache.pages;
        let length = attached.ledger.length();
        let most = self.most_at_once(attached, room)?;
        let plan = attached.runs.plan(page, pages_of(length).min(attached.ledger.reserved()));
        let plan = plan.start.max((page + 1).saturating_sub(most))..plan.end.min(page + most);
        let hole = hole_at(file, &(page..plan.end));
        if hole.is_empty() {
            return Ok(page..page + 1);
        }
        let mut pages = plan.start..hole.end;
        while let Some(data) = first_data(file, &(pages.start..page)) {
            pages.start = data.end;
        }
        let Some(mut buffer) = self.buffers.take(attached.id()) else { return Err(Errno::DEADLK.into()) };
        // Reading ahead must not fail what was asked for.
        if read(attached, &mut buffer, &pages, length).is_err() {
            pages = page..page + 1;
            read(attached, &mut buffer, &pages, length)?;
        }
        let count = pages.end - pages.start;
        let data = &buffer.bytes()[..offset_of(count) as usize];
        match attached.window.fill(&self.uffd, &attached.cache, pages.start, data) {
            Err(Errno::NOMEM | Errno::NOSPC) => return Err(Stop::Full(count.max(BLOCK))),
            other => other?,
        }
        attached.runs.filled(&pages);
        attached.credit.fetch_sub(count as i64, Ordering::Relaxed);
        self.memory.filled(count);
        Ok(pages)
    }

    /// Looks now and then how much room there is, and says how many pages may come in at once.
    fn most_at_once(&self, attached: &Attached, room: &Wanted) -> std::result::Result<u64, Stop> {
        if attached.credit.load(Ordering::Relaxed) > MAX_RUN as i64 {
            return Ok(MAX_RUN);
        }
        let now = Room::of(&attached.cache, &attached.ledger, &self.memory);
        attached.credit.store(now.credit(), Ordering::Relaxed);
        let most = now.most_at_once().min(MAX_RUN);
        match now.lacks(most) {
            0 => Ok(most),
            // What there is is used when there is no more to be had.
            _ if room.asked => Ok(most.min(now.free).max(1)),
            wanted => Err(Stop::Short(wanted)),
        }
    }

    /// Enters pages as dirty and lets them be stored to: the one, and those around it that are likely next.
    fn open_for_stores(
        &self,
        mapping: &Mapping,
        page: u64,
        room: &Wanted,
    ) -> std::result::Result<Range<u64>, Stop> {
        let attached = &*mapping.attached;
        if attached.opened.load(Ordering::Relaxed) >= OPENED && !room.limited {
            attached.opened.store(0, Ordering::Relaxed);
            return Err(Stop::TooManyOpen(Room::of(&attached.cache, &attached.ledger, &self.memory)));
        }
        let end = pages_of(attached.ledger.length()).min(attached.ledger.reserved());
        let limits = intersection(&mapping.pages(), &(0..end));
        let pages = intersection(&likely(attached, page), &limits);
        attached.opened.fetch_add(pages.end - pages.start, Ordering::Relaxed);
        let memory = mapping.addresses(&pages);
        self.enter_pages(mapping, &pages);
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
            while attached.closing.load(Ordering::SeqCst) != 0 {
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
            self.bring_in(attached, hole.start, room)?;
        }
        self.enter_pages(part, &pages);
        if write && part.tracked && !pages.is_empty() {
            let memory = part.addresses(&pages);
            attached.ledger.mark(attached.slot(), pages);
            self.uffd.write_protect(&memory, false)?;
        }
        Ok(())
    }
}

/// What is to be done outside before a fault can be served.
enum Stop {
    Failed(Errno),
    /// There is little room: as many pages are to be given back, if they can.
    Short(u64),
    /// There was none.
    Full(u64),
    /// There is no memory for the bits of as many pages.
    Unreserved(u64),
    /// It is to be seen whether too many pages are open for stores, with this room.
    TooManyOpen(Room),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// What was tried for a fault.
#[derive(Default)]
struct Wanted {
    asked: bool,
    limited: bool,
    attempts: u32,
}

/// How often a page is brought in again after there was no room for it and none could be made: others may give some back.
const ATTEMPTS: u32 = 20;
/// How many pages are opened before it is seen whether too many are open.
const OPENED: u64 = 16;
/// As many pages a system call gets however little room there is.
const MIN_HELD: u64 = 4;

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

enum Served {
    /// These pages can be touched without the pager.
    Ready(Range<u64>),
    /// So can this one, and neighbours that are in the page table now.
    Entered,
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
