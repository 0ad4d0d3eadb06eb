//! What is to be mapped, and how.

use crate::mapping::{Protection, Sharing};
use crate::memory::Place;

/// What [`Pager::map`](crate::Pager::map) is asked for; the arguments of mmap(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRequest {
    /// Where.
    pub place: Place,
    /// First byte of the source; a multiple of the page size.
    pub offset: u64,
    /// Bytes, rounded up to whole pages.
    pub length: usize,
    /// Allowed accesses.
    pub protection: Protection,
    /// What [`Pager::protect`](crate::Pager::protect) may allow later: of a shared mapping of what was opened for reading no stores.
    pub limit: Protection,
    /// Who sees stores.
    pub sharing: Sharing,
}

impl MapRequest {
    /// `length` bytes from the start of the source, shared, for loads and stores, anywhere.
    pub fn shared(length: usize) -> Self {
        Self {
            place: Place::Anywhere(0),
            offset: 0,
            length,
            protection: Protection::READ_WRITE,
            limit: Protection::ALL,
            sharing: Sharing::Shared,
        }
    }

    /// As [`MapRequest::shared`], with stores that stay in this mapping.
    pub fn private(length: usize) -> Self {
        Self { sharing: Sharing::Private, ..Self::shared(length) }
    }
}
