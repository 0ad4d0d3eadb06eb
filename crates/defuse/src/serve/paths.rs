//! What all calls that take a path have in common.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::pinned::{self, Pinned};
use super::{Reply, Served};
use crate::namei::{self, Located, PathArgument, Performed, Spot};
use crate::native;
use crate::process::Process;
use crate::resolve::{PathBytes, Walk};

/// Where a call has its path, and the FD the path is relative to.
#[derive(Clone, Copy)]
pub struct At {
    /// Position of the directory FD among the arguments, if there is one.
    pub dirfd: Option<usize>,
    /// Position of the path.
    pub path: usize,
    /// Whether a symbolic link in the last component is followed.
    pub follow: bool,
    /// See [`Walk::name`].
    pub name: bool,
}

impl At {
    /// A path at this position, relative to the working directory.
    pub const fn cwd(path: usize, follow: bool) -> Self {
        Self { dirfd: None, path, follow, name: false }
    }

    /// A path at position 1, relative to the FD at position 0.
    pub const fn dir(follow: bool) -> Self {
        Self { dirfd: Some(0), path: 1, follow, name: false }
    }

    /// That of a name, at position 0, that is made or taken away.
    pub const fn name() -> Self {
        Self { dirfd: None, path: 0, follow: false, name: true }
    }

    /// As [`name`](Self::name), at position 1, relative to the FD at position 0.
    pub const fn name_below() -> Self {
        Self { dirfd: Some(0), path: 1, ..Self::name() }
    }

    /// How links in it are treated.
    pub const fn walk(self) -> Walk {
        Walk { name: self.name, ..Walk::plain(self.follow) }
    }

    /// The argument itself.
    pub fn argument(self, call: &Call) -> Result<PathArgument, Errno> {
        let dirfd = self.dirfd.map_or(sys::AT_FDCWD, |position| call.args[position] as RawFd);
        PathArgument::read(dirfd, call.args[self.path])
    }
}

/// Serves a call on something that exists (or whose absence is the answer): by `operation` where the path leads to a
/// mount, else by the kernel.
pub fn lookup(
    process: &'static Process,
    call: &Call,
    at: At,
    operation: impl FnMut(&Spot) -> Result<i64, Errno>,
) -> Served {
    lookup_argument(process, call, at, &at.argument(call)?, operation)
}

/// As [`lookup`], with the path read already.
pub fn lookup_argument(
    process: &'static Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
    mut operation: impl FnMut(&Spot) -> Result<i64, Errno>,
) -> Served {
    let hidden = Hidden::of(call);
    match argument.perform_with(process, at.walk(), &mut operation)? {
        Performed::Served(value) => return Ok(Reply::Value(value)),
        Performed::Native(Some(path)) => return Ok(Reply::Value(with_path(call, at, &path)?)),
        Performed::Native(None) => {}
    }
    let is_hidden = || leads_to_hidden(process, argument, at.walk().follows(&argument.text));
    let result = if hidden == Hidden::AskBefore && is_hidden() {
        None
    } else {
        // What a relative path did not find before may have been looked for in another directory than it would be now.
        let tried = call.tried().filter(|_| argument.is_absolute());
        Some(tried.unwrap_or_else(|| native::call(call)))
    };
    if let Some(result) = result {
        let found = result >= 0 || result == NO_DATA;
        // The directory under a mount is empty: what lies on the mount does not exist for the kernel. (For a mount of the module every
        // name in it is EREMOTEIO, and its root has no extended attributes.)
        let elsewhere = found && hidden == Hidden::AskAfterwards && is_hidden()
            || absent(result) && argument.may_meet_link(at.follow);
        if !elsewhere {
            return Ok(Reply::Value(result));
        }
    }
    let place = argument.walk_with(process, at.walk())?;
    there(place, call, at, operation, || Ok(Reply::Value(result.unwrap_or_else(|| native::call(call)))))
}

/// Does it where the path leads: on a mount, by another path, or by the program's own words.
fn there(
    place: Located,
    call: &Call,
    at: At,
    mut operation: impl FnMut(&Spot) -> Result<i64, Errno>,
    itself: impl FnOnce() -> Served,
) -> Served {
    match place {
        Located::Served(spot) => Ok(Reply::Value(operation(&spot)?)),
        Located::Native(Some(path)) => Ok(Reply::Value(with_path(call, at, &path)?)),
        Located::Native(None) => itself(),
    }
}

/// There is a file, and it has no such attribute.
const NO_DATA: i64 = -(linux_raw_sys::errno::ENODATA as i64);

/// The kernel may come, by a link, to the directory that a mount hides, which is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// The caller is told which directory it has found, or only that there is one, or fails with any.
    Seen,
    /// It does no harm, but is not the answer.
    AskAfterwards,
    /// The call would have an effect on it, which must not be.
    AskBefore,
}

