//! Creating and opening an arena.

use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, SealFlags};

use crate::error::Doing;
use crate::layout::{Header, Layout, MAGIC, PAGE, VERSION};
use crate::map::Mapping;
use crate::{StashError, check_trusted};

/// Table sizes of a new arena. Each is a multiple of 64; untouched entries cost address space, not memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Open file descriptions: 64 to 2^23, 320 bytes each.
    pub slots: u32,
    /// Processes at one time: 64 to 65,536, 64 bytes each.
    pub processes: u32,
    /// Blocks of 4 KiB for long paths, blobs and exec maps: 64 to 2^23.
    pub blocks: u32,
}

impl Default for ArenaConfig {
    /// 2^20 slots, 2^16 processes, 2^17 blocks: 850 MiB of address space.
    fn default() -> Self {
        Self { slots: 1 << 20, processes: 1 << 16, blocks: 1 << 17 }
    }
}

/// How many entries of each table are in use: a count made while others go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Live slots.
    pub slots: u32,
    /// Registered processes, dead ones not yet swept included.
    pub processes: u32,
    /// Blocks owned by a slot or process.
    pub blocks: u32,
}

/// A mapping of one session's arena file.
///
/// `Send` and `Sync`; every method may be called from any thread, and from a forked child, which inherits the mapping.
/// No method calls libc; none allocates unless its signature shows a `Vec`. The file may be closed once mapped.
///
/// Whoever can write the file can make *values* wrong (they are checked, and refused with an error where that is
/// possible), and, by truncating a file that cannot be sealed, cause SIGBUS: hence [`check_trusted`].
pub struct Arena {
    pub(crate) map: Mapping,
    session: u128,
    pub(crate) slot_cursor: AtomicU32,
    pub(crate) process_cursor: AtomicU32,
    pub(crate) block_cursor: AtomicU32,
    pub(crate) sweep_cursor: AtomicU32,
}

impl Arena {
    /// Makes an arena of an empty file (a regular file on tmpfs, or a memfd) open for reading and writing.
    ///
    /// A file that group or others may write (such as a fresh memfd) gets mode 0600; a memfd made with
    /// `MFD_ALLOW_SEALING` is sealed against growing and shrinking. The process's `RLIMIT_FSIZE` and `RLIMIT_AS` must
    /// have room for [`Arena::map_len`] bytes (beyond the former the kernel sends SIGXFSZ). [`StashError::NoSpace`] if the file system is full.
    pub fn create(fd: BorrowedFd<'_>, config: &ArenaConfig) -> Result<Self, StashError> {
        let layout = Layout::new(config)?;
        let stat = rustix::fs::fstat(fd).doing("examining the new arena file")?;
        if stat.st_size != 0 {
            return Err(StashError::BadConfig("the file is not empty"));
        }
        if stat.st_mode & 0o022 != 0 {
            rustix::fs::fchmod(fd, Mode::RUSR | Mode::WUSR).doing("restricting the new arena file")?;
        }
        check_trusted(fd)?;
        let mut session = [0_u8; 16];
        rustix::rand::getrandom(&mut session, rustix::rand::GetRandomFlags::empty())
            .doing("choosing a session identifier")?;
        rustix::fs::ftruncate(fd, layout.len as u64).doing("sizing the new arena file")?;
        // Refused by files that cannot be sealed, which is all that can go wrong.
        let _ = rustix::fs::fcntl_add_seals(fd, SealFlags::GROW | SealFlags::SHRINK);
        let map = Mapping::new(fd, layout)?;
        map.back(0..PAGE)?;
        map.back(layout.inode_locks..layout.shadow_table)?;
        let session = u128::from_le_bytes(session);
        write_header(map.header(), config, &layout, session, stat.st_uid);
        Ok(Self::of(map, session))
    }

    /// Maps an existing arena after checking that the file can be trusted ([`check_trusted`]) and that its header
    /// agrees with its size.
    pub fn open(fd: BorrowedFd<'_>) -> Result<Self, StashError> {
        check_trusted(fd)?;
        let stat = rustix::fs::fstat(fd).doing("examining the arena file")?;
        let (config, file_len, session) = read_header(fd)?;
        let layout = Layout::new(&config)
            .map_err(|_| StashError::NotAnArena("table sizes outside of the supported range"))?;
        if file_len != layout.len as u64 || stat.st_size as u64 != file_len {
            return Err(StashError::NotAnArena("size differs from what the header says"));
        }
        Ok(Self::of(Mapping::new(fd, layout)?, session))
    }

