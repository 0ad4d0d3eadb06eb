//! Calls that make, remove, change or read names.

use std::os::fd::AsRawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance, Purpose};
use rustix::io::Errno;

use super::attributes::attributes_at;
use super::paths::{self, At};
use super::{Reply, Served, read_only};
use crate::namei::{self, Last, Located, PathArgument, Performed, Spot};
use crate::paging::LastName;
use crate::process::Process;
use crate::resolve::{PATH_MAX, Walk};
use crate::{native, user, working_directory};

pub fn mkdir(process: &'static Process, call: &Call) -> Served {
    make_directory(process, call, At::name(), call.args[1] as u32)
}

pub fn mkdirat(process: &'static Process, call: &Call) -> Served {
    make_directory(process, call, At::name_below(), call.args[2] as u32)
}

fn make_directory(process: &'static Process, call: &Call, at: At, mode: u32) -> Served {
    if at.argument(call)?.last() != Last::Name {
        return unnamed(process, call, at, Errno::EXIST);
    }
    paths::create(process, call, at, |spot| {
        if spot.is_root() {
            return Err(Errno::EXIST);
        }
        read_only::check_new(process, spot)?;
        let mode = masked(process, spot, mode & 0o7777)?;
        spot.call(|instance, path| instance.mkdir(path, mode)).map(|()| 0)
    })
}

pub fn masked(process: &Process, spot: &Spot, mode: u32) -> Result<u32, Errno> {
    let applies_umask = spot.mount.instance()?.capabilities().contains(Capabilities::UMASK);
    Ok(if applies_umask { mode } else { process.masked(mode) })
}

pub fn mknod(process: &'static Process, call: &Call) -> Served {
    make_node(process, call, At::name(), call.args[1] as u32, call.args[2])
}

pub fn mknodat(process: &'static Process, call: &Call) -> Served {
    make_node(process, call, At::name_below(), call.args[2] as u32, call.args[3])
}

fn make_node(process: &'static Process, call: &Call, at: At, mode: u32, device: u64) -> Served {
    match mode & sys::S_IFMT {
        sys::S_IFDIR => return Err(Errno::PERM),
        0 | sys::S_IFREG | sys::S_IFIFO | sys::S_IFSOCK | sys::S_IFCHR | sys::S_IFBLK => {}
        _ => return Err(Errno::INVAL),
    }
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
        read_only::check_new(process, spot)?;
        let kind = match mode & sys::S_IFMT {
            0 => sys::S_IFREG,
            kind => kind,
        };
        let mode = masked(process, spot, mode & 0o7777)? | kind;
        spot.call(|instance, path| instance.mknod(path, mode, device)).map(|()| 0)
    })
}

/// `EEXIST` if there is something at `spot`, `absent` if not; what else there is to say if that cannot be known.
pub fn exists_or(spot: &Spot, absent: Errno) -> Errno {
    match spot.call(Instance::getattr) {
        Ok(_) => Errno::EXIST,
        Err(Errno::NOENT) => absent,
        Err(error) => error,
    }
}

pub fn rmdir(process: &'static Process, call: &Call) -> Served {
    take_directory_away(process, call, At::name())
}

pub fn unlink(process: &'static Process, call: &Call) -> Served {
    take_name_away(process, call, At::name())
}

fn take_directory_away(process: &'static Process, call: &Call, at: At) -> Served {
    let argument = at.argument(call)?;
    if is_magic_link(process, &argument) {
        return Ok(Reply::Pass);
    }
    let error = match argument.last() {
        Last::Name => {
            return paths::lookup_argument(process, call, at, &argument, |spot| {
                remove_directory(process, spot)
            });
        }
        Last::Dot => Errno::INVAL,
        Last::DotDot => Errno::NOTEMPTY,
        Last::Root => Errno::BUSY,
    };
    unnamed(process, call, at, error)
}

fn take_name_away(process: &'static Process, call: &Call, at: At) -> Served {
    let argument = at.argument(call)?;
    if is_magic_link(process, &argument) {
        return Ok(Reply::Pass);
    }
    match argument.last() {
        Last::Name => paths::lookup_argument(process, call, at, &argument, |spot| remove_name(process, spot)),
        _ => unnamed(process, call, at, Errno::ISDIR),
    }
}

