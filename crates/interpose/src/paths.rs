//! Which paths may be of interest, by their text: for calls that look up a path, so that the others cost next to nothing.
//!
//! A path is *foreign by its text* if it is absolute and plain (names, one slash between two), none of the prefixes is a prefix
//! of it, and it is none of theirs: it neither leads to what the handler serves nor ends on the way there, unless a symbolic link
//! has its hand in it. So is one that is relative and plain, if it begins in a directory whose FD is [`crate::FD_FOREIGN`], or in the working
//! directory while the handler says that this is not on the way to anything of interest either. Such a call is made by the entry, and offered only if its answer cannot be trusted:
//!
//! - `open`, `openat`: as `openat2` with `RESOLVE_NO_SYMLINKS`, so that a link is an error; then the call is offered. If the flags
//!   are unusual, it is offered at once. The FD is marked [`crate::FD_FOREIGN`]; one at or above the limit is left to the handler.
//! - `stat`, `lstat`, `newfstatat`, `statx`, `access`, `faccessat`, `faccessat2`, `readlink`, `readlinkat`: as they are. `ENOENT` and
//!   `ENOTDIR`, `EREMOTEIO` and `EOPNOTSUPP` are offered, as the handler may serve what the kernel does not have, and so is an inode of the
//!   list, which may stand for something else.
//! - `unlink`, `unlinkat`, `truncate`, and the families of `chmod` and `chown` and `utimensat`: so, too. They are made anew only when
//!   they failed like that, and so had no effect. What takes a directory away (`rmdir`, `unlinkat` with `AT_REMOVEDIR`) is always offered: it
//!   does not tell what that stood for.
//!
//! [`Call::tried`](crate::Call::tried) tells a handler what came out. If names tend to be absent from the directory of a path
//! ([`absence`]), a look-up is not made but offered as [`Call::guessed_absent`](crate::Call::guessed_absent): the handler can ask for the
//! name and for links on the way at once, which is less than to ask for one after the other.
//!
//! In a path of one name, relative to a directory of no interest, only the name can be a link. What is not there is offered only if the
//! call would follow it, or if the directory is of no interest no more: it may have become another one before the call was made.

use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// For each slot of directories how sure it is that a name is absent; sure enough above 0.
pub(crate) static ABSENCE: [AtomicI8; 1 << SLOT_BITS] = [const { AtomicI8::new(0) }; 1 << SLOT_BITS];
const SLOT_BITS: u32 = 10;
pub(crate) const SLOT_SHIFT: u32 = u64::BITS - SLOT_BITS;
pub(crate) const SLOT_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Not 0: the last path of one name that a `stat` did not just find was absent, and no link.
pub(crate) static NAME_ABSENT: AtomicU8 = AtomicU8::new(0);

/// Tells whether what `path` names was found to be absent, so that the entry can guess what comes next in the same directory. A wrong
/// guess costs as much as several right ones save.
pub fn absence(path: &[u8], absent: bool) {
    const SUREST: i8 = 16;
    const WRONG: i8 = 4;
    let Some(slot) = slot(path) else { return };
    let known = ABSENCE[slot].load(Relaxed);
    let now = if absent { (known + 1).min(SUREST) } else { (known - WRONG).max(-SUREST) };
    ABSENCE[slot].store(now, Relaxed);
}

/// By the length of the directory's path and its last eight bytes: what the entry finds too.
fn slot(path: &[u8]) -> Option<usize> {
    let length = path.iter().rposition(|&byte| byte == b'/').filter(|&slash| slash > 0)?;
    let mut last = [0; 8];
    let known = length.min(8);
    last[8 - known..].copy_from_slice(&path[length - known..length]);
    let sum = u64::from_le_bytes(last).wrapping_add(length as u64);
    Some((sum.wrapping_mul(SLOT_FACTOR) >> SLOT_SHIFT) as usize)
}

/// See [`crate::Config::paths`].
#[derive(Debug)]
pub struct PathFilter {
    /// Each prefix: a unit that begins with its length, then its bytes, in units; a unit of zeros at the end.
    pub(crate) prefixes: Box<[[u64; 2]]>,
    /// Ended by 0.
    pub(crate) inodes: Box<[u64]>,
    /// Not 0: relative to the working directory nothing is of interest.
    pub(crate) relative: &'static AtomicU32,
    pub(crate) fd_limit: &'static AtomicU64,
    /// Even and not 0; another number each time that an FD of no interest has become another file's.
    pub(crate) exchanges: &'static AtomicU32,
}

impl PathFilter {
    /// Paths that begin with one of the `prefixes` are of interest, and answers that name one of the `inodes`. Relative ones are while
    /// `relative` is 0. Each time that another directory becomes one where they are not, it has to be another odd number, and 0 before
    /// the kernel's working directory is one that is not the program's: what is not there is believed if the mark is the same before
    /// and after the call. FDs are expected below `fd_limit`. `exchanges` is even and not 0, and another such number before an FD that was
    /// [`crate::FD_FOREIGN`] becomes, without having been closed, something of interest: when its state has been forgotten already.
    ///
    /// # Panics
    ///
    /// If a prefix is empty or holds a NUL.
    pub fn new<'a>(
        prefixes: impl IntoIterator<Item = &'a [u8]>,
        inodes: impl IntoIterator<Item = u64>,
        relative: &'static AtomicU32,
        fd_limit: &'static AtomicU64,
        exchanges: &'static AtomicU32,
    ) -> Self {
        let mut units = Vec::new();
        for prefix in prefixes {
            // Nothing is told apart by no bytes; and a NUL is in no path.
            assert!(!prefix.is_empty() && !prefix.contains(&0), "no prefix of a path: {prefix:?}");
            units.push([prefix.len() as u64, 0]);
            for piece in prefix.chunks(16) {
                let mut unit = [0; 16];
                unit[..piece.len()].copy_from_slice(piece);
                let half = |at: usize| u64::from_ne_bytes(core::array::from_fn(|index| unit[at + index]));
                units.push([half(0), half(8)]);
            }
        }
        units.push([0, 0]);
        let inodes = inodes.into_iter().filter(|&inode| inode != 0).chain([0]).collect();
        Self { prefixes: units.into(), inodes, relative, fd_limit, exchanges }
    }
}
