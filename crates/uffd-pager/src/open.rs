//! Opening pages for stores: which, and how.
//!
//! Where the kernel ends a page's protection (`UFFDIO_WRITEPROTECT`) it takes its entry out of the page table for a moment, also if there was none to end. A system call
//! of another thread's that stores there just then fails: it meets what looks like a resident page that was never entered. So one thread at a time opens pages
//! of a source ([`Opener`]), and what others hold for a call ([`Pager::prefault`]) is left as it is if it is open. Who pins pages does so before it
//! opens them: so either it waits for who has not seen that, or the other sees it.

use crate::attached::Attached;
use crate::fault::{BLOCK, Served, Stop, Wanted};
use crate::fill::Placing;
use crate::mapping::Mapping;
use crate::memory;
use crate::page::{PAGE, intersection, pages_of};
use crate::pager::Pager;
use crate::room::Room;
use crate::table::{PATIENCE, Steady};
use crate::uffd::Access;
use crate::wait::Backoff;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many pages of a block are dirty when all of them are opened for stores.
const DENSE: u32 = 4;
/// The aligned blocks that are opened where stores are all over the file.
const LARGE: u64 = 64;
const LARGEST: u64 = 256;
/// Most pages opened for stores ahead of sequential ones.
const MAX_AHEAD: u64 = 256;

impl Pager {
    /// Brings a page in, enters it as dirty and lets it be stored to, with those around it that are likely next.
    pub(crate) fn open_for_stores(
        &self,
        mapping: &Mapping,
        page: u64,
        room: &Wanted,
    ) -> std::result::Result<Served, Stop> {
        let attached = &*mapping.attached;
        if attached.is_time_to_look() && !room.limited {
            let now = Room::of(&attached.cache, &attached.ledger, &self.memory);
            return Err(Stop::TooManyOpen(now));
        }
        let end = pages_of(attached.ledger.length()).min(attached.ledger.reserved());
        let limits = intersection(&mapping.pages(), &(0..end));
        let pages = intersection(&likely(attached, page, end), &limits);
        let filled = self.bring_in(attached, page, room, Some(&Placing { mapping, open: pages.clone() }))?;
        if filled.entered.contains(&page) {
            let done = intersection(&filled.entered, &pages);
            self.open_beside(mapping, &(pages.start..done.start));
            self.open_beside(mapping, &(done.end..pages.end));
            return Ok(Served::Entered);
        }
        // Those around it only as far as nothing is missing: so first the one that the thread waits for.
        let mut at_once = self.open(mapping, &(page..page + 1), &NONE)?;
        at_once &= self.open_beside(mapping, &(page + 1..pages.end));
        at_once &= self.open_beside(mapping, &(pages.start..page));
        Ok(if at_once { Served::Entered } else { Served::Ready(pages) })
    }

    /// Enters pages as dirty and lets them be stored to, up to one that is missing. Whether a store to any of them needs no fault at all now, not even one that
    /// the kernel serves by itself. Nothing is done where something else is mapped by now: whoever touches that meets another fault. `own`: what the caller has
    /// pinned.
    pub(crate) fn open(
        &self,
        mapping: &Mapping,
        pages: &Range<u64>,
        own: &Range<u64>,
    ) -> std::result::Result<bool, Errno> {
        if pages.is_empty() {
            return Ok(true);
        }
        if let Some(steady) = self.table.steady_in_fault() {
            return self.open_steadily(&steady, mapping, pages, own);
        }
        self.open_unsteadily(mapping, pages)?;
        Ok(false)
    }

    /// As [`Pager::open`], for pages that nobody waits for: not where the mappings are being changed, and what fails is left as it is.
    fn open_beside(&self, mapping: &Mapping, pages: &Range<u64>) -> bool {
        if pages.is_empty() {
            return true;
        }
        let Some(steady) = self.table.steady_in_fault() else { return false };
        self.open_steadily(&steady, mapping, pages, &NONE).unwrap_or(false)
    }

    fn open_steadily(
        &self,
        steady: &Steady<'_>,
        mapping: &Mapping,
        pages: &Range<u64>,
        own: &Range<u64>,
    ) -> std::result::Result<bool, Errno> {
        let mut at_once = true;
        for (row, part) in steady.parts(mapping, pages) {
            let attached = &*row.attached;
            attached.opening(&part);
            // Nobody closes pages meanwhile.
            let mut rest = part;
            while let Some((run, was_open)) = attached.ledger.first_run(attached.slot(), rest.clone()) {
                rest.start = run.end;
                attached.mark(&run);
                at_once &= self.open_run(row, &run, was_open, own)?;
            }
        }
        Ok(at_once)
    }

    /// As [`Pager::open`], where the mappings are being changed: for pages that somebody waits for.
    pub(crate) fn open_unsteadily(
        &self,
        mapping: &Mapping,
        pages: &Range<u64>,
    ) -> std::result::Result<(), Errno> {
        let (attached, memory) = (&*mapping.attached, mapping.addresses(pages));
        attached.opening(pages);
        // Who writes back takes the entry away and then protects: if that fell between our two steps,
        // the pages would be open and not entered.
        loop {
            attached.mark(pages);
            let _alone = attached.opener.wait();
            self.uffd.enter_each(&memory, Access::AsMapped);
            self.end_protection(mapping, pages, &NONE)?;
            if u64::from(attached.ledger.count(attached.slot(), pages.clone())) == pages.end - pages.start {
                return Ok(());
            }
        }
    }

