//! stat and its relatives, access, statfs.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance};
use rustix::io::Errno;

use super::extended::{What, extended, makedev};
use super::paths::{self, At};
use super::{DONE, Reply, Served, read_only};
use crate::file::{self, FileRef};
use crate::namei::{self, PathArgument, Spot};
use crate::process::{Cwd, Process};
use crate::{private_fd, user};

type Stat = plugin_abi::stat;

pub fn stat(process: &'static Process, call: &Call) -> Served {
    stat_path(process, call, At::cwd(0, true), 1)
}

pub fn lstat(process: &'static Process, call: &Call) -> Served {
    stat_path(process, call, At::cwd(0, false), 1)
}

pub fn fstat(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, ..] = call.args;
    let Some(file) = file::served(process, fd as RawFd) else { return Ok(Reply::Pass) };
    user::write(buffer, &file.with_handle(Instance::fgetattr)?)?;
    DONE
}

pub fn newfstatat(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, buffer, flags, ..] = call.args;
    let flags = flags as u32;
    if flags & !(sys::AT_SYMLINK_NOFOLLOW | sys::AT_NO_AUTOMOUNT | sys::AT_EMPTY_PATH) != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && is_empty(path)? {
        return on_fd(process, dirfd as RawFd, |attributes, _| user::write(buffer, attributes));
    }
    stat_path(process, call, At::dir(flags & sys::AT_SYMLINK_NOFOLLOW == 0), 2)
}

