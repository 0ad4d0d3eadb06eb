//! Names that are not there, of which programs ask for many: along a search path, or to see whether there is work to do.
//!
//! Under a mount point there is nothing for the kernel, so what it does not find may lie on a mount, if a symbolic link led there. Whether
//! there was a link on the way is told by an open that refuses them ([`look`]). It also says that the name is absent:
//! where that is likely (`interpose::absence`) it is the only call.
//!
//! Nothing is kept of what is found out but how likely it is to be found again. A link that is made later is met by the next look-up.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::FdState;
use interpose::{Call, usercopy};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::paths::At;
use super::{Reply, Served};
use crate::native;
use crate::openat2::{look, why_not};
use crate::process::{EXCHANGES, Process, RELATIVE_FOREIGN, STATES};
use crate::resolve::PATH_MAX;

/// The answer to a call whose path the entry found to be nobody's by its text, if the name is absent for sure: there was no link on the
/// way. None: to be served as any other.
pub fn answer(process: &Process, call: &Call) -> Option<i64> {
    let guessed = call.guessed_absent();
    let missing = |error: Errno| matches!(error, Errno::NOENT | Errno::NOTDIR);
    let tried =
        call.tried().map(|result| Errno::from_raw_os_error(-result as i32)).filter(|&error| missing(error));
    if !guessed && tried.is_none() {
        return None;
    }
    let (at, plain_look) = path_of(call)?;
    if guessed && !plain_look {
        return None;
    }
    let dirfd = at.dirfd.map_or(sys::AT_FDCWD, |position| call.args[position] as RawFd);
    let mut buffer = [MaybeUninit::uninit(); PATH_MAX];
    let path = usercopy::read_cstr(call.args[at.path], &mut buffer).ok()?;
    // The directory may be another at each moment. What was tried before may have been tried in that.
    let mark = (path.first() != Some(&b'/')).then(|| foreign_mark(dirfd));
    let why = if tried.is_some() {
        Some(why_not(dirfd, path, at.follow))
    } else if let Some(why) = unless_others(process, || look(dirfd, path, at.follow).err()) {
        why
    } else {
        // So that the entry does not go on guessing in vain.
        interpose::absence(path, false);
        return None;
    };
    if mark.is_some_and(|mark| mark == 0 || mark != foreign_mark(dirfd)) {
        return None;
    }
    match tried {
        // There was no link now, so there was none then, as far as anybody can tell.
        Some(error) if why == Some(error) => {
            interpose::absence(path, true);
            Some(-i64::from(error.raw_os_error()))
        }
        Some(_) => None,
        None => {
            let absent = why == Some(Errno::NOENT);
            interpose::absence(path, absent);
            absent.then_some(-i64::from(Errno::NOENT.raw_os_error()))
        }
    }
}

/// The look, for which a number is used that the program may have: not where another thread may put something else there meanwhile, which would be
/// closed. (A lock would keep that from happening, for as long as a file system takes to answer.)
fn unless_others<R>(process: &Process, look: impl FnOnce() -> R) -> Option<R> {
    let alone = interpose::in_vfork_child() || !process.threaded.load(Ordering::Acquire);
    alone.then(look)
}

/// Not 0 and the same before and after what was looked for below the directory: that was in one and the same, which is nobody's.
fn foreign_mark(directory: RawFd) -> u32 {
    match directory {
        sys::AT_FDCWD => RELATIVE_FOREIGN.load(Ordering::SeqCst),
        fd => {
            // Before the state: see there.
            let exchanges = EXCHANGES.load(Ordering::SeqCst);
            if STATES.get(fd) == FdState::Foreign { exchanges } else { 0 }
        }
    }
}

/// Serves a call. Once more if it finds nothing while another thread was changing the working directory, or what an FD is: that may have been to
/// a mount, after it was known to be elsewhere, and then there was nothing for the kernel.
pub fn steadily(process: &Process, call: &Call, mut serve: impl FnMut() -> Served) -> Served {
    // While a chdir(2) is under way, which may take any time, the kernel tells whether it has changed the directory already.
    let state = || {
        let moving = process.in_chdir.load(Ordering::SeqCst) != 0;
        let changes = (process.cwd_changes.load(Ordering::SeqCst), EXCHANGES.load(Ordering::SeqCst));
        (moving.then(|| kernels_directory(process)), changes)
    };
    loop {
        let before = state();
        let served = serve();
        let error = match &served {
            Ok(Reply::Value(value)) => *value,
            Err(error) => -i64::from(error.raw_os_error()),
            Ok(_) => 0,
        };
        // In the kernel's empty directory (`Process::enter_nowhere`) nothing can be made either, or it is forbidden; and of two names one may
        // have been looked for before, and one after. A shadow that stands for the directory is none, and the module's is nobody's.
        let nothing = [Errno::NOENT, Errno::ACCESS, Errno::XDEV, Errno::NOTDIR, Errno::REMOTEIO]
            .map(|none| -i64::from(none.raw_os_error()));
        if !nothing.contains(&error) || before == state() || !is_by_path(process, call) {
            return served;
        }
    }
}