    /// Opens pages that are entered as dirty: before this, or long since, as they may be open in this mapping or in another.
    fn open_run(
        &self,
        mapping: &Mapping,
        run: &Range<u64>,
        was_open: bool,
        own: &Range<u64>,
    ) -> std::result::Result<bool, Errno> {
        let _alone = mapping.attached.opener.wait();
        let memory = mapping.addresses(run);
        let entered = self.uffd.enter_open(&memory);
        if entered == memory.end {
            return Ok(true);
        }
        // To end the protection of one that was there would leave a fault for it, if one that the kernel serves by itself.
        if !was_open && take_out(&mapping.attached, &memory, run) {
            self.uffd.enter_open(&memory);
            return Ok(true);
        }
        self.uffd.enter_each(&(entered + PAGE..memory.end), Access::AsMapped);
        self.end_protection(mapping, run, own)?;
        Ok(was_open)
    }

    /// Opens a page that was there when it was to be brought in.
    pub(crate) fn open_one(&self, mapping: &Mapping, page: u64) -> std::result::Result<(), Errno> {
        let _alone = mapping.attached.opener.wait();
        let pages = page..page + 1;
        let memory = mapping.addresses(&pages);
        if self.uffd.enter_open(&memory) == memory.end {
            return Ok(());
        }
        self.end_protection(mapping, &pages, &NONE)
    }

    /// By the [`Opener`]: lets pages be stored to that are in the page table.
    fn end_protection(
        &self,
        mapping: &Mapping,
        pages: &Range<u64>,
        own: &Range<u64>,
    ) -> std::result::Result<(), Errno> {
        let attached = &*mapping.attached;
        let held = attached.ledger.pinned_by_others(attached.slot(), own);
        let mut next = pages.start;
        for free in held.free(pages.clone()) {
            self.open_held(mapping, next..free.start)?;
            self.uffd.write_protect(&mapping.addresses(&free), false)?;
            next = free.end;
        }
        self.open_held(mapping, next..pages.end)
    }

    /// The same, of pages that system calls may be using: those that are open stay in the page table.
    fn open_held(&self, mapping: &Mapping, mut pages: Range<u64>) -> std::result::Result<(), Errno> {
        pages.try_for_each(|page| {
            let memory = mapping.addresses(&(page..page + 1));
            if memory::are_open(&memory) { Ok(()) } else { self.uffd.write_protect(&memory, false) }
        })
    }
}

/// Nothing is pinned by who opens pages.
const NONE: Range<u64> = 0..0;

/// The right to open pages of a source for stores in this process.
#[derive(Debug, Default)]
pub(crate) struct Opener(AtomicBool);

impl Opener {
    /// Waits for other threads, which have it for some system calls; not for ever, as it may be this thread's, interrupted by a signal.
    fn wait(&self) -> Option<Opening<'_>> {
        let mut backoff = Backoff::default();
        (0..PATIENCE).find_map(|_| {
            let taken = self.0.swap(true, Ordering::SeqCst);
            if taken {
                backoff.pause();
            }
            (!taken).then(|| Opening(self))
        })
    }

    /// In the child of a fork, where those who had it are not.
    pub(crate) fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct Opening<'a>(&'a Opener);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.reset();
    }
}

/// Takes pages out of the page table, in the handler of a fault: not if a system call may be using them, to which they would be missing.
fn take_out(attached: &Attached, memory: &Range<usize>, pages: &Range<u64>) -> bool {
    // As in `close_for_stores`: who holds pages for a call waits while this is not 0.
    attached.closers.fetch_add(1, Ordering::SeqCst);
    let held = attached.ledger.pinned_by(attached.slot());
    let is_free = held.free(pages.clone()).eq([pages.clone()]);
    let taken = is_free && memory::take_out(memory);
    attached.closers.fetch_sub(1, Ordering::SeqCst);
    taken
}

/// The pages to open for a store to one: as many ahead as were stored to just before it, or the
/// whole block if a good part of it is dirty, or if a good part of the file is. So at most four times as much is written back as was stored
/// to, unless that is more than a 32nd of the file.
fn likely(attached: &Attached, page: u64, end: u64) -> Range<u64> {
    let dirty = |pages: Range<u64>| attached.ledger.count(attached.slot(), pages);
    let before =
        (1..=MAX_AHEAD.min(page)).take_while(|&back| dirty(page - back..page - back + 1) == 1).count() as u64;
    if before >= 2 {
        return page..page + before;
    }
    let aligned = |size: u64| page / size * size..page / size * size + size;
    match attached.open_pages() {
        open if open >= ALL_OVER && open * 8 >= end => aligned(LARGEST),
        open if open >= ALL_OVER && open * 32 >= end => aligned(LARGE),
        _ if dirty(aligned(BLOCK)) >= DENSE => aligned(BLOCK),
        _ => page..page + 1,
    }
}

/// Stores to fewer pages than this are nowhere all over the file: 1 MiB.
const ALL_OVER: u64 = 256;
