//! The protocol of the file offset, which readers advance without a lock and writers under the slot's lock.
//!
//! A writer marks the offset busy before it looks at it, so that no reader can move it until the write is done. The
//! mark of a writer that was killed stays, and the offset beside it is the old one, though it may have written already: the next
//! lock holder finds both, and how much was to be written.

use core::sync::atomic::Ordering;

use crate::word::Word64;

/// Set while a lock holder works with the offset. Offsets are never negative, so the bit is free.
const BUSY: u64 = 1 << 63;

/// The offset, whether or not somebody works with it.
#[inline]
pub(crate) fn load<W: Word64>(word: &W) -> i64 {
    (word.load(Ordering::Acquire) & !BUSY) as i64
}

/// The offset at which a reader may try; `None` while a lock holder works with it.
#[inline]
pub(crate) fn start_of_read<W: Word64>(word: &W) -> Option<i64> {
    let start = word.load(Ordering::Acquire);
    (start & BUSY == 0).then_some(start as i64)
}

/// Ends a read that began at `start`; false if the offset changed, or became busy, meanwhile.
#[inline]
pub(crate) fn finish_read<W: Word64>(word: &W, start: i64, end: i64) -> bool {
    word.compare_exchange(start as u64, end as u64, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Where the offset stands with the mark of a lock holder; `None` without one.
#[inline]
pub(crate) fn marked<W: Word64>(word: &W) -> Option<i64> {
    let value = word.load(Ordering::Acquire);
    (value & BUSY != 0).then_some((value & !BUSY) as i64)
}

/// Marks the offset busy, for the holder of the slot's lock.
#[inline]
pub(crate) fn pin<W: Word64>(word: &W) -> i64 {
    (word.fetch_or(BUSY, Ordering::AcqRel) & !BUSY) as i64
}

/// Sets the offset and removes the mark.
#[inline]
pub(crate) fn set<W: Word64>(word: &W, offset: i64) {
    word.store(offset as u64, Ordering::Release);
}

/// Removes the mark and leaves the offset as it was.
#[inline]
pub(crate) fn unpin<W: Word64>(word: &W) {
    word.fetch_and(!BUSY, Ordering::Release);
}
