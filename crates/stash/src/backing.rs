//! Memory for the entries of the tables, before they are touched: see [`crate::layout`].

use core::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{BLOCK_BYTES, PAGE, RawProcess, RawSlot, SHADOWS_PER_PAGE};
use crate::{Arena, StashError};

/// Slots, or processes, that get their memory together: few calls, and whole pages.
const TOGETHER: usize = 64;
const _: () = assert!((TOGETHER * size_of::<RawSlot>()).is_multiple_of(PAGE));
const _: () = assert!((TOGETHER * size_of::<RawProcess>()).is_multiple_of(PAGE));

/// A part of the arena with so many bytes for each entry of a table, which get their memory so many entries at a time.
struct Part {
    at: usize,
    entry: usize,
    together: usize,
}

impl Arena {
    /// Before the record of the slot `index` is touched. [`StashError::NoSpace`] if there is no memory for it.
    #[inline]
    pub(crate) fn cover_slot(&self, index: usize) -> Result<(), StashError> {
        let part =
            || [Part { at: self.map.layout().slot_records, entry: size_of::<RawSlot>(), together: TOGETHER }];
        self.cover(&self.map.header().slots_top, index, part)
    }

    /// As [`Arena::cover_slot`], for a process record.
    pub(crate) fn cover_process(&self, index: usize) -> Result<(), StashError> {
        let at = self.map.layout().process_records;
        let part = || [Part { at, entry: size_of::<RawProcess>(), together: TOGETHER }];
        self.cover(&self.map.header().processes_top, index, part)
    }

    /// As [`Arena::cover_slot`], for a block and its owner word.
    pub(crate) fn cover_block(&self, index: usize) -> Result<(), StashError> {
        let layout = self.map.layout();
        let parts = || {
            [
                Part { at: layout.block_owners, entry: 8, together: PAGE / 8 },
                Part { at: layout.block_bytes, entry: BLOCK_BYTES, together: 1 },
            ]
        };
        self.cover(&self.map.header().blocks_top, index, parts)
    }

    /// Raises a high-water mark over `index`, when there is memory for what is below it.
    #[inline]
    fn cover<const N: usize>(
        &self,
        mark: &AtomicU32,
        index: usize,
        parts: impl FnOnce() -> [Part; N],
    ) -> Result<(), StashError> {
        let top = mark.load(Ordering::Acquire) as usize;
        if index < top {
            return Ok(());
        }
        for Part { at, entry, together } in parts() {
            // Whoever raised the mark to a number within a group has had memory found for all of that.
            let (first, end) = (top.next_multiple_of(together), (index + 1).next_multiple_of(together));
            if first < end {
                self.map.back(at + first * entry..at + end * entry)?;
            }
        }
        mark.fetch_max(index as u32 + 1, Ordering::Release);
        Ok(())
    }

    /// Whether the page of the shadow table on which `entry` is has memory. Without it there is nothing on it.
    #[inline]
    pub(crate) fn has_shadow_page(&self, entry: usize) -> bool {
        let page = entry / SHADOWS_PER_PAGE;
        self.map.header().shadow_pages[page / 64].load(Ordering::Acquire) & 1 << (page % 64) != 0
    }

    /// Before an entry of the shadow table is made.
    pub(crate) fn cover_shadow(&self, entry: usize) -> Result<(), StashError> {
        if !self.has_shadow_page(entry) {
            let page = entry / SHADOWS_PER_PAGE;
            let start = self.map.layout().shadow_table + page * PAGE;
            self.map.back(start..start + PAGE)?;
            self.map.header().shadow_pages[page / 64].fetch_or(1 << (page % 64), Ordering::Release);
        }
        Ok(())
    }
}
