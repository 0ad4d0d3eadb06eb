//! Directories that were used before, kept open.
//!
//! A name is looked up in the descriptor of its directory, and to open and close one each time takes longer than most calls that it is
//! for. So a few stay open. Whether the path still leads there is asked before each use, by identity: others may have moved the
//! directory or put another in its place. See docs/decisions/kept-directories.md.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rustix::fs::{AtFlags, FileType, FsWord, StatxFlags, fstatfs, statx};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// How many are kept.
const SLOTS: usize = 8;
/// The longest path of one, its NUL counted.
const LONGEST: usize = 256;
/// File systems on which no two directories have the same number, from <linux/magic.h>: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs,
/// ramfs, overlayfs.
const KNOWN: [FsWord; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x8584_58f6, 0x794c_7630];

/// The directories that are kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The mount that the root is on, if the identities of its directories can be relied on.
    mount: Option<u64>,
    slots: [Slot; SLOTS],
    /// The slot that is used next.
    turn: AtomicUsize,
    /// The paths, by hash, that were looked for last and not found.
    missed: [AtomicU64; SLOTS],
    missed_turn: AtomicUsize,
}

/// Room for one. Its lock is only ever tried: who cannot have it at once does without, so that nothing waits for a thread that is gone
/// after a fork.
#[derive(Debug)]
struct Slot {
    /// Of the path, or 0.
    hash: AtomicU64,
    directory: RwLock<Option<Directory>>,
}

/// One of them.
#[derive(Debug)]
struct Directory {
    path: [u8; LONGEST],
    identity: Identity,
    descriptor: OwnedFd,
}

/// What tells a directory from all others as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

/// A directory that is kept, in use.
#[derive(Debug)]
pub(crate) struct InUse<'a>(RwLockReadGuard<'a, Option<Directory>>);

impl AsFd for InUse<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.0 {
            Some(directory) => directory.descriptor.as_fd(),
            // `Slot::read` makes no other.
            None => rustix::fs::ABS,
        }
    }
}

impl Kept {
    /// None yet, below `root`.
    pub(crate) fn new(root: BorrowedFd<'_>) -> Self {
        let known = fstatfs(root).is_ok_and(|found| KNOWN.contains(&found.f_type));
        let identity = if known { Identity::of(root, c"", AtFlags::EMPTY_PATH) } else { None };
        Self {
            mount: identity.map(|identity| identity.mount),
            slots: [const { Slot::new() }; SLOTS],
            turn: AtomicUsize::new(0),
            missed: [const { AtomicU64::new(0) }; SLOTS],
            missed_turn: AtomicUsize::new(0),
        }
    }

    /// The directory that `path` leads to from `root` now, if it is kept.
    pub(crate) fn find(&self, root: BorrowedFd<'_>, path: &CStr) -> Option<InUse<'_>> {
        let hash = hash(path);
        let slot = self.slots.iter().find(|slot| slot.hash.load(Ordering::Acquire) == hash)?;
        let in_use = slot.read(path)?;
        if Identity::of(root, path, AtFlags::SYMLINK_NOFOLLOW) == in_use.identity() {
            return Some(in_use);
        }
        drop(in_use);
        slot.clear(path);
        None
    }

    /// Whether `path`, which was not found, is worth keeping: it was looked for before.
    pub(crate) fn wants(&self, path: &CStr) -> bool {
        if self.mount.is_none() || path.count_bytes() >= LONGEST {
            return false;
        }
        let hash = hash(path);
        if self.missed.iter().any(|missed| missed.load(Ordering::Relaxed) == hash) {
            return true;
        }
        let turn = self.missed_turn.fetch_add(1, Ordering::Relaxed);
        self.missed[turn % SLOTS].store(hash, Ordering::Relaxed);
        false
    }

    /// Keeps `descriptor`, to which `path` led just now, and has it in use. Closes it if it cannot be kept.
    pub(crate) fn keep(&self, path: &CStr, descriptor: OwnedFd) -> Option<InUse<'_>> {
        let identity = Identity::of(descriptor.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        // On another mount it would keep that from being unmounted.
        if Some(identity.mount) != self.mount {
            return None;
        }
        let mut text = [0; LONGEST];
        text.get_mut(..path.count_bytes())?.copy_from_slice(path.to_bytes());
        let slot = &self.slots[self.turn.fetch_add(1, Ordering::Relaxed) % SLOTS];
        let mut room = slot.write()?;
        slot.hash.store(hash(path), Ordering::Release);
        // The one that was here is closed, as nobody uses it.
        *room = Some(Directory { path: text, identity, descriptor });
        drop(room);
        slot.read(path).filter(|in_use| in_use.identity() == Some(identity))
    }
}

impl Slot {
    const fn new() -> Self {
        Self { hash: AtomicU64::new(0), directory: RwLock::new(None) }
    }

    fn read(&self, path: &CStr) -> Option<InUse<'_>> {
        let directory = match self.directory.try_read() {
            Ok(directory) => directory,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let is_it = directory.as_ref().is_some_and(|directory| directory.is_at(path));
        is_it.then_some(InUse(directory))
    }

    fn write(&self) -> Option<RwLockWriteGuard<'_, Option<Directory>>> {
        match self.directory.try_write() {
            Ok(directory) => Some(directory),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Closes the directory that was at `path`, unless it is in use.
    fn clear(&self, path: &CStr) {
        if let Some(mut directory) = self.write()
            && directory.as_ref().is_some_and(|directory| directory.is_at(path))
        {
            self.hash.store(0, Ordering::Relaxed);
            *directory = None;
        }
    }
}

impl Directory {
    fn is_at(&self, path: &CStr) -> bool {
        self.path.starts_with(path.to_bytes_with_nul())
    }
}

impl InUse<'_> {
    fn identity(&self) -> Option<Identity> {
        self.0.as_ref().map(|directory| directory.identity)
    }
}

impl Identity {
    /// Of the directory at `path`; `None` if there is none.
    fn of(base: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> Option<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
        let found = statx(base, path, flags, wanted).ok()?;
        let told = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
        let directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
        (told && directory).then_some(Self {
            mount: found.stx_mnt_id,
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        })
    }
}

/// Not 0. Which of two paths has it is asked again, so it need only tell most apart.
fn hash(path: &CStr) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = path.to_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mix =
        |hash: u64, word: &[u8; 8]| (hash.rotate_left(5) ^ u64::from_ne_bytes(*word)).wrapping_mul(FACTOR);
    mix(words.iter().fold(path.count_bytes() as u64, mix), &last) | 1
}
