//! Why a mount point cannot be renamed, or something else take its place. Its name lies in a directory of the kernel's, where the kernel sees an empty
//! directory that it would be content with.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;

use crate::namei::{PathArgument, Spot};
use crate::native;
use crate::process::Process;
use crate::resolve::PathBytes;

/// What the kernel would go by: the program's words, or another path.
pub type Name<'a> = (&'a PathArgument, Option<&'a PathBytes>);

/// Why the mount point at `root` cannot have the name `to`.
pub fn renamed(process: &Process, root: &Spot, to: Name<'_>, call: &Call) -> Errno {
    why(process, root, to, |found| in_place_of(found, call))
}

/// Why what has the name `from` cannot take the place of the mount point at `root`.
pub fn replaced(process: &Process, root: &Spot, from: Name<'_>, call: &Call) -> Errno {
    why(process, root, from, |found| in_its_place(found, call))
}

/// Why there can be no such rename where both are on mounts, not on the same one, and one is a mount point.
pub fn among_mounts(process: &Process, from: &Spot, to: (&PathArgument, &Spot), call: &Call) -> Errno {
    let (to_name, to) = to;
    match (name_lies_on(process, from), name_lies_on(process, to)) {
        (Some(one), Some(other)) if one != other => Errno::XDEV,
        (None, Some(_)) | (Some(_), None) => Errno::XDEV,
        (Some(_), Some(_)) if from.is_root() => in_place_of(kind_of(to), call),
        (Some(_), Some(_)) => in_its_place(kind_of(from), call),
        // Two points in the kernel's directories: it finds one there.
        (None, None) => match PathBytes::try_from(to.mount.point().to_bytes()) {
            Ok(point) => renamed(process, from, (to_name, Some(&point)), call),
            Err(_) => Errno::XDEV,
        },
    }
}

/// Number of the mount that the name lies on. That of a mount point is where it is mounted.
fn name_lies_on(process: &Process, spot: &Spot) -> Option<usize> {
    if !spot.is_root() {
        return Some(spot.mount.number);
    }
    let point = spot.mount.point().to_bytes();
    let slash = point.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    process.table.find(&point[..slash.max(1)]).map(|(number, _)| number)
}

fn kind_of(spot: &Spot) -> Result<u32, Errno> {
    if spot.is_root() {
        return Ok(sys::S_IFDIR);
    }
    spot.call(Instance::getattr).map(|attributes| attributes.st_mode & sys::S_IFMT)
}

/// Why a mount point cannot take the place of what was found.
fn in_place_of(found: Result<u32, Errno>, call: &Call) -> Errno {
    let flags = flags_of(call);
    match found {
        Ok(_) if flags & sys::RENAME_NOREPLACE != 0 => Errno::EXIST,
        Ok(kind) if flags & sys::RENAME_EXCHANGE == 0 && kind != sys::S_IFDIR => Errno::NOTDIR,
        Err(error) if error != Errno::NOENT || flags & sys::RENAME_EXCHANGE != 0 => error,
        _ => Errno::BUSY,
    }
}

/// Why what was found cannot take the place of a mount point.
fn in_its_place(found: Result<u32, Errno>, call: &Call) -> Errno {
    let flags = flags_of(call);
    match found {
        Err(error) => error,
        Ok(_) if flags & sys::RENAME_NOREPLACE != 0 => Errno::EXIST,
        Ok(kind) if flags & sys::RENAME_EXCHANGE == 0 && kind != sys::S_IFDIR => Errno::ISDIR,
        Ok(_) => Errno::BUSY,
    }
}

fn flags_of(call: &Call) -> u32 {
    if call.nr == sys::__NR_renameat2 { call.args[4] as u32 } else { 0 }
}

/// `EXDEV` if the two names are not on one mount of the kernel's, else what `within` says of what is found at the other one.
fn why(
    process: &Process,
    root: &Spot,
    (argument, path): Name<'_>,
    within: impl FnOnce(Result<u32, Errno>) -> Errno,
) -> Errno {
    if name_lies_on(process, root).is_some() {
        return Errno::XDEV;
    }
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
