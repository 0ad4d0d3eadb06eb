//! Finding a slot by the inode number of its shadow: the kernel object by which an unknown FD names its slot.
//!
//! An open-addressing table of slot numbers; the key is in the slot. An entry is inserted (by one compare-and-swap)
//! before the slot is given the number, so a number in a slot can always be found, and an entry whose
//! slot does not confirm it means nothing.

use core::sync::atomic::Ordering;

use crate::{Arena, Slot, SlotId, StashError};

/// Longest run of entries looked at: the table is at most half full of slots' present numbers.
const PROBES: usize = 4096;

impl Arena {
    /// The live slot whose shadow has this inode number.
    pub fn find_by_shadow(&self, inode: u64) -> Option<SlotId> {
        if inode == 0 {
            return None;
        }
        for entry in self.probe(inode) {
            if !self.has_shadow_page(entry) {
                return None;
            }
            let index = self.map.shadow_table()[entry].load(Ordering::Acquire).checked_sub(1)?;
            let raw = self.raw_slot(index as usize)?;
            if raw.shadow.load(Ordering::Acquire) == inode {
                return Some(self.live_at(index as usize)?.id());
            }
        }
        None
    }

    fn probe(&self, inode: u64) -> impl Iterator<Item = usize> {
        let entries = self.map.layout().shadow_entries;
        let start = (inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        (0..PROBES.min(entries)).map(move |step| (start + step) & (entries - 1))
    }
}

impl Slot<'_> {
    /// The inode number of the slot's shadow, which stays when the slot is freed and used again; 0 = none yet.
    pub fn shadow(&self) -> u64 {
        self.raw().shadow.load(Ordering::Acquire)
    }

    /// Records the inode number of the shadow made for this slot, not 0, once per shadow.
    pub fn set_shadow(&self, inode: u64) -> Result<(), StashError> {
        self.check_live()?;
        if inode == 0 {
            return Err(StashError::Absent("shadow inode number"));
        }
        let mine = self.id().index + 1;
        for entry in self.arena().probe(inode) {
            self.arena().cover_shadow(entry)?;
            let entry = &self.arena().map.shadow_table()[entry];
            let taken = entry.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire);
            if taken.is_ok() || taken == Err(mine) {
                self.raw().shadow.store(inode, Ordering::Release);
                return Ok(());
            }
        }
        Err(StashError::Full("shadow table"))
    }
}