/// Whether the path is that of a link in /proc itself, which cannot be removed and is not followed.
fn is_magic_link(process: &'static Process, argument: &PathArgument) -> bool {
    let text = argument.text.as_slice();
    let trimmed = &text[..text.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1)];
    crate::proc_links::magic_link(process, trimmed).is_ok_and(|link| link.is_some())
}

/// A call that needs a name, and has a path that ends in `.` or `..`: `error`, if the path leads to a mount at all.
fn unnamed(process: &'static Process, call: &Call, at: At, error: Errno) -> Served {
    let argument = at.argument(call)?;
    if namei::directory_itself(process, &argument).is_some() {
        return Err(error);
    }
    let on_mount = |spot: &Spot| {
        attributes_at(spot, true)?;
        Err(error)
    };
    // The path of the kernel's to which a mount leads is another, which does not end so.
    let elsewhere = |path: &[u8]| {
        namei::expect_directory(sys::AT_FDCWD, path)?;
        Err(error)
    };
    match argument.perform(process, true, on_mount)? {
        Performed::Served(reply) => Ok(reply),
        Performed::Native(Some(path)) => elsewhere(&path),
        Performed::Native(None) => match paths::settle(process, &argument, Walk::plain(true))? {
            Located::Served(spot) => on_mount(&spot),
            Located::Native(Some(path)) => elsewhere(&path),
            Located::Native(None) => Ok(Reply::Pass),
        },
    }
}

pub fn unlinkat(process: &'static Process, call: &Call) -> Served {
    match call.args[2] as u32 {
        0 => take_name_away(process, call, At::name_below()),
        sys::AT_REMOVEDIR => take_directory_away(process, call, At::name_below()),
        _ => Ok(Reply::Pass),
    }
}

fn remove_directory(process: &Process, spot: &Spot) -> Result<i64, Errno> {
    if spot.is_root() || is_mount_point(process, spot) {
        return Err(Errno::BUSY);
    }
    read_only::check_name(process, spot)?;
    spot.call(Instance::rmdir)?;
    working_directory::removed(process, spot.mount.number, spot.path().as_bytes());
    Ok(0)
}

/// Whether another mount lies exactly here.
pub fn is_mount_point(process: &Process, spot: &Spot) -> bool {
    let Ok(path) = namei::absolute(process, spot.mount.number, spot.path().as_bytes()) else { return false };
    process.table.find(&path).is_some_and(|(number, below)| number != spot.mount.number && below.is_empty())
}

fn remove_name(process: &'static Process, spot: &Spot) -> Result<i64, Errno> {
    if spot.is_root() {
        return Err(Errno::ISDIR);
    }
    read_only::check_name(process, spot)?;
    if spot.directory {
        return Err(match spot.call(Instance::getattr)?.st_mode & sys::S_IFMT {
            sys::S_IFDIR => Errno::ISDIR,
            _ => Errno::NOTDIR,
        });
    }
    let last = LastName::of(process, spot);
    spot.call(Instance::unlink)?;
    if let Some(last) = last {
        last.forget();
    }
    Ok(0)
}

pub fn symlink(process: &'static Process, call: &Call) -> Served {
    make_link(process, call, At { path: 1, ..At::name() })
}

pub fn symlinkat(process: &'static Process, call: &Call) -> Served {
    make_link(process, call, At { dirfd: Some(1), path: 2, ..At::name() })
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
        read_only::check_new(process, spot)?;
        let target = std::ffi::CStr::from_bytes_until_nul(&target).map_err(|_| Errno::INVAL)?;
        spot.call(|instance, path| instance.symlink(target, path)).map(|()| 0)
    })
}

pub fn readlink(process: &'static Process, call: &Call) -> Served {
    read_link(process, call, At::cwd(0, false), call.args[1], call.args[2])
}

pub fn readlinkat(process: &'static Process, call: &Call) -> Served {
    let [fd, path, buffer, size, ..] = call.args;
    if !super::attributes::is_empty_text(path)? {
        return read_link(process, call, At::dir(false), buffer, size);
    }
    match crate::file::served(process, fd as i32) {
        // The kernel has the link itself.
        Some(file) if matches!(file.form(), crate::shadow::Form::Backing(_)) => Ok(Reply::Pass),
        Some(_) if size as i32 <= 0 => Err(Errno::INVAL),
        Some(file) if file.kind()? == sys::S_IFLNK => {
            let spot = Spot::new(&process.mounts[file.mount], file.path()?, false)?;
            Ok(Reply::Value(link_text(&spot, buffer, size as usize)?))
        }
        Some(_) => Err(Errno::NOENT),
        None => Ok(Reply::Pass),
    }
}

