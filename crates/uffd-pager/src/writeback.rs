//! Writing back what is dirty, changing the length.
//!
//! A page on its way to the source is an orphan from before its protection until the source has it, so that
//! whoever finds the writer dead, or the source failing, writes it again. It is read by FD, not
//! through a mapping, and only where it is resident: a hole is not zeros.

use crate::attached::Attached;
use crate::buffers::Buffer;
use crate::error::{Error, Result};
use crate::ledger::{Dirty, Ledger, Locked, ORPHANS};
use crate::page::{intersection, offset_of, pages_of, touched};
use crate::pager::{Pager, Source};
use crate::resident::first_data;
use crate::signals::block_all;
use rustix::fs::ftruncate;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::Ordering;

const SYNC: &str = "writing mapped pages back";

impl Pager {
    /// msync(2) with `MS_SYNC` for the served parts of a range of memory: everything that any process has
    /// stored to their pages until now is handed to the source. The first error is returned after the
    /// rest was tried; what could not be written stays dirty.
    pub fn sync(&self, memory: Range<usize>) -> Result<()> {
        let mut result = Ok(());
        for (part, source, offset) in self.mappings(memory) {
            let bytes = offset..offset + part.len() as u64;
            result = result.and(self.sync_pages(&source.0, touched(&bytes)));
        }
        result
    }

    /// As [`Pager::sync`], for all of a source, mapped here or not: fsync(2), or cleaning up after processes
    /// that were killed.
    pub fn sync_source(&self, source: &Source) -> Result<()> {
        self.sync_pages(&source.0, 0..u64::MAX)
    }

    fn sync_pages(&self, attached: &Attached, pages: Range<u64>) -> Result<()> {
        let locked = attached.ledger.lock(attached.owner());
        locked.adopt_orphans();
        self.write_back(&locked, attached, pages, true).map_err(Error::on(SYNC))
    }

    /// Without `patience`, for faults, it fails where other threads' changes of mappings take long.
    pub(crate) fn write_back(
        &self,
        _: &Locked<'_>,
        attached: &Attached,
        pages: Range<u64>,
        patience: bool,
    ) -> std::result::Result<(), Errno> {
        let mut buffer = self.buffers.take(attached.writing()).ok_or(Errno::DEADLK)?;
        each_dirty(&attached.ledger, pages, |dirty| {
            self.close_for_stores(attached, dirty, patience)?;
            write_out(attached, &mut buffer, dirty)
        })
    }

    /// Makes dirty pages orphans that this process cannot store to without a fault, but for those that a system call may be storing to:
    /// they stay open, and dirty.
    fn close_for_stores(
        &self,
        attached: &Attached,
        dirty: &Dirty,
        patience: bool,
    ) -> std::result::Result<(), Errno> {
        let (ledger, slot) = (&attached.ledger, attached.slot());
        dirty.runs().for_each(|run| ledger.mark(ORPHANS, run));
        if !attached.is_usable() {
            return Ok(()); // Nothing is open for stores in this process.
        }
        let (Some(first), Some(last)) = (dirty.runs().next(), dirty.runs().last()) else { return Ok(()) };
        // Mappings must not come and go between the two steps.
        let change =
            if patience { self.table.change() } else { self.table.change_in_fault().ok_or(Errno::BUSY)? };
        // A system call's memory is held, then it waits while this is not 0, then it is opened: so either we see it, or it is
        // opened after us. No handler of this thread may wait for us.
        let signals = block_all();
        attached.closers.fetch_add(1, Ordering::SeqCst);
        let held = ledger.pinned_by(slot);
        let hull = first.start..last.end;
        let protect = |pages: Range<u64>| {
            let rows = change.rows().iter();
            rows.filter(|row| row.tracked && std::ptr::eq(&raw const *row.attached, attached))
                .map(|row| row.addresses(&pages))
                .filter(|memory| !memory.is_empty())
                .try_for_each(|memory| self.uffd.write_protect(&memory, true))
        };
        let result = if held.is_empty() {
            dirty.runs().for_each(|run| {
                attached.closing(&run);
                ledger.clear(slot, run);
            });
            protect(hull)
        } else {
            dirty.runs().flat_map(|run| held.free(run)).try_for_each(|run| {
                attached.closing(&run);
                ledger.clear(slot, run.clone());
                protect(run)
            })
        };
        if result.is_err() {
            dirty.runs().for_each(|run| {
                attached.opening(&run);
                ledger.mark(slot, run);
            });
        }
        attached.closers.fetch_sub(1, Ordering::SeqCst);
        drop(signals);
        result
    }

