//! What the processes that map one file know together: its length, which pages are dirty, who writes back.
//!
//! A shared file of its own beside the pages, so that it outlives each of the processes. Layout: a
//! [`Header`] in the first pages, then one bitmap per slot, of which there is memory for all slots in use: no store to it can
//! fail for want of room. Slot 0 has no owner: its bits are *orphans*,
//! pages that are to be written back though no page table may write them. Every other slot belongs to
//! one process. The rule that everything rests on: **a page that a process can store to without a fault
//! has its bit set in that process's slot.**

mod bits;
mod gate;
mod lock;
mod pins;

pub(crate) use bits::Dirty;
pub(crate) use gate::{Closed, InFlight};
pub(crate) use lock::Locked;

use crate::error::{Error, Result};
use crate::owner::Owner;
use crate::page::{PAGE, pages_of};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"uffdpg06");
/// Owners' slots and the orphans' one: as many processes can have one file attached, less one.
pub(crate) const SLOTS: usize = 128;
/// The slot of pages whose writer is gone.
pub(crate) const ORPHANS: usize = 0;
/// Bytes before the bitmaps.
const HEADER: usize = 4 * PAGE;

#[repr(C)]
pub(crate) struct Header {
    magic: u64,
    capacity_pages: u64,
    /// Length of the file in bytes. Changed with the gate closed.
    length: AtomicU64,
    /// The process that writes back, evicts or changes the length.
    locked_by: AtomicU64,
    /// The process that keeps faults out.
    closed_by: AtomicU64,
    /// The thread of it that does.
    closer: AtomicU32,
    /// Children of forks that have not taken a slot yet.
    expected: AtomicU32,
    /// The thread that holds the lock.
    locker: AtomicU32,
    /// Odd while pages are being given back; another value each time.
    given_back: AtomicU64,
    /// The page from which on the next ones are given back.
    hand: AtomicU64,
    /// As many pages as may be resident; 0: as many as there is room for.
    limit: AtomicU64,
    /// As many pages have their bits' memory in every slot that is used.
    reserved: AtomicU64,
    /// What `reserved` is going to be: who takes a slot meanwhile reserves that much.
    reserving: AtomicU64,
    /// Another value each time that orphans were written back.
    written: AtomicU64,
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    owner: AtomicU64,
    /// Faults being served.
    in_flight: AtomicU32,
    pins: pins::Pins,
}

const _: () = assert!(size_of::<Header>() <= HEADER);

/// A ledger file, mapped.
#[derive(Debug)]
pub(crate) struct Ledger {
    base: NonNull<u8>,
    size: usize,
    stride: usize,
}

