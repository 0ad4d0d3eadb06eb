//! Two names in one directory that is, by its text, the kernel's: a `rename` or `link` there is simply made.
//!
//! A symbolic link may lead to a mount from there, but it leads both names to the same place, where the kernel finds nothing to rename or link
//! ([`namei`](crate::namei) has why). So what succeeds was the kernel's, unless the name is that of a mount point, which the kernel has. A plugin's own
//! descriptor of a directory, where it stands at one of the program's numbers, is another way in, by a link to `/proc/self/fd`.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::FdState;
use interpose::{Call, usercopy};
use linux_raw_sys::general as sys;

use super::paths::At;
use crate::process::{Process, RELATIVE_FOREIGN, STATES};
use crate::resolve::{self, PATH_MAX};
use crate::{file, namei, native};

/// Makes the call if that can do no harm; true if it was done. If not, nothing has happened.
pub fn done(process: &'static Process, call: &Call, old: At, new: At) -> bool {
    let directory = |at: At| at.dirfd.map_or(sys::AT_FDCWD, |position| call.args[position] as RawFd);
    let mut buffers = [[MaybeUninit::uninit(); PATH_MAX]; 2];
    let [first, second] = &mut buffers;
    let (Ok(from), Ok(to)) =
        (usercopy::read_cstr(call.args[old.path], first), usercopy::read_cstr(call.args[new.path], second))
    else {
        return false;
    };
    let ((from_parent, from_name), (to_parent, to_name)) = (split(from), split(to));
    let relative = from.first() != Some(&b'/');
    from_parent == to_parent
        && (!relative || directory(old) == directory(new) && is_foreign(directory(old)))
        && [from, to].into_iter().all(|path| {
            resolve::is_plain(path)
                && (relative
                    || resolve::located(&process.table, path).is_none()
                        && !namei::MAGIC_PREFIXES.iter().any(|prefix| path.starts_with(prefix)))
        })
        && !file::has_adopted_directories()
        && !process.table.points().any(|point| [from_name, to_name].contains(&split(point).1))
        && native::call(call) == 0
}

/// The directory's part, with its slash, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1))
}

/// Whether nothing below the directory is on a mount, or a mount point, but by a link.
fn is_foreign(directory: RawFd) -> bool {
    if interpose::in_vfork_child() {
        return false; // Its working directory and descriptors are its own.
    }
    match directory {
        sys::AT_FDCWD => RELATIVE_FOREIGN.load(Ordering::Relaxed) != 0,
        fd => STATES.get(fd) == FdState::Foreign,
    }
}
