//! The plugin's own heap.
//!
//! fork(3) takes all locks of libc's `malloc` before it makes the system call at which the host asks for stillness ([`Gate`](crate::gate::Gate)). A thread
//! that waited for `malloc` inside the gate would be waited for by the thread that forks, and that by it. So what this object allocates
//! never asks `malloc`.

#![allow(unsafe_code, reason = "an allocator is")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::Dlmalloc;

#[global_allocator]
static HEAP: Heap = Heap { taken: AtomicBool::new(false), memory: UnsafeCell::new(Dlmalloc::new()) };

struct Heap {
    taken: AtomicBool,
    memory: UnsafeCell<Dlmalloc>,
}

// SAFETY: `memory` is used only by who has set `taken`.
unsafe impl Sync for Heap {}

/// Holds the heap still while the process forks; [`after_fork`] lets go, in the parent and in the child. Never waits for `malloc`.
pub(crate) fn before_fork() {
    HEAP.take();
}

/// See [`before_fork`].
pub(crate) fn after_fork() {
    HEAP.taken.store(false, Ordering::Release);
}

impl Heap {
    fn take(&self) {
        while self.taken.swap(true, Ordering::Acquire) {
            while self.taken.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        self.take();
        // SAFETY: `take` has made this thread the only one here, until the store below; `action` is one call of
        // dlmalloc, which does not come back here.
        let result = action(unsafe { &mut *self.memory.get() });
        self.taken.store(false, Ordering::Release);
        result
    }
}

// SAFETY: dlmalloc keeps the contract of `GlobalAlloc` (sizes, alignments, no overlap) as long as its calls are exclusive, which `with`
// sees to.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract for `layout`.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller got `pointer` from this allocator with this layout.
        self.with(|heap| unsafe { heap.free(pointer, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller got `pointer` from this allocator with this layout.
        self.with(|heap| unsafe { heap.realloc(pointer, layout.size(), layout.align(), new_size) })
    }
}
