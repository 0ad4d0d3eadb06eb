//! The mapping of an arena file, and the only `unsafe` code of this crate: it turns the mapped bytes into
//! slices of atomics.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::StashError;
use crate::error::Doing;
use crate::layout::{Header, INODE_LOCKS, Layout, PAGE, RawBlock, RawLock, RawProcess, RawSlot};

/// One `MAP_SHARED` mapping of a whole arena file; unmapped on drop.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    layout: Layout,
    slots: NonNull<[RawSlot]>,
    processes: NonNull<[RawProcess]>,
}

// SAFETY: everything reachable through the mapping is an atomic, which any thread may use; the remaining fields
// never change after construction.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file which has at least `layout.len` bytes.
    pub fn new(fd: BorrowedFd<'_>, layout: Layout) -> Result<Self, StashError> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing one.
        let base = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(ptr::null_mut(), layout.len, access, MapFlags::SHARED, fd, 0)
        }
        .doing("mapping the arena file")?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(StashError::NotAnArena("mapped at address zero"))?;
        // A memfd's pages would otherwise be written, holes included, into a core file of the host process. Losing
        // this advice loses nothing else.
        // SAFETY: the range is the mapping just made; this advice does not change its contents.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), layout.len, Advice::LinuxDontDump) };
        // SAFETY: (both) `Layout::new` placed the region inside of the mapping's `len` bytes.
        let (slots, processes) = unsafe { (base.add(layout.slot_records), base.add(layout.process_records)) };
        Ok(Self {
            base,
            layout,
            slots: NonNull::slice_from_raw_parts(slots.cast(), layout.slots),
            processes: NonNull::slice_from_raw_parts(processes.cast(), layout.processes),
        })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Has the file take the memory of the pages on which these bytes are. [`StashError::NoSpace`] if there is none; to touch them would be SIGBUS.
    pub fn back(&self, bytes: Range<usize>) -> Result<(), StashError> {
        let start = bytes.start / PAGE * PAGE;
        let end = bytes.end.next_multiple_of(PAGE);
        debug_assert!(end <= self.layout.len);
        // SAFETY: the caller's bytes are a region's, so these pages are the mapping's, whose contents this advice does not change.
        let backed = unsafe {
            let pages = self.base.add(start).as_ptr().cast();
            rustix::mm::madvise(pages, end - start, Advice::LinuxPopulateWrite)
        };
        match backed {
            Err(Errno::FAULT | Errno::NOMEM) => Err(StashError::NoSpace),
            // Where a filter of system calls forbids to ask, the pages come as they are touched.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn header(&self) -> &Header {
        &self.region::<Header>(0, 1)[0]
    }

    #[inline]
    pub fn slots(&self) -> &[RawSlot] {
        // SAFETY: points into the mapping, which lives as long as `self`; see `region` for the rest.
        unsafe { self.slots.as_ref() }
    }

    #[inline]
    pub fn processes(&self) -> &[RawProcess] {
        // SAFETY: as in `slots`.
        unsafe { self.processes.as_ref() }
    }

    pub fn inode_locks(&self) -> &[RawLock] {
        self.region(self.layout.inode_locks, INODE_LOCKS)
    }

    pub fn process_bits(&self) -> &[AtomicU64] {
        self.region(self.layout.process_bits, self.layout.processes / 64)
    }

    pub fn slot_bits(&self) -> &[AtomicU64] {
        self.region(self.layout.slot_bits, self.layout.slots / 64)
    }

    pub fn block_bits(&self) -> &[AtomicU64] {
        self.region(self.layout.block_bits, self.layout.blocks / 64)
    }

    pub fn shadow_table(&self) -> &[AtomicU32] {
        self.region(self.layout.shadow_table, self.layout.shadow_entries)
    }

    pub fn block_owners(&self) -> &[AtomicU64] {
        self.region(self.layout.block_owners, self.layout.blocks)
    }

    pub fn blocks(&self) -> &[RawBlock] {
        self.region(self.layout.block_bytes, self.layout.blocks)
    }

    /// `count` values of a type made of atomics (all callers above), starting `offset` bytes into the mapping.
    #[inline]
    fn region<T>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset + count * size_of::<T>() <= self.layout.len);
        // SAFETY: `Layout::new` placed the region inside of the mapping at a page boundary, which satisfies every
        // alignment used here. The callers name only types made of atomics: any bytes are valid values, and
        // concurrent writes by other processes are atomic accesses too. The mapping lives as long as `self`.
        unsafe { core::slice::from_raw_parts(self.base.add(offset).cast::<T>().as_ptr(), count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; references into it cannot outlive `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.layout.len) };
    }
}

/// The half of a lock word on which futex(2) waits. For system calls only: the program itself reads whole words.
pub(crate) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    // SAFETY: the first four bytes of an `AtomicU64` are valid memory, aligned for an `AtomicU32`, for the
    // reference's lifetime (and on this little-endian architecture its low half). Only the kernel reads through it.
    unsafe { &*ptr::from_ref(word).cast::<AtomicU32>() }
}
