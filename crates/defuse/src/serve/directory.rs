//! Reading directories, and the working directory.

use std::os::fd::RawFd;
use std::sync::Arc;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::DirEntry;
use rustix::io::Errno;

use super::attributes::{access_itself, attributes_at};
use super::paths::{self, At};
use super::{DONE, Reply, Served, sandbox};
use crate::file::{self, stash_errno};
use crate::namei::{self, Performed, Spot};
use crate::process::{Cwd, Process};
use crate::resolve::{PathBytes, Walk};
use crate::working_directory::Directory;
use crate::{native, private_fd, user};

/// The longest entry: header, name of 255 bytes, NUL, rounded up.
const ENTRY_MAX: usize = 280;

pub fn getdents64(process: &'static Process, call: &Call) -> Served {
    read_entries(process, call, |entry, record| {
        let length = (19 + entry.name.len() + 1).next_multiple_of(8);
        record[..8].copy_from_slice(&entry.ino.to_ne_bytes());
        record[8..16].copy_from_slice(&entry.next_cookie.to_ne_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_ne_bytes());
        record[18] = entry.d_type;
        record[19..19 + entry.name.len()].copy_from_slice(entry.name);
        record[19 + entry.name.len()..length].fill(0);
        length
    })
}

pub fn getdents(process: &'static Process, call: &Call) -> Served {
    read_entries(process, call, |entry, record| {
        let length = (18 + entry.name.len() + 2).next_multiple_of(8);
        record[..8].copy_from_slice(&entry.ino.to_ne_bytes());
        record[8..16].copy_from_slice(&entry.next_cookie.to_ne_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_ne_bytes());
        record[18..18 + entry.name.len()].copy_from_slice(entry.name);
        record[18 + entry.name.len()..length].fill(0);
        record[length - 1] = entry.d_type;
        length
    })
}

/// Fills the program's buffer with entries from the description's offset on, laid out by `lay_out`.
fn read_entries(
    process: &'static Process,
    call: &Call,
    lay_out: impl Fn(&DirEntry<'_>, &mut [u8; ENTRY_MAX]) -> usize,
) -> Served {
    let [fd, buffer, size, ..] = call.args;
    let Some(file) = file::served(process, fd as RawFd) else { return read_foreign(process, call) };
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if !file.is_directory()? {
        return Err(Errno::NOTDIR);
    }
    let size = size as u32 as usize;
    let guard = file.shared()?.lock(file.holder()).map_err(stash_errno)?;
    let cookie = guard.pin_offset() as u64;
    let (mut filled, mut next, mut failed) = (0, cookie, None);
    let mut record = [0; ENTRY_MAX];
    let listed = file.with_handle(|instance, handle| {
        (filled, next, failed) = (0, cookie, None);
        instance.readdir(handle, cookie, &mut |entry| {
            if entry.name.len() > 255 {
                failed = Some(Errno::IO);
                return true;
            }
            // The offset could not say where to go on.
            if i64::try_from(entry.next_cookie).is_err() {
                failed = Some(Errno::OVERFLOW);
                return true;
            }
            let length = lay_out(&entry, &mut record);
            if filled + length > size {
                failed = (filled == 0).then_some(Errno::INVAL);
                return true;
            }
            if let Err(error) = user::write_bytes(buffer + filled as u64, &record[..length]) {
                failed = (filled == 0).then_some(error);
                return true;
            }
            filled += length;
            next = entry.next_cookie;
            // Asking for an entry that may not fit makes many a plugin fetch another buffer of them, in vain.
            size - filled < ENTRY_MAX.min(size / 16)
        })
    });
    if filled > 0 {
        // An error that came after these is told the next time, as the kernel does: the program has not seen what is behind them.
        guard.set_offset(next as i64).map_err(stash_errno)?;
        return Ok(Reply::Value(filled as i64));
    }
    listed?;
    failed.map_or(DONE, Err)
}

/// A directory of the kernel's; of FDs, it does not show the private ones.
fn read_foreign(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, size, ..] = call.args;
    let Some((_, device, _)) = file::identity(fd as RawFd) else { return Ok(Reply::Pass) };
    if call.nr != sys::__NR_getdents64 || !file::is_fd_directory(process, fd as RawFd, device) {
        return Ok(Reply::Pass);
    }
    let mut entries = vec![0u8; (size as u32 as usize).min(64 * 1024)];
    loop {
        let args = [fd, entries.as_mut_ptr() as u64, entries.len() as u64, 0, 0, 0];
        let count = native::checked(sys::__NR_getdents64, args)? as usize;
        let (mut from, mut kept) = (0, 0);
        while from + 19 <= count {
            let length = usize::from(u16::from_ne_bytes([entries[from + 16], entries[from + 17]]));
            let name = &entries[from + 19..from + length];
            let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
            let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<RawFd>().ok());
            if !number.is_some_and(private_fd::is_hidden) {
                entries.copy_within(from..from + length, kept);
                kept += length;
            }
            from += length.max(1);
        }
        if kept > 0 || count == 0 {
            user::write_bytes(buffer, &entries[..kept])?;
            return Ok(Reply::Value(kept as i64));
        }
    }
}