impl Hidden {
    fn of(call: &Call) -> Self {
        match call.nr {
            sys::__NR_stat
            | sys::__NR_lstat
            | sys::__NR_newfstatat
            | sys::__NR_statx
            | sys::__NR_access
            | sys::__NR_faccessat
            | sys::__NR_faccessat2
            | sys::__NR_readlink
            | sys::__NR_readlinkat
            | sys::__NR_unlink => Self::Seen,
            sys::__NR_unlinkat if call.args[2] as u32 == 0 => Self::Seen,
            sys::__NR_unlinkat
            | sys::__NR_rmdir
            | sys::__NR_utime
            | sys::__NR_utimes
            | sys::__NR_futimesat
            | sys::__NR_setxattr
            | sys::__NR_lsetxattr
            | sys::__NR_setxattrat
            | sys::__NR_removexattr
            | sys::__NR_lremovexattr
            | sys::__NR_removexattrat
            | sys::__NR_inotify_add_watch
            | sys::__NR_chroot => Self::AskBefore,
            // Those that change modes, owners and times and are not above are the entry's, which does not ask: see docs/posix.md.
            _ => Self::AskAfterwards,
        }
    }
}

/// Whether the path, which is not on a mount by its text, is by a link that of a mount point: there is a directory, but not the mount's root. The link
/// may be any but one in the last place that is not followed. A program with a filter of its own is not made to ask: that may be the end of it.
fn leads_to_hidden(process: &Process, argument: &PathArgument, follows: bool) -> bool {
    !process.restricted.load(Ordering::Relaxed)
        && native::stat_path(argument.dirfd, &argument.text, follows)
            .is_ok_and(|found| process.table.hidden_by(found.st_dev, found.st_ino).is_some())
}

/// Serves a call that makes a new name: before the kernel may make it, it must be sure not to lie on a mount.
pub fn create(
    process: &'static Process,
    call: &Call,
    at: At,
    mut operation: impl FnMut(&Spot) -> Result<i64, Errno>,
) -> Served {
    let argument = at.argument(call)?;
    match argument.perform_with(process, at.walk(), &mut operation)? {
        Performed::Served(value) => return Ok(Reply::Value(value)),
        Performed::Native(Some(path)) => return Ok(Reply::Value(with_path(call, at, &path)?)),
        Performed::Native(None) => {}
    }
    match pinned::make(process, call, at, &argument)? {
        Pinned::Done(result) => Ok(Reply::Value(result)),
        Pinned::NotNeeded => {
            let place = settle(process, &argument, at.walk())?;
            there(place, call, at, operation, || by_kernel(process, call))
        }
        Pinned::Elsewhere => {
            let place = argument.walk_with(process, at.walk())?;
            there(place, call, at, operation, || {
                pinned::make_through_links(process, call, at, &argument).map(Reply::Value)
            })
        }
    }
}

/// The kernel's call, for one that is made again if it fails since another thread has changed a directory (`absent::steadily`).
pub fn by_kernel(process: &Process, call: &Call) -> Served {
    let alone = !process.threaded.load(Ordering::Acquire);
    Ok(if alone { Reply::Pass } else { Reply::Value(native::call(call)) })
}

/// Where a path that looks native leads for sure: walks if the kernel would meet a symbolic link on the way.
pub fn settle(process: &'static Process, argument: &PathArgument, walk: Walk) -> Result<Located, Errno> {
    let follows = walk.follows(&argument.text);
    let may_meet_link = if follows { argument.may_meet_link(true) } else { parent_may_meet_link(argument) };
    if may_meet_link { argument.walk_with(process, walk) } else { Ok(Located::Native(None)) }
}

/// Where a path leads for sure, for calls with two of them.
pub fn locate_for_sure(
    process: &'static Process,
    argument: &PathArgument,
    walk: Walk,
) -> Result<Located, Errno> {
    match argument.locate(process)? {
        Located::Native(None) => settle(process, argument, walk),
        known => Ok(known),
    }
}

/// The call made by the kernel with `path` in place of the program's.
pub fn with_path(call: &Call, at: At, path: &PathBytes) -> Result<i64, Errno> {
    let mut name = path.clone();
    name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    let mut args = call.args;
    args[at.path] = name.as_ptr() as u64;
    if let Some(position) = at.dirfd {
        args[position] = sys::AT_FDCWD as u64;
    }
    Ok(native::raw_call(call.nr, args))
}

fn absent(result: i64) -> bool {
    use linux_raw_sys::errno;
    matches!(-result as u32, errno::ENOENT | errno::ENOTDIR | errno::EREMOTEIO | errno::EOPNOTSUPP)
}

/// Whether the kernel may meet a symbolic link before the last component: see [`PathArgument::may_meet_link`].
pub fn parent_may_meet_link(argument: &PathArgument) -> bool {
    let text = argument.text.as_slice();
    let trimmed = text.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
    let Some(slash) = text[..trimmed].iter().rposition(|&byte| byte == b'/') else { return false };
    let parent = if slash == 0 { b"/".as_slice() } else { &text[..slash] };
    namei::may_meet_link(argument.dirfd, parent, true)
}
