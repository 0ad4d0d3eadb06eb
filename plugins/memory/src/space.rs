//! How many pages there may be.

use core::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    used: AtomicU64,
}

impl Space {
    pub(crate) fn limited(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Takes one page, if there is one.
    pub(crate) fn take(&self) -> bool {
        let more = |used| (used < self.limit).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn release(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