    fn of(map: Mapping, session: u128) -> Self {
        let cursor = || AtomicU32::new(0);
        Self {
            map,
            session,
            slot_cursor: cursor(),
            process_cursor: cursor(),
            block_cursor: cursor(),
            sweep_cursor: cursor(),
        }
    }

    /// The mapping's and the file's length in bytes.
    pub fn map_len(&self) -> usize {
        self.map.layout().len
    }

    /// The random identifier chosen when the arena was created.
    pub fn session_id(&self) -> u128 {
        self.session
    }

    /// The user who created the arena.
    pub fn creator_uid(&self) -> u32 {
        self.map.header().creator_uid.load(Ordering::Relaxed)
    }

    /// A word for the host's own use, 0 at first, the same in all processes. It is not in the way of anything else.
    pub fn host_word(&self) -> &AtomicU64 {
        &self.map.header().host_word
    }

    /// A word for the host's own use, shared by all processes; 0 at first.
    pub fn user_word(&self) -> &AtomicU32 {
        &self.map.header().user
    }

    /// Counts what is in use. Looks at every entry used so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.for_each_live(|_| stats.slots += 1);
        stats.processes = self.live_processes().count() as u32;
        let owners = &self.map.block_owners()[..self.blocks_top()];
        stats.blocks = owners.iter().filter(|owner| owner.load(Ordering::Relaxed) != 0).count() as u32;
        stats
    }

    pub(crate) fn slots_top(&self) -> usize {
        top(&self.map.header().slots_top, self.map.layout().slots)
    }

    pub(crate) fn processes_top(&self) -> usize {
        top(&self.map.header().processes_top, self.map.layout().processes)
    }

    pub(crate) fn blocks_top(&self) -> usize {
        top(&self.map.header().blocks_top, self.map.layout().blocks)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arena of session {:032x}", self.session)
    }
}

/// A high-water mark, held to the table's size.
fn top(mark: &AtomicU32, table: usize) -> usize {
    (mark.load(Ordering::Acquire) as usize).min(table)
}

fn write_header(header: &Header, config: &ArenaConfig, layout: &Layout, session: u128, uid: u32) {
    header.version.store(VERSION, Ordering::Relaxed);
    header.creator_uid.store(uid, Ordering::Relaxed);
    header.session[0].store(session as u64, Ordering::Relaxed);
    header.session[1].store((session >> 64) as u64, Ordering::Relaxed);
    header.slots.store(config.slots, Ordering::Relaxed);
    header.processes.store(config.processes, Ordering::Relaxed);
    header.blocks.store(config.blocks, Ordering::Relaxed);
    header.file_len.store(layout.len as u64, Ordering::Relaxed);
    // Last: a creator killed before this leaves a file that is no arena.
    header.magic.store(MAGIC, Ordering::Release);
}

/// Reads table sizes, file length and session from the header. By pread(2), as a mapping costs more.
fn read_header(fd: BorrowedFd<'_>) -> Result<(ArenaConfig, u64, u128), StashError> {
    let mut bytes = [0; 64];
    let len = rustix::io::pread(fd, &mut bytes, 0).doing("reading the arena's header")?;
    if len < bytes.len() || number(&bytes, offset_of!(Header, magic), 8) != MAGIC as u128 {
        return Err(StashError::NotAnArena("no magic number"));
    }
    let version = number(&bytes, offset_of!(Header, version), 4) as u32;
    if version != VERSION {
        return Err(StashError::Version { found: version });
    }
    let config = ArenaConfig {
        slots: number(&bytes, offset_of!(Header, slots), 4) as u32,
        processes: number(&bytes, offset_of!(Header, processes), 4) as u32,
        blocks: number(&bytes, offset_of!(Header, blocks), 4) as u32,
    };
    let file_len = number(&bytes, offset_of!(Header, file_len), 8) as u64;
    Ok((config, file_len, number(&bytes, offset_of!(Header, session), 16)))
}

/// The little-endian number of `len` bytes at `at`.
fn number(bytes: &[u8; 64], at: usize, len: usize) -> u128 {
    bytes[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | byte as u128)
}
