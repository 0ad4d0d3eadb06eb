//! The one operation set that the protocols need from a shared word, so that loom can check them.

use core::sync::atomic::{AtomicU64, Ordering};

/// A 64-bit atomic word.
pub(crate) trait Word64 {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn compare_exchange(&self, old: u64, new: u64, ok: Ordering, lost: Ordering) -> Result<u64, u64>;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
}

macro_rules! word64 {
    ($atomic:ty) => {
        impl Word64 for $atomic {
            #[inline]
            fn load(&self, order: Ordering) -> u64 {
                self.load(order)
            }
            #[inline]
            fn store(&self, value: u64, order: Ordering) {
                self.store(value, order);
            }
            #[inline]
            fn compare_exchange(&self, old: u64, new: u64, ok: Ordering, lost: Ordering) -> Result<u64, u64> {
                self.compare_exchange(old, new, ok, lost)
            }
            #[inline]
            fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
                self.fetch_or(bits, order)
            }
            #[inline]
            fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
                self.fetch_and(bits, order)
            }
        }
    };
}

word64!(AtomicU64);
#[cfg(all(test, loom))]
word64!(loom::sync::atomic::AtomicU64);