/// Writes where the link at `spot` leads into the program's buffer.
fn link_text(spot: &Spot, buffer: u64, size: usize) -> Result<i64, Errno> {
    let mut target = [0; PATH_MAX];
    let length = spot.call(|instance, path| instance.readlink(path, &mut target))?.min(size);
    user::write_bytes(buffer, &target[..length])?;
    Ok(length as i64)
}

fn read_link(process: &'static Process, call: &Call, at: At, buffer: u64, size: u64) -> Served {
    if size as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    let size = size as usize;
    let argument = at.argument(call)?;
    if let Some(text) = crate::proc_links::magic_text(process, &argument.text)? {
        let shown = &text[..text.len().min(size)];
        user::write_bytes(buffer, shown)?;
        return Ok(Reply::Value(shown.len() as i64));
    }
    paths::lookup_argument(process, call, at, &argument, |spot| {
        if spot.directory {
            attributes_at(spot, true)?;
            return Err(Errno::INVAL);
        }
        link_text(spot, buffer, size)
    })
}

/// With `AT_HANDLE_FID`, `AT_HANDLE_MNT_ID_UNIQUE` and `AT_HANDLE_CONNECTABLE`.
const HANDLE_FLAGS: u32 = sys::AT_SYMLINK_FOLLOW | sys::AT_EMPTY_PATH | 0x203;

/// File handles of served files would mean nothing to open_by_handle_at(2).
pub fn name_to_handle_at(process: &'static Process, call: &Call) -> Served {
    let flags = call.args[4] as u32;
    if flags & !HANDLE_FLAGS != 0 {
        return Ok(Reply::Pass); // EINVAL.
    }
    let follow = flags & sys::AT_SYMLINK_FOLLOW != 0;
    if flags & sys::AT_EMPTY_PATH != 0 && super::attributes::is_empty_text(call.args[1])? {
        return match namei::open_at(process, call.args[0] as i32) {
            Some(_) => Err(Errno::OPNOTSUPP),
            None => Ok(Reply::Pass),
        };
    }
    paths::lookup(process, call, At::dir(follow), |spot| {
        attributes_at(spot, follow)?;
        Err(Errno::OPNOTSUPP)
    })
}

/// A plugin that lends a descriptor gets the kernel's events on that; else nothing would ever be reported, and no watch is
/// better than one that is silent.
pub fn inotify_add_watch(process: &'static Process, call: &Call) -> Served {
    /// linux/inotify.h: `ALL_INOTIFY_BITS`
    const KNOWN: u32 = 0xf700_efff;
    if call.args[2] as u32 & !KNOWN != 0 {
        return Ok(Reply::Pass); // EINVAL.
    }
    let at = At::cwd(1, call.args[2] as u32 & sys::IN_DONT_FOLLOW == 0);
    paths::lookup(process, call, at, |spot| {
        attributes_at(spot, at.follow)?;
        let instance = spot.mount.instance()?;
        // By O_PATH, since opening and closing would be events themselves, and would want permissions.
        let flags = (sys::O_PATH | sys::O_NOFOLLOW | sys::O_CLOEXEC) as i32;
        let plugin_abi::Open::Served { handle, .. } =
            spot.call(|instance, path| instance.open(path, flags, 0))?
        else {
            return Err(Errno::NOSPC);
        };
        let result = match instance.backing_fd(&handle, Purpose::Map) {
            Ok(backing) => {
                let name = format!("/proc/self/fd/{}\0", backing.as_raw_fd());
                let mut args = call.args;
                args[1] = name.as_ptr() as u64;
                // That is a link itself; what it leads to is not followed.
                args[2] &= !u64::from(sys::IN_DONT_FOLLOW);
                Ok(native::raw_call(call.nr, args))
            }
            Err(_) => Err(Errno::NOSPC),
        };
        let _ = instance.close(handle);
        result
    })
}
