//! Calls that make, remove, change or read names.

use std::os::fd::AsRawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance, Purpose};
use rustix::io::Errno;

use super::attributes::attributes_at;
use super::paths::{self, At};
use super::{Reply, Served};
use crate::namei::{self, Last, Located, PathArgument, Spot};
use crate::paging;
use crate::process::Process;
use crate::resolve::{PATH_MAX, PathBytes};
use crate::{native, user};

pub fn mkdir(process: &'static Process, call: &Call) -> Served {
    make_directory(process, call, At::cwd(0, false), call.args[1] as u32)
}

pub fn mkdirat(process: &'static Process, call: &Call) -> Served {
    make_directory(process, call, At::dir(false), call.args[2] as u32)
}

fn make_directory(process: &'static Process, call: &Call, at: At, mode: u32) -> Served {
    if at.argument(call)?.last() != Last::Name {
        return unnamed(process, call, at, Errno::EXIST);
    }
    paths::create(process, call, at, |spot| {
        if spot.is_root() {
            return Err(Errno::EXIST);
        }
        let mode = masked(process, spot, mode & 0o7777)?;
        spot.call(|instance, path| instance.mkdir(path, mode)).map(|()| 0)
    })
}

fn masked(process: &Process, spot: &Spot, mode: u32) -> Result<u32, Errno> {
    let applies_umask = spot.mount.instance()?.capabilities().contains(Capabilities::UMASK);
    Ok(if applies_umask { mode } else { process.masked(mode) })
}

pub fn mknod(process: &'static Process, call: &Call) -> Served {
    make_node(process, call, At::cwd(0, false), call.args[1] as u32, call.args[2])
}

pub fn mknodat(process: &'static Process, call: &Call) -> Served {
    make_node(process, call, At::dir(false), call.args[2] as u32, call.args[3])
}

fn make_node(process: &'static Process, call: &Call, at: At, mode: u32, device: u64) -> Served {
    if at.argument(call)?.last() != Last::Name {
        return unnamed(process, call, at, Errno::EXIST);
    }
    paths::create(process, call, at, |spot| {
        if spot.is_root() {
            return Err(Errno::EXIST);
        }
        if spot.directory {
            return Err(exists_or(spot, Errno::NOENT));
        }
        let kind = match mode & sys::S_IFMT {
            0 => sys::S_IFREG,
            sys::S_IFDIR => return Err(Errno::PERM),
            kind => kind,
        };
        let mode = masked(process, spot, mode & 0o7777)? | kind;
        spot.call(|instance, path| instance.mknod(path, mode, device)).map(|()| 0)
    })
}

/// `EEXIST` if there is something at `spot`, else `absent`; `ELOOP` if a link on the way must be followed to know.
fn exists_or(spot: &Spot, absent: Errno) -> Errno {
    match spot.call(Instance::getattr) {
        Ok(_) => Errno::EXIST,
        Err(Errno::LOOP) => Errno::LOOP,
        Err(_) => absent,
    }
}

pub fn rmdir(process: &'static Process, call: &Call) -> Served {
    take_directory_away(process, call, At::cwd(0, false))
}

pub fn unlink(process: &'static Process, call: &Call) -> Served {
    take_name_away(process, call, At::cwd(0, false))
}

fn take_directory_away(process: &'static Process, call: &Call, at: At) -> Served {
    if is_magic_link(process, &at.argument(call)?) {
        return Ok(Reply::Pass);
    }
    let error = match at.argument(call)?.last() {
        Last::Name => return paths::lookup(process, call, at, |spot| remove_directory(process, spot)),
        Last::Dot => Errno::INVAL,
        Last::DotDot => Errno::NOTEMPTY,
        Last::Root => Errno::BUSY,
    };
    unnamed(process, call, at, error)
}

fn take_name_away(process: &'static Process, call: &Call, at: At) -> Served {
    if is_magic_link(process, &at.argument(call)?) {
        return Ok(Reply::Pass);
    }
    match at.argument(call)?.last() {
        Last::Name => paths::lookup(process, call, at, |spot| remove_name(process, spot)),
        _ => unnamed(process, call, at, Errno::ISDIR),
    }
}

/// Whether the path is that of a link in /proc itself, which cannot be removed and is not followed.
fn is_magic_link(process: &'static Process, argument: &PathArgument) -> bool {
    let text = argument.text.as_slice();
    let trimmed = &text[..text.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1)];
    namei::magic_link(process, trimmed).is_ok_and(|link| link.is_some())
}

