//! Why a mount point cannot be renamed, or something else take its place. Its name lies in a directory of the kernel's, where the kernel sees an empty
//! directory that it would be content with.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::namei::{PathArgument, Spot};
use crate::native;
use crate::resolve::PathBytes;

/// What the kernel would go by: the program's words, or another path.
pub type Name<'a> = (&'a PathArgument, Option<&'a PathBytes>);

/// Why the mount point at `root` cannot have the name `to`.
pub fn renamed(root: &Spot, to: Name<'_>, call: &Call) -> Errno {
    let flags = flags_of(call);
    why(root, to, |found| match found {
        Ok(_) if flags & sys::RENAME_NOREPLACE != 0 => Errno::EXIST,
        Ok(kind) if flags & sys::RENAME_EXCHANGE == 0 && kind != sys::S_IFDIR => Errno::NOTDIR,
        Err(error) if error != Errno::NOENT || flags & sys::RENAME_EXCHANGE != 0 => error,
        _ => Errno::BUSY,
    })
}

/// Why what has the name `from` cannot take the place of the mount point at `root`.
pub fn replaced(root: &Spot, from: Name<'_>, call: &Call) -> Errno {
    let flags = flags_of(call);
    why(root, from, |found| match found {
        Err(error) => error,
        Ok(_) if flags & sys::RENAME_NOREPLACE != 0 => Errno::EXIST,
        Ok(kind) if flags & sys::RENAME_EXCHANGE == 0 && kind != sys::S_IFDIR => Errno::ISDIR,
        Ok(_) => Errno::BUSY,
    })
}

fn flags_of(call: &Call) -> u32 {
    if call.nr == sys::__NR_renameat2 { call.args[4] as u32 } else { 0 }
}

/// `EXDEV` if the two names are not on one mount of the kernel's, else what `within` says of what is found at the other one.
fn why(root: &Spot, (argument, path): Name<'_>, within: impl FnOnce(Result<u32, Errno>) -> Errno) -> Errno {
    let other = match path {
        Some(path) => PathArgument { dirfd: sys::AT_FDCWD, text: path.clone() },
        None => argument.clone(),
    };
    let Ok(point) = PathBytes::try_from(root.mount.point().to_bytes()) else { return Errno::XDEV };
    let point = PathArgument { dirfd: sys::AT_FDCWD, text: point };
    let mount = |of: &PathArgument| mount_of(of.dirfd, &of.parent()).ok();
    if mount(&point).is_none_or(|point| mount(&other) != Some(point)) {
        return Errno::XDEV;
    }
    let found = native::stat_path(other.dirfd, &other.without_slashes(), false);
    within(found.map(|found| found.st_mode & sys::S_IFMT))
}

/// The kernel's number of the mount that the directory at `path` is on.
fn mount_of(dirfd: RawFd, path: &[u8]) -> Result<u64, Errno> {
    let found = native::statx_path(dirfd, path, sys::STATX_MNT_ID)?;
    if found.stx_mask & sys::STATX_MNT_ID == 0 { Err(Errno::NOSYS) } else { Ok(found.stx_mnt_id) }
}
