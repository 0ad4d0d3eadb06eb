//! A slot's path. The old path stays whole until the new one is: each change goes to the other place (in the slot, or
//! in a block), and one store of the descriptor switches over. A process killed at any point leaves one of the two.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::block::{Owner, read_bytes, write_bytes};
use crate::checksum::Checksum;
use crate::layout::{PATH_INLINE_WORDS, PATH_MAX_LEN};
use crate::{Slot, SlotGuard, StashError};

/// How often a reader tries again when the path changes under it. Each change takes a lock and two copies.
const READ_TRIES: u32 = 1000;

/// Length in bits 0-11, place in 12-35 (0 = in the slot, else block + 1), check in 36-55, version in 56-63.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Descriptor(u64);

impl Descriptor {
    fn new(len: usize, place: u32, check: u64, version: u64) -> Self {
        Self(len as u64 | (place as u64) << 12 | (check >> 44) << 36 | version << 56)
    }

    fn len(self) -> usize {
        (self.0 & 0xfff) as usize
    }

    fn place(self) -> u32 {
        (self.0 >> 12) as u32 & 0xff_ffff
    }

    fn version(self) -> u64 {
        self.0 >> 56
    }
}

impl<'a> Slot<'a> {
    /// Copies the path into `buffer` ([`PATH_MAX_LEN`] bytes suffice) and returns the part used. Takes no lock.
    pub fn path<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], StashError> {
        for _ in 0..READ_TRIES {
            let control = self.check_live()?;
            let descriptor = Descriptor(self.raw().path.load(Ordering::Acquire));
            let len = descriptor.len();
            let Some(bytes) = buffer.get_mut(..len) else {
                return Err(StashError::BufferTooSmall { needed: len });
            };
            let mut check = Checksum::new(len as u64);
            let place = self.place(descriptor);
            if let Some(words) = place {
                read_bytes(words, bytes, &mut check);
            }
            fence(Ordering::Acquire);
            let unchanged = self.raw().path.load(Ordering::Relaxed) == descriptor.0;
            if !unchanged || self.check_live()? != control {
                core::hint::spin_loop();
                continue;
            }
            let whole = place.is_some()
                && Descriptor::new(len, descriptor.place(), check.finish(), descriptor.version())
                    == descriptor;
            return if whole || descriptor.0 == 0 {
                Ok(&buffer[..len])
            } else {
                Err(StashError::Corrupt("path"))
            };
        }
        Err(StashError::Corrupt("path"))
    }

    fn place(&self, descriptor: Descriptor) -> Option<&'a [AtomicU64]> {
        match descriptor.place() {
            0 => {
                let words = &self.raw().path_inline;
                (descriptor.len() <= PATH_INLINE_WORDS * 8).then_some(&words[..])
            }
            block => Some(self.arena().block(block - 1, Owner::slot(self.id()))?),
        }
    }

    /// Sets the first path of a slot that nobody can see yet.
    pub(crate) fn start_path(&self, path: &[u8]) -> Result<(), StashError> {
        self.write_path(path, Descriptor::new(0, 1, 0, 0))
    }

    pub(crate) fn drop_path(&self) {
        let old = Descriptor(self.raw().path.swap(0, Ordering::AcqRel));
        if old.place() != 0 {
            self.arena().free_block(old.place() - 1, Owner::slot(self.id()));
        }
    }

    /// Whether the slot's path lies in this block.
    pub(crate) fn path_uses_block(&self, block: u32) -> bool {
        Descriptor(self.raw().path.load(Ordering::Acquire)).place() == block + 1
    }

    /// Writes `path` to where the path described by `old` is not.
    fn write_path(&self, path: &[u8], old: Descriptor) -> Result<(), StashError> {
        let (len, owner) = (path.len(), Owner::slot(self.id()));
        if len > PATH_MAX_LEN {
            return Err(StashError::TooLong { what: "path", len, max: PATH_MAX_LEN });
        }
        let inline = len <= PATH_INLINE_WORDS * 8 && old.place() != 0;
        let block = if inline { None } else { Some(self.arena().alloc_block(owner)?) };
        let mut check = Checksum::new(len as u64);
        // A reader that sees a byte of the new path must also see that the descriptor has left this place.
        fence(Ordering::Release);
        match block.and_then(|block| self.arena().block(block, owner)) {
            Some(words) => write_bytes(words, path, &mut check),
            None if inline => write_bytes(&self.raw().path_inline, path, &mut check),
            None => return Err(StashError::Corrupt("block owner")),
        }
        let place = block.map_or(0, |block| block + 1);
        let new = Descriptor::new(len, place, check.finish(), old.version().wrapping_add(1));
        self.raw().path.store(new.0, Ordering::Release);
        Ok(())
    }
}

impl SlotGuard<'_> {
    /// Replaces the path (at most [`PATH_MAX_LEN`] bytes). Kill-safe: readers find the old path or the new one.
    pub fn set_path(&self, path: &[u8]) -> Result<(), StashError> {
        let slot = &self.slot;
        slot.check_live()?;
        let old = Descriptor(slot.raw().path.load(Ordering::Acquire));
        slot.write_path(path, old)?;
        if old.place() != 0 {
            slot.arena().free_block(old.place() - 1, Owner::slot(slot.id()));
        }
        Ok(())
    }
}