pub fn chdir(process: &'static Process, call: &Call) -> Served {
    let at = At::cwd(0, true);
    let argument = at.argument(call)?;
    if let Some(file) = crate::proc_links::proc_fd(process, &argument.text) {
        return enter_file(process, &file);
    }
    if let Some(file) = namei::directory_itself(process, &argument) {
        return enter_file(process, &file);
    }
    match argument.perform(process, true, |spot| enter(process, spot))? {
        Performed::Served(()) => DONE,
        Performed::Native(Some(path)) => {
            process.moving(|| paths::with_path(call, at, &path)).map(Reply::Value)
        }
        // A link may lead to a mount, and the kernel would be content with the directory below it.
        Performed::Native(None) => match paths::settle(process, &argument, Walk::plain(true))? {
            namei::Located::Served(spot) => enter(process, &spot).map(|()| Reply::Value(0)),
            namei::Located::Native(path) => {
                let move_there = || match path {
                    Some(path) => paths::with_path(call, at, &path),
                    None => Ok(native::call(call)),
                };
                process.moving(move_there).map(Reply::Value)
            }
        },
    }
}

pub fn fchdir(process: &'static Process, call: &Call) -> Served {
    let Some(file) = file::served(process, call.args[0] as RawFd) else {
        return process.moving(|| Ok(native::call(call))).map(Reply::Value);
    };
    enter_file(process, &file)
}

fn enter_file(process: &'static Process, file: &file::OpenFile) -> Served {
    if !file.is_directory()? {
        return Err(Errno::NOTDIR);
    }
    let path = file.path()?;
    if !file.is_removed() {
        may_enter(&Spot::new(&process.mounts[file.mount], path.clone(), true)?)?;
    }
    let held = Directory::reopen(process, file).map(Arc::new);
    process.enter(Cwd::Served { mount: file.mount, path, held })?;
    DONE
}

/// Makes a directory on a mount the working directory.
fn enter(process: &'static Process, spot: &Spot) -> Result<(), Errno> {
    may_enter(spot)?;
    let path = PathBytes::try_from(spot.path().as_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
    let held = Directory::open(process, spot).map(Arc::new);
    process.enter(Cwd::Served { mount: spot.mount.number, path, held })
}

fn may_enter(spot: &Spot) -> Result<(), Errno> {
    if attributes_at(spot, true)?.st_mode & sys::S_IFMT != sys::S_IFDIR {
        return Err(Errno::NOTDIR);
    }
    access_itself(spot, 1, sys::AT_EACCESS)
}

pub fn getcwd(process: &'static Process, call: &Call) -> Served {
    let [buffer, size, ..] = call.args;
    let served = process.with_cwd(|cwd| match cwd {
        Cwd::Served { mount, path, held } => Some((*mount, path.clone(), held.clone())),
        _ => None,
    });
    let Some((mount, mut below, held)) = served else { return paths::by_kernel(process, call) };
    if let Some(held) = held {
        if held.is_removed() {
            return Err(Errno::NOENT);
        }
        below = held.path()?;
    }
    // As the kernel does it: a working directory that was removed has no path.
    Spot::new(&process.mounts[mount], below.clone(), false)?.call(plugin_abi::Instance::getattr)?;
    let mut path = namei::absolute(process, mount, &below)?;
    path.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    if size < path.len() as u64 {
        return Err(Errno::RANGE);
    }
    user::write_bytes(buffer, &path)?;
    Ok(Reply::Value(path.len() as i64))
}

/// A new root on a mount would leave the program without its libraries, plugin and session. In another the plugins may not be found.
pub fn chroot(process: &'static Process, call: &Call) -> Served {
    sandbox::load_plugins(process);
    let at = At::cwd(0, true);
    let reply = paths::lookup(process, call, at, |spot| {
        may_enter(spot)?;
        Err(Errno::PERM)
    })?;
    process.root_changed();
    Ok(reply)
}
