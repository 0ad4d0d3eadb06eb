//! What lies where in the arena file. Every field is an atomic: any bit pattern is a valid value, and other
//! processes may write at any moment.
//!
//! ```text
//! header | process records | inode locks | three "used" bitmaps | shadow table | slots | block owners | blocks
//! ```
//!
//! Each region starts on a page. A file of zeros (a fresh, sparse file) is an arena with nothing in use, so
//! creating one writes only the header.
//!
//! To touch a page that the file has no memory for, even to read it, makes the kernel find some, and is SIGBUS when there is none. So the
//! header, the inode locks and the bitmaps are given theirs at creation, entries of the tables before the high-water mark is raised over them, and
//! a page of the shadow table before its bit in the header is set; nothing else is ever touched.

use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::{ArenaConfig, StashError};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"fd-stash");
/// Changes with any incompatible change of the layout or of a protocol.
pub(crate) const VERSION: u32 = 3;
pub(crate) const PAGE: usize = 4096;
pub(crate) const BLOCK_BYTES: usize = 4096;
pub(crate) const BLOCK_WORDS: usize = BLOCK_BYTES / 8;
pub(crate) const INODE_LOCKS: usize = 1024;
pub(crate) const PATH_INLINE_WORDS: usize = 16;
pub(crate) const BLOB_INLINE_WORDS: usize = 8;
/// Longest path, in bytes: `PATH_MAX` without its terminating NUL.
pub const PATH_MAX_LEN: usize = 4095;
/// Longest blob, in bytes.
pub const BLOB_MAX_LEN: usize = 64 * 1024;

/// First page of the file. Written once, before the magic; only the high-water marks change later.
#[repr(C, align(64))]
pub(crate) struct Header {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    pub creator_uid: AtomicU32,
    pub session: [AtomicU64; 2],
    pub slots: AtomicU32,
    pub processes: AtomicU32,
    pub blocks: AtomicU32,
    pub _reserved: AtomicU32,
    pub file_len: AtomicU64,
    /// The host's.
    pub host_word: AtomicU64,
    /// One more than the largest index ever claimed, per table: bounds every scan.
    pub slots_top: AtomicU32,
    pub processes_top: AtomicU32,
    pub blocks_top: AtomicU32,
    /// The host's.
    pub user: AtomicU32,
    /// How many exec maps were ever made: tells one from the next.
    pub exec_maps: AtomicU64,
    /// A bit for each page of the shadow table that has memory.
    pub shadow_pages: [AtomicU64; SHADOW_PAGES / 64],
    /// How many processes were ever about to register, and how many of them have: see `births`.
    pub births_begun: AtomicU64,
    pub births_ended: AtomicU64,
}

/// One registered process.
#[repr(C, align(64))]
pub(crate) struct RawProcess {
    /// State, generation and pid: see `process::Control`.
    pub control: AtomicU64,
    /// `CLOCK_BOOTTIME` at registration, in nanoseconds.
    pub registered_at: AtomicU64,
    /// Inode number of the pid namespace; 0 if it could not be told.
    pub pid_namespace: AtomicU64,
    /// First block of the exec map plus one; 0 = none.
    pub exec_map: AtomicU64,
    /// How many images have gone on with the registration of the one before them.
    pub image: AtomicU64,
    pub _reserved: [AtomicU64; 3],
}

/// One open file description. The first cache line is what a read or a seek touches.
#[repr(C, align(64))]
pub(crate) struct RawSlot {
    /// State, generation and owner: see `slot::Control`.
    pub control: AtomicU64,
    /// File offset; bit 63 set while a lock holder works with it.
    pub offset: AtomicU64,
    pub lock: AtomicU64,
    pub status_flags: AtomicU32,
    pub access_mode: AtomicU32,
    /// Length, place, check and version of the path: see `path::Descriptor`.
    pub path: AtomicU64,
    /// Length and version of the blob: see `blob::Descriptor`.
    pub blob: AtomicU64,
    /// Inode number of the slot's shadow; outlives the slot's use; 0 = none yet.
    pub shadow: AtomicU64,
    pub kind: AtomicU32,
    pub mount: AtomicU32,
    pub device: AtomicU64,
    pub inode: AtomicU64,
    pub user: [AtomicU64; 4],
    pub blob_check: AtomicU64,
    /// By how many bytes who made the offset busy is to advance it at most.
    pub advance: AtomicU64,
    pub path_inline: [AtomicU64; PATH_INLINE_WORDS],
    /// The blob itself, or two block numbers a word.
    pub blob_inline: [AtomicU64; BLOB_INLINE_WORDS],
}

/// A lock word alone on its cache line.
#[repr(C, align(64))]
pub(crate) struct RawLock {
    pub word: AtomicU64,
}

pub(crate) type RawBlock = [AtomicU64; BLOCK_WORDS];

/// Entries of the shadow table on one page.
pub(crate) const SHADOWS_PER_PAGE: usize = PAGE / size_of::<AtomicU32>();
/// Pages of the largest shadow table.
const SHADOW_PAGES: usize = 2 * MOST as usize / SHADOWS_PER_PAGE;

const _: () = assert!(size_of::<Header>() <= PAGE);
const _: () = assert!(size_of::<RawProcess>() == 64);
const _: () = assert!(size_of::<RawSlot>() == 320);
const _: () = assert!(size_of::<RawLock>() == 64);
const _: () = assert!(size_of::<RawBlock>() == BLOCK_BYTES);

/// Table sizes and the byte offsets that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub slots: usize,
    pub processes: usize,
    pub blocks: usize,
    pub process_records: usize,
    pub inode_locks: usize,
    pub process_bits: usize,
    pub slot_bits: usize,
    pub block_bits: usize,
    pub shadow_table: usize,
    pub shadow_entries: usize,
    pub slot_records: usize,
    pub block_owners: usize,
    pub block_bytes: usize,
    pub len: usize,
}

/// Most slots or blocks: block and slot numbers are stored in 24 bits, with one value to spare.
const MOST: u32 = 1 << 23;

impl Layout {
    /// Computes the layout. Sizes are checked, so that no later index arithmetic can overflow.
    pub fn new(config: &ArenaConfig) -> Result<Self, StashError> {
        let &ArenaConfig { slots, processes, blocks } = config;
        let whole = |n: u32, most: u32| (64..=most).contains(&n) && n.is_multiple_of(64);
        if !whole(slots, MOST) || !whole(blocks, MOST) || !whole(processes, 1 << 16) {
            return Err(StashError::BadConfig("table sizes must be multiples of 64 within their limits"));
        }
        let (slots, processes, blocks) = (slots as usize, processes as usize, blocks as usize);
        let shadow_entries = (2 * slots).next_power_of_two();
        let mut end = PAGE;
        let mut region = |bytes: usize| {
            let start = end;
            end = (end + bytes).next_multiple_of(PAGE);
            start
        };
        Ok(Self {
            slots,
            processes,
            blocks,
            shadow_entries,
            process_records: region(processes * size_of::<RawProcess>()),
            inode_locks: region(INODE_LOCKS * size_of::<RawLock>()),
            process_bits: region(processes / 8),
            slot_bits: region(slots / 8),
            block_bits: region(blocks / 8),
            shadow_table: region(shadow_entries * 4),
            slot_records: region(slots * size_of::<RawSlot>()),
            block_owners: region(blocks * 8),
            block_bytes: region(blocks * BLOCK_BYTES),
            len: end,
        })
    }
}
