//! An open file description on the heap, with its two counts.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::sync::{AtomicU64, Ordering};
use crate::word::{ENTRY_WEIGHT, Word};

/// An open file description: the value, and who needs it.
#[repr(C, align(64))] // word::ALIGNMENT
pub(crate) struct Description<T> {
    /// `ENTRY_WEIGHT` for each entry that holds this description, less the readers that moved from an entry to here
    /// and are done, plus the handles counted here. 0: to be freed. See `entry` for the invariant.
    count: AtomicU64,
    /// FDs of this description. Once 0 it stays 0.
    fds: AtomicU64,
    value: T,
}

impl<T> Description<T> {
    /// A description held by one entry-to-be; `None` (the value is dropped) if there is no memory, or none at an
    /// address that an entry can hold.
    pub(crate) fn allocate(value: T) -> Option<NonNull<Self>> {
        let layout = Layout::new::<Self>();
        // SAFETY: the layout is not of size 0, it has at least the two counts.
        let description = NonNull::new(unsafe { alloc(layout) }.cast::<Self>())?;
        if !Word::can_hold(description.as_ptr().expose_provenance()) {
            // SAFETY: just allocated with this layout and known to nobody else.
            unsafe { dealloc(description.as_ptr().cast(), layout) };
            return None;
        }
        let start = Self { count: AtomicU64::new(ENTRY_WEIGHT), fds: AtomicU64::new(1), value };
        // SAFETY: freshly allocated for one `Self`.
        unsafe { description.write(start) };
        Some(description)
    }

    /// The value.
    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// Counts one more holder that weighs this much. The caller must be one already.
    pub(crate) fn retain(&self, weight: u64) {
        // Relaxed: the caller's own hold keeps the description alive, as in `Arc::clone`.
        self.count.fetch_add(weight, Ordering::Relaxed);
    }

    /// FDs of this description at the moment.
    pub(crate) fn fds(&self) -> u64 {
        self.fds.load(Ordering::Acquire)
    }

    /// Counts one more FD, unless the last one was closed.
    pub(crate) fn join(&self) -> bool {
        self.fds
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |fds| (fds != 0).then_some(fds + 1))
            .is_ok()
    }

    /// Counts one FD less; true if it was the last.
    pub(crate) fn leave(&self) -> bool {
        self.fds.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Forgets all holders. For the single thread of a forked child, which then enters the FDs again.
    pub(crate) fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.fds.store(0, Ordering::Relaxed);
    }

    /// Counts one entry again after [`reset`](Self::reset).
    pub(crate) fn recount_entry(&self) {
        self.count.fetch_add(ENTRY_WEIGHT, Ordering::Relaxed);
        self.fds.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up this much weight; frees the description if nobody else holds it.
    ///
    /// # Safety
    /// `this` is alive and the caller holds at least this weight of it, which it no longer uses.
    pub(crate) unsafe fn release(this: NonNull<Self>, weight: u64) {
        // SAFETY: alive by the caller's hold.
        if unsafe { Self::give_up(this, weight) } {
            // SAFETY: nobody holds it any more; it was allocated with this layout in `allocate`.
            unsafe {
                this.drop_in_place();
                dealloc(this.as_ptr().cast(), Layout::new::<Self>());
            }
        }
    }

    /// Like [`release`](Self::release), but hands out the value instead of dropping it.
    ///
    /// # Safety
    /// As for `release`.
    pub(crate) unsafe fn release_into_inner(this: NonNull<Self>, weight: u64) -> Option<T> {
        // SAFETY: alive by the caller's hold.
        unsafe { Self::give_up(this, weight) }.then(|| {
            // SAFETY: nobody holds it any more, so it can be moved out; allocated with this layout in `allocate`.
            unsafe {
                let Self { value, .. } = this.read();
                dealloc(this.as_ptr().cast(), Layout::new::<Self>());
                value
            }
        })
    }

    /// True if that was the last hold: the caller now owns the description alone.
    ///
    /// # Safety
    /// As for `release`.
    unsafe fn give_up(this: NonNull<Self>, weight: u64) -> bool {
        // AcqRel: every holder's use of the value happens before the end of the value.
        // SAFETY: alive by the caller's hold. The reference does not outlive the operation that ends that hold.
        unsafe { this.as_ref() }.count.fetch_sub(weight, Ordering::AcqRel) == weight
    }
}
