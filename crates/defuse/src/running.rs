//! `ETXTBSY`: a program on a mount that runs cannot be opened for writing, and one that is open for writing cannot be run.
//!
//! The latter is found in the arena, where all open files are ([`check_writers`]).
//!
//! What the kernel runs is a copy (see [`program`](crate::program)), which it lets nobody open for writing meanwhile. So that is tried. As
//! the copy cannot be started in the moment in which somebody tries, who tries holds the file's folder of copies locked, and an
//! exec that finds the copy busy waits for the lock ([`exec`]).

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use plugin_abi::MountPath;
use rustix::io::Errno;
use stash::Slot;

use crate::listing::for_each_name;
use crate::namei::{self, OpenHow, Spot};
use crate::native;
use crate::process::Process;
use crate::program;
use crate::resolve::PATH_MAX;
use crate::serve::attributes::access_itself;
use crate::shadow;

type Stat = plugin_abi::stat;

/// Set in the arena's word once a program on a mount was started in this session: until then nothing is to be looked at.
const STARTED: u32 = 1;

/// A program on a mount is going to be started.
pub fn note_start(process: &Process) {
    process.arena.user_word().fetch_or(STARTED, Ordering::Relaxed);
}

/// `ETXTBSY` if the program at `spot` runs.
pub fn check(process: &Process, spot: &Spot) -> Result<(), Errno> {
    if process.arena.user_word().load(Ordering::Relaxed) & STARTED == 0 {
        return Ok(());
    }
    // What is wrong with the path is for the caller's own attempt to find.
    let Ok(attributes) = spot.call(plugin_abi::Instance::getattr) else { return Ok(()) };
    if attributes.st_mode & sys::S_IFMT != sys::S_IFREG || attributes.st_mode & 0o111 == 0 {
        return Ok(());
    }
    let session = program::session_copies(process)?;
    let own = program::copies(process)?;
    let same = own == session;
    let mut result = try_copies(&program::copies_of(session, &attributes)?);
    if result.is_ok() && !same {
        result = try_copies(&program::copies_of(own, &attributes)?);
    }
    // Who may not write there is to hear of that.
    let may_write = |_: &Errno| access_itself(spot, W_OK, sys::AT_EACCESS).is_ok();
    if result.as_ref().is_err_and(may_write) { Err(Errno::TXTBSY) } else { Ok(()) }
}

/// `ETXTBSY` if a process of the session has the program at `spot` open for writing. What a plugin has handed over is not known here.
pub fn check_writers(process: &'static Process, spot: &Spot, attributes: &Stat) -> Result<(), Errno> {
    let mut result = Ok(());
    process.arena.for_each_live(|slot| {
        let writes = matches!(slot.access_mode(), sys::O_WRONLY | sys::O_RDWR);
        if writes && slot.mount() as usize == spot.mount.number && result.is_ok() {
            let same = is_at(&slot, spot, attributes);
            if same && shadow::is_open(process, &slot) {
                result = Err(Errno::TXTBSY);
            }
        }
    });
    result
}

/// Whether the description in `slot` is of the file at `spot`, by that name or another one.
fn is_at(slot: &Slot<'_>, spot: &Spot, attributes: &Stat) -> bool {
    let mut buffer = [0; PATH_MAX + 1];
    let Ok(length) = slot.path(&mut buffer[..PATH_MAX]).map(<[u8]>::len) else { return false };
    buffer[length] = 0;
    let path = CStr::from_bytes_until_nul(&buffer).ok().and_then(MountPath::new);
    let Some(path) = path else { return false };
    path.as_c_str() == spot.path().as_c_str()
        || attributes.st_nlink > 1
            && spot
                .mount
                .instance()
                .is_ok_and(|instance| instance.getattr(path).is_ok_and(|found| is_same(&found, attributes)))
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// execve(2) of the program's copy at `copy`. If it is busy, only somebody who tried can have caused that: makes the call once
/// more when nobody tries, and keeps it so. Comes back only if it fails.
pub fn exec(copy: &[u8], args: [u64; 6]) -> i64 {
    let result = native::exec(sys::__NR_execve, args);
    if result != -i64::from(Errno::TXTBSY.raw_os_error()) {
        return result;
    }
    let up = |path: &[u8]| path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let folder = up(&copy[..up(copy)]);
    let Ok(folder) = open(sys::AT_FDCWD, &copy[..folder], DIRECTORY) else { return result };
    // exec closes the descriptor, and the lock goes with it.
    let result = match flock(folder, sys::LOCK_SH) {
        Ok(()) => native::exec(sys::__NR_execve, args),
        Err(_) => result,
    };
    native::close(folder);
    result
}

const W_OK: u32 = 2;
const DIRECTORY: u32 = sys::O_RDONLY | sys::O_DIRECTORY;

fn open(at: RawFd, path: &[u8], flags: u32) -> Result<RawFd, Errno> {
    let how = OpenHow { flags: u64::from(flags | sys::O_CLOEXEC), mode: 0, resolve: 0 };
    namei::look_how(at, path, &how)
}

fn flock(fd: RawFd, operation: u32) -> Result<(), Errno> {
    native::checked(sys::__NR_flock, [fd as u64, operation.into(), 0, 0, 0, 0]).map(drop)
}

/// Tries all copies of one file.
fn try_copies(folder: &[u8]) -> Result<(), Errno> {
    // There is no such folder if it was never started, and one of another user's cannot be listed.
    let Ok(folder) = open(sys::AT_FDCWD, folder, DIRECTORY) else { return Ok(()) };
    // Who has it locked is trying, too, or is starting it.
    let locked = flock(folder, sys::LOCK_EX | sys::LOCK_NB).map_err(|_| Errno::TXTBSY);
    let result = locked.and_then(|()| try_versions(folder));
    native::close(folder);
    result
}

fn try_versions(folder: RawFd) -> Result<(), Errno> {
    for_each_name(folder, |version| {
        let Ok(version) = open(folder, version, DIRECTORY) else { return Ok(()) };
        let result = for_each_name(version, |copy| match open(version, copy, sys::O_WRONLY) {
            Err(Errno::TXTBSY) => Err(Errno::TXTBSY),
            Err(_) => Ok(()),
            Ok(fd) => {
                native::close(fd);
                Ok(())
            }
        });
        native::close(version);
        result
    })
}
