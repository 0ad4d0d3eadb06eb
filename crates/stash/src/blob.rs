//! A slot's blob: bytes which one process leaves for the next, such as a plugin's saved handle. It is absent while
//! being written; so a process killed half-way leaves none rather than half of one.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::block::{Owner, read_bytes, write_bytes};
use crate::checksum::Checksum;
use crate::layout::{BLOB_INLINE_WORDS, BLOB_MAX_LEN, BLOCK_BYTES};
use crate::{Slot, SlotGuard, StashError};

const READ_TRIES: u32 = 1000;
const INLINE_BYTES: usize = BLOB_INLINE_WORDS * 8;

/// "Present" in bit 0, length in 1-17, version in 32-63.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Descriptor(u64);

impl Descriptor {
    fn present(len: usize, version: u32) -> Self {
        Self(1 | (len as u64) << 1 | (version as u64) << 32)
    }

    fn absent(version: u32) -> Self {
        Self((version as u64) << 32)
    }

    fn is_present(self) -> bool {
        self.0 & 1 != 0
    }

    fn len(self) -> usize {
        (self.0 >> 1 & 0x1_ffff) as usize
    }

    fn next_version(self) -> u32 {
        ((self.0 >> 32) as u32).wrapping_add(1)
    }
}

impl Slot<'_> {
    /// The blob's length in bytes; `None` if there is no blob.
    pub fn blob_len(&self) -> Result<Option<usize>, StashError> {
        self.check_live()?;
        let descriptor = Descriptor(self.raw().blob.load(Ordering::Acquire));
        Ok(descriptor.is_present().then(|| descriptor.len()))
    }

    /// Copies the blob into `buffer` ([`BLOB_MAX_LEN`] bytes suffice) and returns the part used. Takes no lock.
    /// [`StashError::Absent`] if there is none, [`StashError::Corrupt`] if its check fails.
    pub fn blob<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], StashError> {
        for _ in 0..READ_TRIES {
            let control = self.check_live()?;
            let descriptor = Descriptor(self.raw().blob.load(Ordering::Acquire));
            if !descriptor.is_present() {
                return Err(StashError::Absent("blob"));
            }
            let len = descriptor.len();
            if len > BLOB_MAX_LEN {
                return Err(StashError::Corrupt("blob"));
            }
            let Some(bytes) = buffer.get_mut(..len) else {
                return Err(StashError::BufferTooSmall { needed: len });
            };
            let sum = self.read_blob(bytes);
            let expected = self.raw().blob_check.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            let unchanged = self.raw().blob.load(Ordering::Relaxed) == descriptor.0;
            if !unchanged || self.check_live()? != control {
                core::hint::spin_loop();
                continue;
            }
            return if sum == Some(expected) { Ok(&buffer[..len]) } else { Err(StashError::Corrupt("blob")) };
        }
        Err(StashError::Corrupt("blob"))
    }

    /// Copies the bytes and returns their check; `None` if a block is not this slot's.
    fn read_blob(&self, bytes: &mut [u8]) -> Option<u64> {
        let mut check = Checksum::new(bytes.len() as u64);
        if bytes.len() <= INLINE_BYTES {
            read_bytes(&self.raw().blob_inline, bytes, &mut check);
        } else {
            for (place, part) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
                let block = self.arena().block(self.blob_block(place), Owner::slot(self.id()))?;
                read_bytes(block, part, &mut check);
            }
        }
        Some(check.finish())
    }

    /// The number of the block with the blob's part `place`.
    fn blob_block(&self, place: usize) -> u32 {
        (self.raw().blob_inline[place / 2].load(Ordering::Relaxed) >> (place % 2 * 32)) as u32
    }

    /// Removes the blob of a slot which the caller has claimed or locked.
    pub(crate) fn drop_blob(&self) {
        let word: &AtomicU64 = &self.raw().blob;
        let old = Descriptor(word.load(Ordering::Acquire));
        if !old.is_present() {
            return;
        }
        word.store(Descriptor::absent(old.next_version()).0, Ordering::Release);
        if old.len() > INLINE_BYTES && old.len() <= BLOB_MAX_LEN {
            self.free_blob_blocks(old.len().div_ceil(BLOCK_BYTES));
        }
    }

    fn free_blob_blocks(&self, count: usize) {
        for place in 0..count {
            self.arena().free_block(self.blob_block(place), Owner::slot(self.id()));
        }
    }

    /// Whether the slot's blob has a part in this block.
    pub(crate) fn blob_uses_block(&self, block: u32) -> bool {
        let descriptor = Descriptor(self.raw().blob.load(Ordering::Acquire));
        let len = descriptor.len();
        descriptor.is_present()
            && (INLINE_BYTES + 1..=BLOB_MAX_LEN).contains(&len)
            && (0..len.div_ceil(BLOCK_BYTES)).any(|place| self.blob_block(place) == block)
    }
}

impl SlotGuard<'_> {
    /// Replaces the blob (at most [`BLOB_MAX_LEN`] bytes). If that fails, or the process is killed half-way, there is
    /// no blob.
    pub fn set_blob(&self, bytes: &[u8]) -> Result<(), StashError> {
        let (slot, len) = (&self.slot, bytes.len());
        if len > BLOB_MAX_LEN {
            return Err(StashError::TooLong { what: "blob", len, max: BLOB_MAX_LEN });
        }
        slot.check_live()?;
        slot.drop_blob();
        let (raw, owner) = (slot.raw(), Owner::slot(slot.id()));
        let version = Descriptor(raw.blob.load(Ordering::Relaxed)).next_version();
        let mut check = Checksum::new(len as u64);
        // A reader that sees a byte of the new blob must also see that the old one is gone.
        fence(Ordering::Release);
        if len <= INLINE_BYTES {
            write_bytes(&raw.blob_inline, bytes, &mut check);
        } else {
            for (place, part) in bytes.chunks(BLOCK_BYTES).enumerate() {
                let block = slot.arena().alloc_block(owner).inspect_err(|_| slot.free_blob_blocks(place))?;
                let half = place % 2 * 32;
                let other = raw.blob_inline[place / 2].load(Ordering::Relaxed) & !(0xffff_ffff << half);
                raw.blob_inline[place / 2].store(other | (block as u64) << half, Ordering::Relaxed);
                let words = slot.arena().block(block, owner).ok_or(StashError::Corrupt("block owner"))?;
                write_bytes(words, part, &mut check);
            }
        }
        raw.blob_check.store(check.finish(), Ordering::Relaxed);
        raw.blob.store(Descriptor::present(len, version).0, Ordering::Release);
        Ok(())
    }

    /// Removes the blob, if there is one.
    pub fn clear_blob(&self) -> Result<(), StashError> {
        self.slot.check_live()?;
        self.slot.drop_blob();
        Ok(())
    }
}
