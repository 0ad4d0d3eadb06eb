//! Entering resident pages into the page table, protected against stores.
//!
//! Where pages can be stored to the kernel enters none by itself. From 6.4 on it does at our word and in one step (`UFFDIO_CONTINUE_MODE_WP`). Before, a page is
//! entered open and protected then, and other threads may store to it in between: so it is entered as dirty before that, and struck off again
//! if it holds what it held and nobody wrote it back meanwhile.

use crate::attached::Attached;
use crate::mapping::Mapping;
use crate::page::{PAGE, intersection, offset_of};
use crate::pager::Pager;
use crate::resident::first_hole;
use crate::signals::{Blocked, block_all};
use crate::table::Steady;
use crate::uffd::Access;
use crate::wait::Backoff;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most pages that are entered together in steps.
const MOST: u64 = 64;

impl Pager {
    /// Enters resident pages that are not entered, up to one that is missing: protected against stores, but those that are open. Nothing where the kernel
    /// enters them by itself, or where something else is mapped by now; only those that are `awaited` while the mappings are being changed.
    pub(crate) fn enter_pages(&self, mapping: &Mapping, pages: &Range<u64>, awaited: &Range<u64>) {
        let pages = intersection(pages, &mapping.pages());
        let awaited = intersection(awaited, &pages);
        if !mapping.tracked || pages.is_empty() {
            return;
        }
        let in_one_step = self.features.enters_protected();
        let steady = if in_one_step { self.table.steady() } else { self.table.steady_in_fault() };
        if let Some(steady) = steady {
            steady.parts(mapping, &pages).for_each(|(row, part)| self.enter_protected(&steady, row, &part));
        } else if in_one_step {
            self.uffd.enter_each(&mapping.addresses(&awaited), Access::Protected);
        } else {
            // Open, and with that dirty, they can be entered in any case. An error is one of the next touch.
            let _ = self.open_unsteadily(mapping, &awaited);
        }
    }

    /// The same, of a mapping that stays as it is.
    pub(crate) fn enter_protected(&self, _: &Steady<'_>, mapping: &Mapping, pages: &Range<u64>) {
        if self.features.enters_protected() {
            self.uffd.enter_each(&mapping.addresses(pages), Access::Protected);
        } else if self.enter_in_steps(mapping, pages).is_err() {
            let _ = self.open_unsteadily(mapping, pages);
        }
    }

    fn enter_in_steps(&self, mapping: &Mapping, pages: &Range<u64>) -> std::result::Result<(), Errno> {
        let attached = &*mapping.attached;
        let (ledger, slot) = (&attached.ledger, attached.slot());
        // Whoever brings pages in has a buffer already: all of them might wait for each other's.
        let mut buffer = self.buffers.try_take(attached.entering()).ok_or(Errno::BUSY)?;
        let (before, after) = buffer.bytes().split_at_mut(MOST as usize * PAGE);
        let _alone = attached.steps.as_ref().map(Steps::wait);
        let mut rest = pages.clone();
        while let Some((run, is_open)) = ledger.first_run(slot, rest.clone()) {
            let run = run.start..run.end.min(run.start + MOST);
            let memory = mapping.addresses(&run);
            rest.start = run.end;
            let entered = if is_open {
                self.uffd.enter_each(&memory, Access::AsMapped)
            } else {
                // A page that is missing would look like one of zeros, and others may bring it in.
                let resident = first_hole(&attached.cache.pages, &run).map_or(run.end, |hole| hole.start);
                let (run, memory) = (run.start..resident, mapping.addresses(&(run.start..resident)));
                let size = memory.len();
                let written = ledger.times_written();
                read_resident(attached, &run, &mut before[..size])?;
                ledger.mark(slot, run.clone());
                let entered = self.uffd.enter_each(&memory, Access::AsMapped);
                let closed = self
                    .uffd
                    .write_protect(&memory, true)
                    .and_then(|()| read_resident(attached, &run, &mut after[..size]));
                let both = before[..size].chunks(PAGE).zip(after[..size].chunks(PAGE));
                for (page, (before, after)) in run.clone().zip(both) {
                    // What it holds again may not be what the source was given in between.
                    if closed.is_ok() && before == after && !ledger.written_since(written, page) {
                        ledger.clear(slot, page..page + 1);
                    } else {
                        attached.opened(1);
                    }
                }
                closed?;
                entered
            };
            if entered < memory.end {
                break;
            }
        }
        Ok(())
    }
}

/// What pages hold, zeros where they are missing.
fn read_resident(
    attached: &Attached,
    pages: &Range<u64>,
    buffer: &mut [u8],
) -> std::result::Result<(), Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(
            &attached.cache.pages,
            &mut buffer[done..],
            offset_of(pages.start) + done as u64,
        )? {
            0 => buffer[done..].fill(0), // past the end of the file
            read => {
                done += read;
                continue;
            }
        }
        break;
    }
    Ok(())
}

/// Keeps the threads that enter pages as dirty from meeting one that enters pages in steps: it would strike theirs off.
#[derive(Debug, Default)]
pub(crate) struct Steps(AtomicBool);

impl Steps {
    /// Waits for the others, who are at it for some system calls. Signals are blocked until the result is dropped, as a handler might have to wait for its own
    /// thread.
    pub(crate) fn wait(&self) -> Alone<'_> {
        let signals = block_all();
        let mut backoff = Backoff::default();
        while self.0.swap(true, Ordering::SeqCst) {
            backoff.pause();
        }
        Alone { steps: self, _signals: signals }
    }

    /// In the child of a fork, where those who were at it are not.
    pub(crate) fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// No other thread is at it.
pub(crate) struct Alone<'a> {
    steps: &'a Steps,
    _signals: Blocked,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.steps.0.store(false, Ordering::SeqCst);
    }
}