/// The kernel's working directory: mount, device and inode. No file system is asked anew, and so none waited for. None if the program may have
/// forbidden itself to ask.
#[cold]
fn kernels_directory(process: &Process) -> Option<(u64, u32, u32, u64)> {
    if process.restricted.load(Ordering::Relaxed) {
        return None;
    }
    let mask = sys::STATX_INO | sys::STATX_MNT_ID;
    let here = native::statx_as_known(c".", mask).ok()?;
    Some((here.stx_mnt_id, here.stx_dev_major, here.stx_dev_minor, here.stx_ino))
}

/// Whether the call goes by a path, and has no effect when it finds nothing.
fn is_by_path(process: &Process, call: &Call) -> bool {
    const OTHERS: [u32; 35] = [
        sys::__NR_chdir,
        sys::__NR_creat,
        sys::__NR_futimesat,
        sys::__NR_getcwd,
        sys::__NR_getxattr,
        sys::__NR_getxattrat,
        sys::__NR_inotify_add_watch,
        sys::__NR_lgetxattr,
        sys::__NR_link,
        sys::__NR_linkat,
        sys::__NR_listxattr,
        sys::__NR_listxattrat,
        sys::__NR_llistxattr,
        sys::__NR_lremovexattr,
        sys::__NR_lsetxattr,
        sys::__NR_mkdir,
        sys::__NR_mkdirat,
        sys::__NR_mknod,
        sys::__NR_mknodat,
        sys::__NR_name_to_handle_at,
        sys::__NR_open,
        sys::__NR_openat,
        sys::__NR_openat2,
        sys::__NR_removexattr,
        sys::__NR_removexattrat,
        sys::__NR_rename,
        sys::__NR_renameat,
        sys::__NR_renameat2,
        sys::__NR_setxattr,
        sys::__NR_setxattrat,
        sys::__NR_statfs,
        sys::__NR_symlink,
        sys::__NR_symlinkat,
        sys::__NR_utime,
        sys::__NR_utimes,
    ];
    // Where others may wander off with the directory each look at it counts as a change.
    !process.common.wanders() && (path_of(call).is_some() || OTHERS.contains(&call.nr))
}

/// Where a call has its path, if the entry makes it; and whether the kernel would look the path up, with the effective user's rights and
/// without an objection to the other arguments, so that a name found to be absent is the answer.
fn path_of(call: &Call) -> Option<(At, bool)> {
    const LOOK: u32 = sys::AT_SYMLINK_NOFOLLOW | sys::AT_NO_AUTOMOUNT | sys::AT_EMPTY_PATH;
    let [_, _, third, fourth, fifth, _] = call.args;
    let nofollow = |flags: u64| flags as u32 & sys::AT_SYMLINK_NOFOLLOW != 0;
    let only = |flags: u64, known: u32| flags as u32 & !known == 0;
    Some(match call.nr {
        sys::__NR_stat => (At::cwd(0, true), true),
        sys::__NR_lstat => (At::cwd(0, false), true),
        sys::__NR_newfstatat => (At::dir(!nofollow(fourth)), only(fourth, LOOK)),
        sys::__NR_statx => {
            let valid = only(third, LOOK) && fourth as u32 & sys::STATX__RESERVED == 0;
            (At::dir(!nofollow(third)), valid)
        }
        sys::__NR_readlink => (At::cwd(0, false), third as i32 > 0),
        sys::__NR_readlinkat => (At::dir(false), fourth as i32 > 0),
        sys::__NR_access | sys::__NR_chmod | sys::__NR_chown | sys::__NR_truncate => {
            (At::cwd(0, true), false)
        }
        sys::__NR_faccessat | sys::__NR_fchmodat => (At::dir(true), false),
        sys::__NR_faccessat2 | sys::__NR_fchmodat2 | sys::__NR_utimensat => {
            (At::dir(!nofollow(fourth)), false)
        }
        sys::__NR_fchownat => (At::dir(!nofollow(fifth)), false),
        sys::__NR_unlink | sys::__NR_rmdir | sys::__NR_lchown => (At::cwd(0, false), false),
        sys::__NR_unlinkat => (At::dir(false), false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that the entry guesses must not get an answer for a path when the kernel would not even look at it.
    #[test]
    fn only_what_the_kernel_would_look_up_is_answered_by_a_guess() {
        let plain = |nr, args| path_of(&Call::new(nr, args)).map(|(at, plain)| (at.follow, plain));
        let cwd = sys::AT_FDCWD as u64;
        assert_eq!(plain(sys::__NR_newfstatat, [cwd, 0, 0, 0, 0, 0]), Some((true, true)));
        assert_eq!(plain(sys::__NR_newfstatat, [cwd, 0, 0, 0x100, 0, 0]), Some((false, true)));
        assert_eq!(plain(sys::__NR_newfstatat, [cwd, 0, 0, 0x1_0000, 0, 0]), Some((true, false)));
        assert_eq!(plain(sys::__NR_statx, [cwd, 0, 0x100, 0x7ff, 0, 0]), Some((false, true)));
        assert_eq!(plain(sys::__NR_statx, [cwd, 0, 0, 0x8000_0000, 0, 0]), Some((true, false)));
        assert_eq!(plain(sys::__NR_readlink, [0, 0, 0, 0, 0, 0]), Some((false, false)));
        // By the real user's rights.
        assert_eq!(plain(sys::__NR_access, [0, 0, 0, 0, 0, 0]), Some((true, false)));
        assert_eq!(plain(sys::__NR_open, [0, 0, 0, 0, 0, 0]), None);
    }
}