    /// ftruncate(2): the source's length, then the cache's. Mappings past the end give SIGBUS from then on, in
    /// every process, and pages past it are gone. No fault is served meanwhile, and the signals of this thread
    /// wait. EFBIG: past the cache's capacity.
    pub fn set_len(&self, source: &Source, length: u64) -> Result<()> {
        const ACTION: &str = "setting the length of a mapped source";
        let attached = &*source.0;
        attached.check_capacity(length)?;
        {
            // As `map` does it: one thread at a time changes the window.
            let _change = self.table.change();
            attached.window.cover(&self.uffd, &attached.cache, length)?;
        }
        let locked = attached.ledger.lock(attached.owner());
        locked.reserve(&attached.cache.ledger, pages_of(length)).map_err(Error::on(ACTION))?;
        let closed = locked.close_gate();
        attached.source.set_len(length).map_err(Error::on(ACTION))?;
        // The ledger's length never passes the file's, whenever this process may be killed.
        if length < attached.ledger.length() {
            closed.set_length(length);
        }
        ftruncate(&attached.cache.pages, length).map_err(Error::on(ACTION))?;
        closed.set_length(length);
        Ok(())
    }
}

/// When the last user in this process goes: what is dirty here, and what dead processes left. Errors
/// leave it dirty for the others.
pub(crate) fn write_last(attached: &Attached) {
    let locked = attached.ledger.lock(attached.owner());
    locked.adopt_orphans();
    locked.orphan(attached.slot());
    let Ok(buffers) = crate::buffers::Buffers::new() else { return };
    let Some(mut buffer) = buffers.take(attached.writing()) else { return };
    let _ = each_dirty(&attached.ledger, 0..u64::MAX, |dirty| write_out(attached, &mut buffer, dirty));
}

pub(crate) fn dirty_pages(attached: &Attached) -> u64 {
    let mut count = 0;
    let counted = each_dirty(&attached.ledger, 0..u64::MAX, |dirty| {
        count += dirty.runs().map(|run| run.end - run.start).sum::<u64>();
        Ok(())
    });
    debug_assert_eq!(counted, Ok(()));
    count
}

/// Goes through the dirty pages a stretch at a time; the first error comes out at the end.
pub(crate) fn each_dirty(
    ledger: &Ledger,
    pages: Range<u64>,
    mut action: impl FnMut(&Dirty) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    let mut rest = intersection(&pages, &(0..pages_of(ledger.length())));
    let mut result = Ok(());
    while let Some(dirty) = ledger.dirty(rest.clone()) {
        result = result.and(action(&dirty));
        rest.start = dirty.stretch().end.min(rest.end);
    }
    result
}

/// Writes orphans to the source and strikes them off the list.
fn write_out(attached: &Attached, buffer: &mut Buffer<'_>, dirty: &Dirty) -> std::result::Result<(), Errno> {
    dirty.runs().try_for_each(|run| {
        let mut rest = run.clone();
        while let Some(data) = first_data(&attached.cache.pages, &rest) {
            write_pages(attached, buffer, &data)?;
            rest.start = data.end;
        }
        attached.ledger.written(run);
        Ok(())
    })
}

fn write_pages(
    attached: &Attached,
    buffer: &mut Buffer<'_>,
    pages: &Range<u64>,
) -> std::result::Result<(), Errno> {
    let offset = offset_of(pages.start);
    let end = offset_of(pages.end).min(attached.ledger.length());
    let bytes = &mut buffer.bytes()[..end.saturating_sub(offset) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(&attached.cache.pages, &mut bytes[done..], offset + done as u64)? {
            0 => return Err(Errno::IO),
            read => done += read,
        }
    }
    if bytes.is_empty() { Ok(()) } else { attached.source.write(offset, bytes) }
}
