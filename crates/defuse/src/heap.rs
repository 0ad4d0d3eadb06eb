//! The interposer's own heap.
//!
//! A system call may be made by the program's `malloc` while it holds its lock, and the program may bring an
//! allocator of its own that opens files before our constructor ran. So nothing here ever calls the program's
//! `malloc`: this allocator takes its memory straight from the kernel.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::Dlmalloc;
use rustix::mm::{self, Advice, MapFlags, MremapFlags, ProtFlags};

use crate::sync::Lock;

/// Every Rust allocation of the object this crate is linked into comes from here.
#[global_allocator]
static GLOBAL: PrivateHeap = PrivateHeap;

static HEAP: Lock<Dlmalloc<Pages>> = Lock::new(Dlmalloc::new_with_allocator(Pages));

struct PrivateHeap;

/// Holds the heap still while the process forks; [`after_fork`] lets go, in the parent and in the child.
pub fn before_fork() {
    HEAP.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    HEAP.release();
}

// SAFETY: dlmalloc keeps the contract of `GlobalAlloc` (sizes, alignments, no overlap) as long as its calls are
// exclusive, which the lock sees to.
unsafe impl GlobalAlloc for PrivateHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract for `layout`.
        unsafe { HEAP.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe { HEAP.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller got `pointer` from this allocator with this layout.
        unsafe { HEAP.lock().free(pointer, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller got `pointer` from this allocator with this layout.
        unsafe { HEAP.lock().realloc(pointer, layout.size(), layout.align(), new_size) }
    }
}

/// The least that is asked from the kernel, in bytes.
const PIECE: usize = 256 * 1024;
/// What the start of a process uses, in bytes.
const USED_AT_START: usize = 32 * 1024;
/// The first piece is there.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Whole pages from the kernel, through calls that never touch libc.
struct Pages;

// SAFETY: each method hands out or takes back exactly the mapping it names; `rustix` reports failure as an error,
// which becomes the null or `false` that dlmalloc expects.
unsafe impl dlmalloc::Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        // Few large pieces: each is a mapping for the kernel to keep.
        let size = size.max(PIECE);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice overlaps nothing.
        let mapped = unsafe {
            mm::mmap_anonymous(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let Ok(pointer) = mapped else { return (std::ptr::null_mut(), 0, 0) };
        if !STARTED.swap(true, Ordering::Relaxed) {
            // Costs less than a page fault for each; if it cannot be done, they will come.
            // SAFETY: our own mapping, at least so long.
            let _ = unsafe { mm::madvise(pointer, USED_AT_START, Advice::LinuxPopulateWrite) };
        }
        (pointer.cast(), size, 0)
    }

    fn remap(&self, pointer: *mut u8, old_size: usize, new_size: usize, can_move: bool) -> *mut u8 {
        let flags = if can_move { MremapFlags::MAYMOVE } else { MremapFlags::empty() };
        // SAFETY: dlmalloc passes a mapping it got from `alloc`, whole.
        let moved = unsafe { mm::mremap(pointer.cast(), old_size, new_size, flags) };
        moved.map_or(std::ptr::null_mut(), <*mut _>::cast)
    }

    fn free_part(&self, pointer: *mut u8, old_size: usize, new_size: usize) -> bool {
        // SAFETY: dlmalloc passes a mapping it got from `alloc` and no longer uses its tail.
        unsafe {
            mm::mremap(pointer.cast(), old_size, new_size, MremapFlags::empty()).is_ok()
                || mm::munmap(pointer.add(new_size).cast(), old_size - new_size).is_ok()
        }
    }

    fn free(&self, pointer: *mut u8, size: usize) -> bool {
        // SAFETY: dlmalloc passes a mapping it got from `alloc` and no longer uses it.
        unsafe { mm::munmap(pointer.cast(), size).is_ok() }
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}