pub fn statx(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, flags, mask, buffer, _] = call.args;
    let flags = flags as u32;
    let known =
        sys::AT_SYMLINK_NOFOLLOW | sys::AT_NO_AUTOMOUNT | sys::AT_EMPTY_PATH | sys::AT_STATX_SYNC_TYPE;
    let contradiction = flags & sys::AT_STATX_SYNC_TYPE == sys::AT_STATX_SYNC_TYPE;
    if flags & !known != 0 || contradiction || mask as u32 & sys::STATX__RESERVED != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && is_empty(path)? {
        return on_fd(process, dirfd as RawFd, |attributes, what| {
            user::write(buffer, &extended(attributes, mask as u32, what))
        });
    }
    let at = At::dir(flags & sys::AT_SYMLINK_NOFOLLOW == 0);
    let argument = at.argument(call)?;
    if let Some(file) = itself(process, &argument, at) {
        let attributes = file.with_handle(Instance::fgetattr)?;
        user::write(buffer, &extended(&attributes, mask as u32, What::File(&file)))?;
        return DONE;
    }
    let mut on_mount = false;
    let served = paths::lookup_argument(process, call, at, &argument, |spot| {
        let attributes = attributes_at(spot, at.follow)?;
        user::write(buffer, &extended(&attributes, mask as u32, What::Spot(spot)))?;
        on_mount = true;
        Ok(0)
    })?;
    if on_mount {
        return Ok(served);
    }
    if let (Reply::Value(0), Some(mode)) = (&served, link_mode(process, &argument, at)) {
        user::write(buffer, &sys::statx { stx_mode: mode as u16, ..user::read::<sys::statx>(buffer)? })?;
    }
    unhide(
        process,
        &argument,
        served,
        |attributes, root| user::write(buffer, &extended(attributes, mask as u32, root)),
        || {
            let found = user::read::<sys::statx>(buffer).ok()?;
            Some((makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
        },
    )
}

fn stat_path(process: &'static Process, call: &Call, at: At, buffer: usize) -> Served {
    let buffer = call.args[buffer];
    let argument = at.argument(call)?;
    if let Some(file) = itself(process, &argument, at) {
        user::write(buffer, &file.with_handle(Instance::fgetattr)?)?;
        return DONE;
    }
    let mut on_mount = false;
    let served = paths::lookup_argument(process, call, at, &argument, |spot| {
        user::write(buffer, &attributes_at(spot, at.follow)?)?;
        on_mount = true;
        Ok(0)
    })?;
    if on_mount {
        return Ok(served);
    }
    if let (Reply::Value(0), Some(mode)) = (&served, link_mode(process, &argument, at)) {
        let mut attributes = user::read::<Stat>(buffer)?;
        attributes.st_mode = mode;
        user::write(buffer, &attributes)?;
    }
    unhide(
        process,
        &argument,
        served,
        |attributes, _| user::write(buffer, attributes),
        || {
            let found = user::read::<Stat>(buffer).ok()?;
            Some((found.st_dev, found.st_ino))
        },
    )
}

/// The open file that the path means without going by any name.
fn itself(process: &'static Process, argument: &PathArgument, at: At) -> Option<FileRef> {
    at.follow
        .then(|| crate::proc_links::proc_fd(process, &argument.text))
        .flatten()
        .or_else(|| namei::directory_itself(process, argument))
}

/// The mode that a link in `/proc/self/fd` to a served file must have: it tells how the file was opened, and not how what stands there was.
fn link_mode(process: &'static Process, argument: &PathArgument, at: At) -> Option<u32> {
    if at.follow {
        return None;
    }
    let file = crate::proc_links::proc_fd(process, &argument.text)?;
    let reads = if file.readable() { sys::S_IRUSR | sys::S_IXUSR } else { 0 };
    let writes = if file.writable() { sys::S_IWUSR | sys::S_IXUSR } else { 0 };
    Some(sys::S_IFLNK | reads | writes)
}

/// If the kernel has answered with the directory that a mount hides (the path led there through a link), answers with
/// the mount's root.
fn unhide(
    process: &'static Process,
    argument: &PathArgument,
    served: Reply,
    write: impl FnOnce(&Stat, What<'_>) -> Result<(), Errno>,
    found: impl FnOnce() -> Option<(u64, u64)>,
) -> Served {
    let Reply::Value(0) = served else { return Ok(served) };
    let hidden = found().and_then(|(device, inode)| process.table.hidden_by(device, inode));
    if let Some(mount) = hidden
        && argument.may_meet_link(true)
    {
        let instance = process.mounts[mount].instance()?;
        let root = instance.getattr(plugin_abi::MountPath::ROOT);
        write(&root.map_err(file::plugin_errno)?, What::Root(instance))?;
    }
    DONE
}

/// The attributes of what is at `spot`; `ELOOP` for a symbolic link that is to be followed.
pub fn attributes_at(spot: &Spot, follow: bool) -> Result<Stat, Errno> {
    let attributes = spot.call(Instance::getattr)?;
    match attributes.st_mode & sys::S_IFMT {
        sys::S_IFLNK if follow || spot.directory => Err(Errno::LOOP),
        sys::S_IFDIR => Ok(attributes),
        _ if spot.directory => Err(Errno::NOTDIR),
        _ => Ok(attributes),
    }
}

/// `ELOOP` if there is a symbolic link at `spot`, which the caller must follow.
pub fn expect_no_link(spot: &Spot) -> Result<(), Errno> {
    attributes_at(spot, true).map(drop)
}

/// The attributes of what an FD (or the working directory) stands for, given to `write`.
fn on_fd(
    process: &'static Process,
    fd: RawFd,
    write: impl FnOnce(&Stat, What<'_>) -> Result<(), Errno>,
) -> Served {
    if fd == sys::AT_FDCWD {
        if let Some(file) = namei::working_file(process) {
            write(&file.with_handle(Instance::fgetattr)?, What::File(&file))?;
            return DONE;
        }
        let served = process.with_cwd(|cwd| match cwd {
            Cwd::Served { mount, path, .. } => Some((*mount, path.clone())),
            _ => None,
        });
        let Some((mount, path)) = served else { return Ok(Reply::Pass) };
        let spot = Spot::new(&process.mounts[mount], path, false)?;
        write(&spot.call(Instance::getattr)?, What::Spot(&spot))?;
        return DONE;
    }
    if private_fd::is_hidden(fd) {
        return Err(Errno::BADF);
    }
    let Some(file) = file::served(process, fd) else { return Ok(Reply::Pass) };
    write(&file.with_handle(Instance::fgetattr)?, What::File(&file))?;
    DONE
}

/// Whether the path at `address` is "", and not no path at all, which few calls allow.
pub fn is_empty_text(address: u64) -> Result<bool, Errno> {
    Ok(address != 0 && user::read::<u8>(address)? == 0)
}

/// Whether the path at `address` is "" (or, as newer kernels allow for some calls, no path at all).
pub fn is_empty(address: u64) -> Result<bool, Errno> {
    Ok(address == 0 || user::read::<u8>(address)? == 0)
}

pub fn access(process: &'static Process, call: &Call) -> Served {
    check_access(process, call, At::cwd(0, true), call.args[1] as u32, 0)
}

pub fn faccessat(process: &'static Process, call: &Call) -> Served {
    check_access(process, call, At::dir(true), call.args[2] as u32, 0)
}

pub fn faccessat2(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, mode, flags, ..] = call.args;
    let (mode, flags) = (mode as u32, flags as u32);
    if flags & !(sys::AT_EACCESS | sys::AT_SYMLINK_NOFOLLOW | sys::AT_EMPTY_PATH) != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && is_empty_text(path)? {
        if dirfd as RawFd == sys::AT_FDCWD {
            let here = PathArgument::here()?;
            return check_argument(process, call, At::dir(true), &here, mode, flags & sys::AT_EACCESS);
        }
        let Some(file) = file::served(process, dirfd as RawFd) else { return Ok(Reply::Pass) };
        let spot = Spot::new(&process.mounts[file.mount], file.path()?, false)?;
        read_only::check_access(process, &spot, mode, false)?;
        access_itself(&spot, mode, flags & sys::AT_EACCESS)?;
        return DONE;
    }
    check_access(process, call, At::dir(flags & sys::AT_SYMLINK_NOFOLLOW == 0), mode, flags & sys::AT_EACCESS)
}

fn check_access(process: &'static Process, call: &Call, at: At, mode: u32, flags: u32) -> Served {
    if mode & !7 != 0 {
        return Err(Errno::INVAL);
    }
    check_argument(process, call, at, &at.argument(call)?, mode, flags)
}

fn check_argument(
    process: &'static Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
    mode: u32,
    flags: u32,
) -> Served {
    if mode & !7 != 0 {
        return Err(Errno::INVAL);
    }
    if mode == 0 && itself(process, argument, at).is_some() {
        return DONE;
    }
    paths::lookup_argument(process, call, at, argument, |spot| {
        let looked = mode == 0 || spot.directory || !tells_links(spot)?;
        if looked {
            attributes_at(spot, at.follow)?;
        }
        read_only::check_access(process, spot, mode, at.follow)?;
        match mode {
            0 => {}
            _ if looked || !at.follow => access_itself(spot, mode, flags)?,
            _ => spot.call(|instance, path| instance.access(path, mode as i32, flags as i32))?,
        }
        Ok(0)
    })
}

/// Whether the plugin answers `ELOOP` by itself for a link that is to be followed, where it can be told so.
pub fn tells_links(spot: &Spot) -> Result<bool, Errno> {
    Ok(spot.mount.instance()?.capabilities().contains(Capabilities::TELLS_LINKS))
}

/// access(2) to what is at `spot`, a symbolic link too; `flags` may hold `AT_EACCESS`.
pub fn access_itself(spot: &Spot, mode: u32, flags: u32) -> Result<(), Errno> {
    // Others are told nothing of links.
    let itself = if tells_links(spot)? { sys::AT_SYMLINK_NOFOLLOW } else { 0 };
    spot.call(|instance, path| instance.access(path, mode as i32, (flags | itself) as i32))
}

pub fn statfs(process: &'static Process, call: &Call) -> Served {
    let buffer = call.args[1];
    paths::lookup(process, call, At::cwd(0, true), |spot| {
        expect_no_link(spot)?;
        user::write(buffer, &spot.call(Instance::statfs)?)?;
        read_only::mark(process, spot.mount, buffer)?;
        Ok(0)
    })
}

pub fn fstatfs(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, ..] = call.args;
    let Some(file) = file::served(process, fd as RawFd) else { return Ok(Reply::Pass) };
    user::write(buffer, &file.with_handle(Instance::fstatfs)?)?;
    read_only::mark(process, &process.mounts[file.mount], buffer)?;
    DONE
}
