//! Blocks of 4 KiB: who owns which, and bytes in and out of shared words.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::checksum::Checksum;
use crate::layout::RawBlock;
use crate::{Arena, ProcessId, SlotId, StashError, bitmap};

/// A block's owner word: zero, or kind in bits 0-1, generation in 2-31, slot or process in 32-63. As the owner is
/// set by the very step that claims the block, a block lost by a killed process can always be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub u64);

/// What an owner word says.
pub(crate) enum OwnerKind {
    Slot(SlotId),
    Process(ProcessId),
    Unknown,
}

impl Owner {
    pub fn slot(id: SlotId) -> Self {
        Self(1 | (id.generation as u64) << 2 | (id.index as u64) << 32)
    }

    pub fn process(id: ProcessId) -> Self {
        Self(2 | (id.to_bits() as u64) << 32)
    }

    pub fn kind(self) -> OwnerKind {
        let high = (self.0 >> 32) as u32;
        match self.0 & 3 {
            1 => OwnerKind::Slot(SlotId { index: high, generation: (self.0 as u32) >> 2 }),
            2 => OwnerKind::Process(ProcessId::from_bits(high)),
            _ => OwnerKind::Unknown,
        }
    }
}

impl Arena {
    pub(crate) fn alloc_block(&self, owner: Owner) -> Result<u32, StashError> {
        let owners = self.map.block_owners();
        let index = bitmap::claim(self.map.block_bits(), &self.block_cursor, |index| {
            self.cover_block(index)?;
            Ok(owners[index].compare_exchange(0, owner.0, Ordering::AcqRel, Ordering::Relaxed).is_ok())
        });
        index?.map(|index| index as u32).ok_or(StashError::Full("blocks"))
    }

    /// Frees a block if it still has this owner.
    pub(crate) fn free_block(&self, index: u32, owner: Owner) -> bool {
        let Some(word) = self.owner_of(index) else { return false };
        let freed = word.compare_exchange(owner.0, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if freed {
            bitmap::release(self.map.block_bits(), &self.block_cursor, index as usize);
        }
        freed
    }

    /// The owner word of a block that ever was in use.
    fn owner_of(&self, index: u32) -> Option<&AtomicU64> {
        self.map.block_owners()[..self.blocks_top()].get(index as usize)
    }

    /// A block's contents, if it exists and has this owner.
    pub(crate) fn block(&self, index: u32, owner: Owner) -> Option<&RawBlock> {
        (self.owner_of(index)?.load(Ordering::Acquire) == owner.0).then(|| &self.map.blocks()[index as usize])
    }
}

/// Copies bytes into shared words, the last one padded with zeros. `to` is long enough.
#[inline]
pub(crate) fn write_bytes(to: &[AtomicU64], bytes: &[u8], check: &mut Checksum) {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let (words, rest_words) = to.split_at((chunks.len() * 4).min(to.len()));
    for (words, chunk) in words.as_chunks::<4>().0.iter().zip(chunks) {
        let values = core::array::from_fn::<_, 4, _>(|n| {
            u64::from_le_bytes(core::array::from_fn(|byte| chunk[n * 8 + byte]))
        });
        check.add(values);
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
    for (word, chunk) in rest_words.iter().zip(rest.chunks(8)) {
        let mut value = [0; 8];
        value[..chunk.len()].copy_from_slice(chunk);
        let value = u64::from_le_bytes(value);
        check.add([value]);
        word.store(value, Ordering::Relaxed);
    }
}

/// Copies bytes out of shared words. `from` is long enough.
#[inline]
pub(crate) fn read_bytes(from: &[AtomicU64], bytes: &mut [u8], check: &mut Checksum) {
    let (chunks, rest) = bytes.as_chunks_mut::<32>();
    let (words, rest_words) = from.split_at((chunks.len() * 4).min(from.len()));
    for (words, chunk) in words.as_chunks::<4>().0.iter().zip(chunks) {
        let values = core::array::from_fn::<_, 4, _>(|n| words[n].load(Ordering::Relaxed));
        check.add(values);
        for (to, value) in chunk.as_chunks_mut::<8>().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
    }
    for (word, chunk) in rest_words.iter().zip(rest.chunks_mut(8)) {
        let value = word.load(Ordering::Relaxed);
        check.add([value]);
        chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
    }
}
