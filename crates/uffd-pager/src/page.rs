//! Pages and ranges of them.

use std::ops::Range;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Pages that `bytes` reach into.
pub(crate) fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE as u64)
}

/// Offset of a page in its file, in bytes.
pub(crate) fn offset_of(page: u64) -> u64 {
    page * PAGE as u64
}

/// What two ranges share; empty where they do not meet.
pub(crate) fn intersection<T: Ord + Copy>(a: &Range<T>, b: &Range<T>) -> Range<T> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// The pages that a range of bytes touches. None at all for an empty range.
pub(crate) fn touched(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() { 0..0 } else { bytes.start / PAGE as u64..pages_of(bytes.end) }
}