/// A call that needs a name, and has a path that ends in `.` or `..`: `error`, if the path leads to a mount at all.
fn unnamed(process: &'static Process, call: &Call, at: At, error: Errno) -> Served {
    paths::lookup(process, call, At { follow: true, ..at }, |spot| {
        attributes_at(spot, true)?;
        Err(error)
    })
}

pub fn unlinkat(process: &'static Process, call: &Call) -> Served {
    match call.args[2] as u32 {
        0 => take_name_away(process, call, At::dir(false)),
        sys::AT_REMOVEDIR => take_directory_away(process, call, At::dir(false)),
        _ => Ok(Reply::Pass),
    }
}

fn remove_directory(process: &Process, spot: &Spot) -> Result<i64, Errno> {
    if spot.is_root() || is_mount_point(process, spot) {
        return Err(Errno::BUSY);
    }
    spot.call(Instance::rmdir).map(|()| 0)
}

/// Whether another mount lies exactly here.
fn is_mount_point(process: &Process, spot: &Spot) -> bool {
    let Ok(path) = namei::absolute(process, spot.mount.number, spot.path().as_bytes()) else { return false };
    process.table.find(&path).is_some_and(|(number, below)| number != spot.mount.number && below.is_empty())
}

fn remove_name(process: &'static Process, spot: &Spot) -> Result<i64, Errno> {
    if spot.is_root() {
        return Err(Errno::ISDIR);
    }
    if spot.directory {
        return Err(match spot.call(Instance::getattr)?.st_mode & sys::S_IFMT {
            sys::S_IFDIR => Errno::ISDIR,
            _ => Errno::NOTDIR,
        });
    }
    let mapped = paging::before_unlink(process, spot);
    spot.call(Instance::unlink)?;
    if let Some(key) = mapped {
        paging::after_unlink(process, key);
    }
    Ok(0)
}

pub fn symlink(process: &'static Process, call: &Call) -> Served {
    make_link(process, call, At::cwd(1, false))
}

pub fn symlinkat(process: &'static Process, call: &Call) -> Served {
    make_link(process, call, At { dirfd: Some(1), path: 2, follow: false })
}

fn make_link(process: &'static Process, call: &Call, at: At) -> Served {
    let mut target = PathArgument::read(sys::AT_FDCWD, call.args[0])?.text;
    if target.is_empty() {
        return Err(Errno::NOENT);
    }
    target.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    if at.argument(call)?.last() != Last::Name {
        return unnamed(process, call, at, Errno::EXIST);
    }
    paths::create(process, call, at, |spot| {
        if spot.is_root() {
            return Err(Errno::EXIST);
        }
        if spot.directory {
            return Err(exists_or(spot, Errno::NOENT));
        }
        let target = std::ffi::CStr::from_bytes_until_nul(&target).map_err(|_| Errno::INVAL)?;
        spot.call(|instance, path| instance.symlink(target, path)).map(|()| 0)
    })
}

pub fn readlink(process: &'static Process, call: &Call) -> Served {
    read_link(process, call, At::cwd(0, false), call.args[1], call.args[2])
}

pub fn readlinkat(process: &'static Process, call: &Call) -> Served {
    if super::attributes::is_empty(call.args[1])? {
        return Ok(Reply::Pass);
    }
    read_link(process, call, At::dir(false), call.args[2], call.args[3])
}

fn read_link(process: &'static Process, call: &Call, at: At, buffer: u64, size: u64) -> Served {
    if size as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    let size = size as usize;
    let argument = at.argument(call)?;
    if let Some(text) = namei::magic_text(process, &argument.text)? {
        let shown = &text[..text.len().min(size)];
        user::write_bytes(buffer, shown)?;
        return Ok(Reply::Value(shown.len() as i64));
    }
    paths::lookup_argument(process, call, at, &argument, |spot| {
        if spot.directory {
            attributes_at(spot, true)?;
            return Err(Errno::INVAL);
        }
        let mut target = [0; PATH_MAX];
        let length = spot.call(|instance, path| instance.readlink(path, &mut target))?.min(size);
        user::write_bytes(buffer, &target[..length])?;
        Ok(length as i64)
    })
}

pub fn link(process: &'static Process, call: &Call) -> Served {
    make_hard_link(process, call, At::cwd(0, false), At::cwd(1, false))
}