// SAFETY: all shared memory is accessed through atomics, except the fields written before the file had a
// second reader.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// A file for sources of up to `capacity` bytes, now `length`.
    pub(crate) fn create(length: u64, capacity: u64) -> Result<OwnedFd> {
        rustix::fs::memfd_create(c"uffd-pager ledger", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(Error::on("creating the ledger of a mapped file"))
            .and_then(|file| Self::create_in(file, length, capacity))
    }

    /// As [`Ledger::create`], in an empty file.
    pub(crate) fn create_in(file: OwnedFd, length: u64, capacity: u64) -> Result<OwnedFd> {
        let capacity_pages = pages_of(capacity.max(length)).next_multiple_of(8 * PAGE as u64);
        let create = || {
            let stride = stride(capacity_pages);
            rustix::fs::ftruncate(&file, (HEADER + SLOTS * stride) as u64)?;
            fallocate(&file, FallocateFlags::empty(), 0, HEADER as u64)?;
            let reserved = reservation(pages_of(length), capacity_pages);
            allocate(&file, stride, ORPHANS, reserved)?;
            let fields = [
                (offset_of!(Header, magic), MAGIC),
                (offset_of!(Header, capacity_pages), capacity_pages),
                (offset_of!(Header, length), length),
                (offset_of!(Header, reserved), reserved),
                (offset_of!(Header, reserving), reserved),
            ];
            for (offset, value) in fields {
                rustix::io::pwrite(&file, &value.to_ne_bytes(), offset as u64)?;
            }
            Ok(file)
        };
        create().map_err(Error::on("creating the ledger of a mapped file"))
    }

    pub(crate) fn map(file: &OwnedFd) -> Result<Self> {
        const ACTION: &str = "mapping the ledger of a mapped file";
        let mut head = [0; 16];
        let read = rustix::io::pread(file.as_fd(), &mut head, 0).map_err(Error::on(ACTION))?;
        let (magic, capacity) = head.split_at(8);
        if read != 16 || magic != MAGIC.to_ne_bytes() {
            return Err(Error::new(ACTION, Errno::INVAL));
        }
        let stride = stride(u64::from_ne_bytes(capacity.try_into().expect("eight bytes")));
        let size = HEADER + SLOTS * stride;
        if rustix::fs::fstat(file).map_err(Error::on(ACTION))?.st_size != size as i64 {
            return Err(Error::new(ACTION, Errno::INVAL));
        }
        let (protection, flags) = (ProtFlags::empty(), MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, protection, flags, file, 0) }
            .map_err(Error::on(ACTION))?;
        let ledger =
            Self { base: NonNull::new(base.cast()).expect("mmap does not return null"), size, stride };
        crate::memory::open_own(&(base.addr()..base.addr() + size)).map_err(Error::on(ACTION))?;
        Ok(ledger)
    }

    pub(crate) fn length(&self) -> u64 {
        self.header().length.load(Ordering::Acquire)
    }

    pub(crate) fn capacity_pages(&self) -> u64 {
        self.header().capacity_pages
    }

    pub(crate) fn capacity(&self) -> u64 {
        crate::page::offset_of(self.header().capacity_pages)
    }

    /// How many pages may be resident, 0 for no limit.
    pub(crate) fn limit(&self) -> u64 {
        self.header().limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, pages: u64) {
        self.header().limit.store(pages, Ordering::Relaxed);
    }

    /// A slot for this process, with memory for its bits. EAGAIN: all are taken by processes that live; ENOSPC.
    pub(crate) fn claim(&self, file: &OwnedFd, me: Owner) -> Result<usize> {
        const ACTION: &str = "attaching to a mapped file";
        for attempt in 0..2 {
            for index in 1..SLOTS {
                let slot = self.slot(index);
                if slot.owner.compare_exchange(0, me.0, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    slot.in_flight.store(0, Ordering::Relaxed);
                    slot.pins.reset();
                    if let Err(errno) = self.reserve_claimed(file, index) {
                        slot.owner.store(0, Ordering::Release);
                        return Err(Error::new(ACTION, errno));
                    }
                    return Ok(index);
                }
            }
            if attempt == 0 {
                self.lock(me).adopt_orphans();
            }
        }
        Err(Error::new("attaching to a mapped file: too many processes", Errno::AGAIN))
    }

    fn reserve_claimed(&self, file: &OwnedFd, slot: usize) -> std::result::Result<(), Errno> {
        // Either who reserves more sees that this slot is taken, or we see how much that is.
        loop {
            let wanted = self.header().reserving.load(Ordering::SeqCst);
            allocate(file, self.stride, slot, wanted)?;
            if self.header().reserving.load(Ordering::SeqCst) == wanted {
                return Ok(());
            }
        }
    }

    /// As many pages can be dirty: there is memory for their bits.
    pub(crate) fn reserved(&self) -> u64 {
        self.header().reserved.load(Ordering::Acquire)
    }

    /// Gives the slot back; what is dirty in it becomes an orphan.
    pub(crate) fn release(&self, slot: usize, me: Owner) {
        self.lock(me).orphan(slot);
    }

    /// Processes that are attached now, the calling one included.
    pub(crate) fn owners(&self) -> usize {
        (1..SLOTS).filter(|&index| self.owner(index).is_alive()).count()
    }

    /// Whether any living process is attached, or will be.
    pub(crate) fn is_used(&self) -> bool {
        self.header().expected.load(Ordering::SeqCst) != 0 || self.owners() != 0
    }

    /// A child of this process is about to be made, which will claim a slot.
    pub(crate) fn expect(&self) {
        self.header().expected.fetch_add(1, Ordering::SeqCst);
    }

    /// The child has claimed its slot, or there is none.
    pub(crate) fn expect_no_more(&self) {
        self.header().expected.fetch_sub(1, Ordering::SeqCst);
    }

    /// The source has what these orphans hold, or held a moment ago. Counted before they are struck off: see [`Ledger::written_since`].
    pub(crate) fn written(&self, pages: Range<u64>) {
        self.header().written.fetch_add(1, Ordering::SeqCst);
        self.clear(ORPHANS, pages);
    }

    /// To be compared with later.
    pub(crate) fn times_written(&self) -> u64 {
        self.header().written.load(Ordering::SeqCst)
    }

    /// Whether any process may have given the source what the page held at any time since [`Ledger::times_written`] was `before`.
    pub(crate) fn written_since(&self, before: u64, page: u64) -> bool {
        // In this order: whoever has struck the orphan off before the first look has counted before that.
        self.count(ORPHANS, page..page + 1) != 0 || self.times_written() != before
    }

    fn owner(&self, slot: usize) -> Owner {
        Owner(self.slot(slot).owner.load(Ordering::SeqCst))
    }

    fn header(&self) -> &Header {
        // SAFETY: `map` has checked that the file holds a header; the mapping lives as long as `self`
        // and page alignment is more than enough.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    fn slot(&self, index: usize) -> &Slot {
        &self.header().slots[index]
    }

    /// 64 pages' bits of a slot.
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        assert!(slot < SLOTS && word < self.stride / 8);
        // SAFETY: inside the mapping by the assertion (header, then `SLOTS` bitmaps of `stride`
        // bytes), aligned, and accessed as an atomic everywhere.
        unsafe { self.base.add(HEADER + slot * self.stride).cast::<AtomicU64>().add(word).as_ref() }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; references into it do not outlive `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// As many pages' bits as are in whole pages of a bitmap.
fn reservation(pages: u64, capacity_pages: u64) -> u64 {
    pages.next_multiple_of(8 * PAGE as u64).min(capacity_pages)
}

/// Has memory for the bits of `pages` pages of a slot.
fn allocate(file: &OwnedFd, stride: usize, slot: usize, pages: u64) -> std::result::Result<(), Errno> {
    if pages == 0 {
        return Ok(());
    }
    fallocate(file, FallocateFlags::empty(), (HEADER + slot * stride) as u64, pages / 8)
}

/// Bytes of a slot's bitmap, whole pages.
fn stride(capacity_pages: u64) -> usize {
    (capacity_pages as usize / 8).next_multiple_of(PAGE)
}
