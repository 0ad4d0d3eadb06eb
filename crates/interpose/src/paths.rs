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
//! - `unlink`, `rmdir`, `unlinkat`, `truncate`, and the families of `chmod` and `chown` and `utimensat`: so, too. They are made anew only when
//!   they failed like that, and so had no effect.
//!
//! [`Call::tried`](crate::Call::tried) tells a handler what came out.

use core::sync::atomic::{AtomicU8, AtomicU64};

/// See [`crate::Config::paths`].
#[derive(Debug)]
pub struct PathFilter {
    /// Each prefix: a unit that begins with its length, then its bytes, in units; a unit of zeros at the end.
    pub(crate) prefixes: Box<[[u64; 2]]>,
    /// Ended by 0.
    pub(crate) inodes: Box<[u64]>,
    /// Not 0: relative to the working directory nothing is of interest.
    pub(crate) relative: &'static AtomicU8,
    pub(crate) fd_limit: &'static AtomicU64,
}

impl PathFilter {
    /// Paths that begin with one of the `prefixes` are of interest, and answers that name one of the `inodes`. Relative ones are while
    /// the byte `relative` is 0. FDs are expected below `fd_limit`.
    ///
    /// # Panics
    ///
    /// If a prefix is empty or holds a NUL.
    pub fn new<'a>(
        prefixes: impl IntoIterator<Item = &'a [u8]>,
        inodes: impl IntoIterator<Item = u64>,
        relative: &'static AtomicU8,
        fd_limit: &'static AtomicU64,
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
        Self { prefixes: units.into(), inodes, relative, fd_limit }
    }
}