pub fn linkat(process: &'static Process, call: &Call) -> Served {
    let flags = call.args[4] as u32;
    if flags & !(sys::AT_SYMLINK_FOLLOW | sys::AT_EMPTY_PATH) != 0 {
        return Ok(Reply::Pass);
    }
    let old = At { dirfd: Some(0), path: 1, follow: flags & sys::AT_SYMLINK_FOLLOW != 0 };
    let new = At { dirfd: Some(2), path: 3, follow: false };
    let by_fd = if flags & sys::AT_EMPTY_PATH != 0 && super::attributes::is_empty(call.args[1])? {
        crate::file::served(process, call.args[0] as i32)
    } else if old.follow {
        namei::proc_fd(process, &old.argument(call)?.text)
    } else {
        None
    };
    let Some(file) = by_fd else { return make_hard_link(process, call, old, new) };
    let new = new.argument(call)?;
    match paths::locate_for_sure(process, &new, false)? {
        Located::Served(spot) if spot.mount.number == file.mount => {
            file.with_handle(|instance, handle| instance.flink(handle, spot.path()))?;
            super::DONE
        }
        _ => Err(Errno::XDEV),
    }
}

fn make_hard_link(process: &'static Process, call: &Call, old: At, new: At) -> Served {
    if new.argument(call)?.last() != Last::Name {
        return unnamed(process, call, new, Errno::EXIST);
    }
    two_paths(process, call, old, new, |old, new| {
        if old.directory {
            attributes_at(old, true)?;
        }
        if new.is_root() {
            return Err(Errno::EXIST);
        }
        if new.directory {
            return Err(exists_or(new, Errno::NOENT));
        }
        old.call(|instance, path| instance.link(path, new.path()))
    })
}

pub fn rename(process: &'static Process, call: &Call) -> Served {
    change_name(process, call, At::cwd(0, false), At::cwd(1, false), 0)
}

pub fn renameat(process: &'static Process, call: &Call) -> Served {
    change_name(process, call, At::dir(false), At { dirfd: Some(2), path: 3, follow: false }, 0)
}

pub fn renameat2(process: &'static Process, call: &Call) -> Served {
    let new = At { dirfd: Some(2), path: 3, follow: false };
    change_name(process, call, At::dir(false), new, call.args[4] as u32)
}

fn change_name(process: &'static Process, call: &Call, old: At, new: At, flags: u32) -> Served {
    for at in [old, new] {
        if at.argument(call)?.last() != Last::Name {
            let exists = at.path == new.path && flags & sys::RENAME_NOREPLACE != 0;
            let error = if exists { Errno::EXIST } else { Errno::BUSY };
            let natives = [old, new].map(|at| at.argument(call).and_then(|path| path.locate(process)));
            return match natives {
                [Ok(Located::Native(None)), Ok(Located::Native(None))] => Ok(Reply::Pass),
                _ => Err(error),
            };
        }
    }
    two_paths(process, call, old, new, |old, new| {
        if old.is_root() || new.is_root() || is_mount_point(process, old) || is_mount_point(process, new) {
            return Err(Errno::BUSY);
        }
        if old.directory || new.directory {
            // A trailing slash is for directories only.
            if old.call(Instance::getattr)?.st_mode & sys::S_IFMT != sys::S_IFDIR {
                return Err(Errno::NOTDIR);
            }
        }
        let exchanged = flags & sys::RENAME_EXCHANGE != 0;
        let replaced = if exchanged { None } else { paging::before_unlink(process, new) };
        let moved = if replaced.is_some() { paging::before_unlink(process, old) } else { None };
        old.call(|instance, path| instance.rename(path, new.path(), flags))?;
        if let Some(key) = replaced.filter(|_| moved != replaced) {
            paging::after_unlink(process, key);
        }
        process.renamed(old.mount.number, old.path().as_bytes(), new.path().as_bytes(), flags);
        Ok(())
    })
}

/// Serves a call with two paths; from one mount to another, or between a mount and the rest, is `EXDEV`.
fn two_paths(
    process: &'static Process,
    call: &Call,
    old: At,
    new: At,
    mut operation: impl FnMut(&Spot, &Spot) -> Result<(), Errno>,
) -> Served {
    let (old_argument, new_argument) = (old.argument(call)?, new.argument(call)?);
    let first = paths::locate_for_sure(process, &old_argument, old.follow)?;
    let second = paths::locate_for_sure(process, &new_argument, false)?;
    let (from, to) = match (first, second) {
        (Located::Native(from), Located::Native(to)) => return native_pair(call, old, new, from, to),
        (Located::Served(from), Located::Served(to)) if from.mount.number == to.mount.number => (from, to),
        (Located::Served(from), Located::Native(to)) => {
            attributes_at(&from, old.follow)?;
            return Err(why_not_to(call, &new_argument, new, to));
        }
        (Located::Served(from), Located::Served(_)) => {
            attributes_at(&from, false)?;
            return Err(Errno::XDEV);
        }
        (Located::Native(from), Located::Served(_)) => {
            return Err(why_not_from(&old_argument, old, from));
        }
    };
    match if old.follow {
        attributes_at(&from, true).and_then(|_| operation(&from, &to))
    } else {
        operation(&from, &to)
    } {
        Err(Errno::LOOP) => {}
        done => return done.map(|()| Reply::Value(0)),
    }
    let from = old_argument.walk(process, old.follow)?;
    let to = new_argument.walk(process, false)?;
    match (from, to) {
        (Located::Served(from), Located::Served(to)) if from.mount.number == to.mount.number => {
            operation(&from, &to).map(|()| Reply::Value(0))
        }
        (Located::Native(from), Located::Native(to)) => native_pair(call, old, new, from, to),
        (Located::Native(from), Located::Served(_)) => Err(why_not_from(&old_argument, old, from)),
        (Located::Served(_), Located::Native(to)) => Err(why_not_to(call, &new_argument, new, to)),
        (Located::Served(_), Located::Served(_)) => Err(Errno::XDEV),
    }
}

