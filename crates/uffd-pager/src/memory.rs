//! The address space: mapping, protecting and registering ranges that the program uses.

use crate::cache::Cache;
use crate::mapping::{Mapping, Protection, Sharing};
use crate::uffd::{Faults, Uffd};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;

/// Where a mapping is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel likes, at this address if it likes: mmap(2) without flags, 0 for no hint.
    Anywhere(usize),
    /// The same, in the first 2 GiB: `MAP_32BIT`.
    Low(usize),
    /// Exactly there, in place of what is there: `MAP_FIXED`.
    Fixed(usize),
    /// Exactly there, EEXIST if there is something: `MAP_FIXED_NOREPLACE`.
    FixedNoReplace(usize),
}

/// Maps a cache's pages without any access, so that nobody can touch them before they are registered.
pub(crate) fn reserve(
    cache: &Cache,
    place: Place,
    size: usize,
    offset: u64,
    sharing: Sharing,
) -> Result<Range<usize>, Errno> {
    let (address, fixed) = match place {
        Place::Anywhere(hint) => (hint, MapFlags::empty()),
        Place::Low(hint) => (hint, MapFlags::from_bits_retain(linux_raw_sys::general::MAP_32BIT)),
        Place::Fixed(address) => (address, MapFlags::FIXED),
        Place::FixedNoReplace(address) => (address, MapFlags::FIXED_NOREPLACE),
    };
    let sharing = match sharing {
        Sharing::Shared => MapFlags::SHARED,
        Sharing::Private => MapFlags::PRIVATE,
    };
    let flags = sharing | fixed | MapFlags::NORESERVE;
    // SAFETY: without `Fixed` nothing is replaced; with it, `Pager::map`'s caller vouches for the range.
    let base =
        unsafe { rustix::mm::mmap(pointer(address), size, ProtFlags::empty(), flags, &cache.pages, offset) }?;
    let memory = base.addr()..base.addr() + size;
    // SAFETY: the mapping just made.
    if let Err(errno) = unsafe { rustix::mm::madvise(base, size, Advice::LinuxDontFork) } {
        unmap(&memory)?;
        return Err(errno);
    }
    Ok(memory)
}

/// Lets memory of the pager's own, mapped without any access, be read and written. Nothing is brought in by that, nor was by mapping it: where the program has
/// all memory locked (`mlockall(MCL_FUTURE)`) the kernel fills what can be accessed at once, and each hole of a cache would become a page of zeros.
pub(crate) fn open_own(memory: &Range<usize>) -> Result<(), Errno> {
    let (address, size) = (pointer(memory.start), memory.len());
    // SAFETY: nobody but the caller knows this memory yet.
    unsafe {
        rustix::mm::munlock(address, size)?;
        rustix::mm::mprotect(address, size, MprotectFlags::READ | MprotectFlags::WRITE)
    }
}

/// Has faults in a mapping reported; stores to pages not entered as dirty too, if it is tracked.
pub(crate) fn register(uffd: &Uffd, memory: &Range<usize>, faults: Faults) -> Result<(), Errno> {
    uffd.register(memory, faults)?;
    if faults != Faults::Missing {
        uffd.write_protect(memory, true)?;
    }
    Ok(())
}

pub(crate) fn protect(memory: &Range<usize>, protection: Protection) -> Result<(), Errno> {
    let flags = MprotectFlags::from_bits_truncate(protection.0);
    // SAFETY: a range that the table holds; that the program can live with the change is up to the
    // caller of `Pager::protect`.
    unsafe { rustix::mm::mprotect(pointer(memory.start), memory.len(), flags) }
}

pub(crate) fn unmap(memory: &Range<usize>) -> Result<(), Errno> {
    // SAFETY: a range that the table holds or held; that nobody uses it any more is up to the caller of
    // `Pager::unmap`.
    unsafe { rustix::mm::munmap(pointer(memory.start), memory.len()) }
}

/// mremap(2) of a range that the table holds.
pub(crate) fn remap(memory: &Range<usize>, size: usize, place: Remap) -> Result<Range<usize>, Errno> {
    let (old, old_size) = (pointer(memory.start), memory.len());
    // SAFETY: whole mappings of the pager's; what a fixed place held is for the caller of `Pager::remap`.
    let base = unsafe {
        match place {
            Remap::InPlace => rustix::mm::mremap(old, old_size, size, MremapFlags::empty()),
            Remap::MayMove => rustix::mm::mremap(old, old_size, size, MremapFlags::MAYMOVE),
            Remap::Fixed(address) => {
                rustix::mm::mremap_fixed(old, old_size, size, MremapFlags::MAYMOVE, pointer(address))
            }
        }
    }?;
    Ok(base.addr()..base.addr() + size)
}

/// Where mremap(2) may put a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remap {
    /// It stays where it is; ENOMEM if it cannot grow there.
    InPlace,
    /// Anywhere: `MREMAP_MAYMOVE`.
    MayMove,
    /// There, in place of what is there: `MREMAP_FIXED`.
    Fixed(usize),
}

/// Takes pages of a shared mapping out of the page table; what they hold stays, and so does protection against stores. Not if memory is locked.
pub(crate) fn take_out(memory: &Range<usize>) -> bool {
    // SAFETY: of a shared mapping nothing is lost by this; the next touch is a fault.
    unsafe { rustix::mm::madvise(pointer(memory.start), memory.len(), Advice::LinuxDontNeed) }.is_ok()
}

/// Whether these pages, which are in the page table, can be stored to; if so, by the kernel without a fault. Nothing is changed where they are protected.
pub(crate) fn are_open(memory: &Range<usize>) -> bool {
    // SAFETY: populating changes no contents; of a protected page it fails.
    unsafe { rustix::mm::madvise(pointer(memory.start), memory.len(), Advice::LinuxPopulateWrite) }.is_ok()
}

/// Has the kernel map pages that are resident, at once. Best effort.
pub(crate) fn populate(mapping: &Mapping, pages: &Range<u64>, write: bool) {
    let memory = mapping.addresses(pages);
    let advice = if write { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
    // SAFETY: populating changes no contents; where it is not possible the next touch faults.
    let _ = unsafe { rustix::mm::madvise(pointer(memory.start), memory.len(), advice) };
}

/// Puts a mapping in the place of a page that cannot be read, which gives SIGBUS: of an empty file.
#[cfg(feature = "monitor")]
pub(crate) fn put_failing_page(address: usize) -> Result<(), Errno> {
    let empty = rustix::fs::memfd_create(c"uffd-pager failed page", rustix::fs::MemfdFlags::CLOEXEC)?;
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: a page that the table holds and that nobody has any contents of.
    unsafe { rustix::mm::mmap(pointer(address), crate::PAGE, ProtFlags::READ, flags, empty, 0) }?;
    Ok(())
}

pub(crate) fn pointer(address: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address)
}
