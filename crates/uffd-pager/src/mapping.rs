//! One range of addresses that a source is mapped at.

use crate::attached::Attached;
use crate::page::PAGE;
use std::ops::Range;
use std::sync::Arc;

/// Who sees stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody who maps the source, and the source itself: `MAP_SHARED`.
    Shared,
    /// This mapping alone: `MAP_PRIVATE`.
    Private,
}

/// What may be done with mapped memory: the `PROT_` bits of mmap(2), 0 for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection(pub(crate) u32);

impl Protection {
    /// No access.
    pub const NONE: Self = Self(0);
    /// `PROT_READ`
    pub const READ: Self = Self(1);
    /// `PROT_WRITE`
    pub const WRITE: Self = Self(2);
    /// `PROT_EXEC`
    pub const EXEC: Self = Self(4);
    /// Loads and stores.
    pub const READ_WRITE: Self = Self(3);

    /// From the argument of mmap(2) or mprotect(2). Other bits than the three are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 7)
    }

    /// Everything.
    pub const ALL: Self = Self(7);

    /// Whether all of this is in `limit`.
    pub const fn within(self, limit: Self) -> bool {
        self.0 & !limit.0 == 0
    }

    /// Whether stores are allowed.
    pub const fn writable(self) -> bool {
        self.0 & Self::WRITE.0 != 0
    }
}

impl std::ops::BitOr for Protection {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A row of the table: addresses, whole pages, and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    pub(crate) memory: Range<usize>,
    pub(crate) first_page: u64,
    pub(crate) attached: Arc<Attached>,
    pub(crate) sharing: Sharing,
    pub(crate) protection: Protection,
    /// What it may be made by mprotect(2).
    pub(crate) limit: Protection,
    /// Whether children get it (`MADV_DONTFORK`).
    pub(crate) inherited: bool,
    /// Registered for write-protect faults; a shared mapping is from its first `PROT_WRITE` on.
    pub(crate) tracked: bool,
}

impl Mapping {
    /// The file's page at an address.
    pub(crate) fn page_at(&self, address: usize) -> u64 {
        self.first_page + ((address - self.memory.start) / PAGE) as u64
    }

    pub(crate) fn pages(&self) -> Range<u64> {
        self.first_page..self.first_page + (self.memory.len() / PAGE) as u64
    }

    /// Where pages of the file are, as far as this mapping has them.
    pub(crate) fn addresses(&self, pages: &Range<u64>) -> Range<usize> {
        let pages = crate::page::intersection(pages, &self.pages());
        let address = |page: u64| self.memory.start + (page - self.first_page) as usize * PAGE;
        if pages.is_empty() {
            self.memory.start..self.memory.start
        } else {
            address(pages.start)..address(pages.end)
        }
    }

    /// The part of it inside `memory`, which must overlap it.
    pub(crate) fn part(&self, memory: &Range<usize>) -> Self {
        let memory = crate::page::intersection(memory, &self.memory);
        Self { first_page: self.page_at(memory.start), memory, ..self.clone() }
    }
}