/// Why something of the kernel's cannot get a name on a mount: first of all because it must be there.
fn why_not_from(argument: &PathArgument, at: At, path: Option<PathBytes>) -> Errno {
    let nofollow = if at.follow { 0 } else { sys::O_NOFOLLOW };
    let how =
        namei::OpenHow { flags: u64::from(sys::O_PATH | sys::O_CLOEXEC | nofollow), mode: 0, resolve: 0 };
    let found = match path {
        Some(path) => namei::open_how(sys::AT_FDCWD, &path, &how),
        None => namei::open_how(argument.dirfd, &argument.text, &how),
    };
    match found {
        Ok(fd) => {
            native::close(fd);
            Errno::XDEV
        }
        Err(error) => error,
    }
}

/// Why something on a mount cannot get a name outside. A link that is there already is `EEXIST` before all else.
fn why_not_to(call: &Call, argument: &PathArgument, at: At, path: Option<PathBytes>) -> Errno {
    match (why_not_from(argument, at, path), call.nr) {
        (Errno::XDEV, sys::__NR_link | sys::__NR_linkat) => Errno::EXIST,
        _ => Errno::XDEV,
    }
}

fn native_pair(call: &Call, old: At, new: At, from: Option<PathBytes>, to: Option<PathBytes>) -> Served {
    if from.is_none() && to.is_none() {
        return Ok(Reply::Pass);
    }
    let mut args = call.args;
    let mut names = [from, to];
    for (name, at) in names.iter_mut().zip([old, new]) {
        if let Some(name) = name {
            name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
            args[at.path] = name.as_ptr() as u64;
            if let Some(position) = at.dirfd {
                args[position] = sys::AT_FDCWD as u64;
            }
        }
    }
    Ok(Reply::Value(native::raw_call(call.nr, args)))
}

/// File handles of served files would mean nothing to open_by_handle_at(2).
pub fn name_to_handle_at(process: &'static Process, call: &Call) -> Served {
    let follow = call.args[4] as u32 & sys::AT_SYMLINK_FOLLOW != 0;
    if super::attributes::is_empty(call.args[1])? {
        return match crate::file::served(process, call.args[0] as i32) {
            Some(_) => Err(Errno::OPNOTSUPP),
            None => Ok(Reply::Pass),
        };
    }
    paths::lookup(process, call, At::dir(follow), |_| Err(Errno::OPNOTSUPP))
}

/// A plugin that lends a descriptor gets the kernel's events on that; else nothing would ever be reported, and no watch is
/// better than one that is silent.
pub fn inotify_add_watch(process: &'static Process, call: &Call) -> Served {
    let at = At { dirfd: None, path: 1, follow: call.args[2] as u32 & sys::IN_DONT_FOLLOW == 0 };
    paths::lookup(process, call, at, |spot| {
        let attributes = attributes_at(spot, at.follow)?;
        if !matches!(attributes.st_mode & sys::S_IFMT, sys::S_IFREG | sys::S_IFDIR) {
            return Err(Errno::NOSPC);
        }
        let instance = spot.mount.instance()?;
        let plugin_abi::Open::Served { handle, .. } =
            spot.call(|instance, path| instance.open(path, 0, 0))?
        else {
            return Err(Errno::NOSPC);
        };
        let result = match instance.backing_fd(&handle, Purpose::Map) {
            Ok(backing) => {
                let name = format!("/proc/self/fd/{}\0", backing.as_raw_fd());
                let mut args = call.args;
                args[1] = name.as_ptr() as u64;
                Ok(native::raw_call(call.nr, args))
            }
            Err(_) => Err(Errno::NOSPC),
        };
        let _ = instance.close(handle);
        result
    })
}
