//! A name made below a directory that another thread, or a process with the same working directory or FD table, may exchange for another one
//! meanwhile, by chdir(2) or dup2(2).
//!
//! Whether there is a link to a mount on the way is asked before the kernel makes the name. Both must be about the same directory: else the name
//! comes to lie in the hidden directory below the mount, by a link that the other directory has. So the directory that the name is to be made in is
//! opened, and the name is made there.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::paths::At;
use crate::namei::{self, NO_SYMLINKS, OpenHow, PathArgument};
use crate::native;
use crate::process::Process;

/// What has become of it.
pub enum Pinned {
    /// Made by the kernel, with this result.
    Done(i64),
    /// Nobody can exchange the directory, or there is none on the way.
    NotNeeded,
    /// A symbolic link is on the way, or the directory that a mount hides.
    Elsewhere,
}

/// Makes the name at the path, which is nobody's by its text. `call` may have another first path than the program's.
pub fn make(process: &Process, call: &Call, at: At, argument: &PathArgument) -> Result<Pinned, Errno> {
    if argument.is_absolute()
        || argument.parent().as_slice() == b"."
        || !may_be_exchanged(process, argument.dirfd)
    {
        return Ok(Pinned::NotNeeded);
    }
    match in_directory(process, call, at, argument, NO_SYMLINKS) {
        Ok(made) => Ok(made.map_or(Pinned::Elsewhere, Pinned::Done)),
        Err(Errno::LOOP) => Ok(Pinned::Elsewhere),
        Err(error) if is_not_to_be_had(error) => Ok(Pinned::NotNeeded),
        Err(error) => Err(error),
    }
}

/// As [`make`], where links on the way were found to lead to no mount: `ENOENT` if that has changed since.
pub fn make_through_links(
    process: &Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
) -> Result<i64, Errno> {
    match in_directory(process, call, at, argument, 0) {
        Err(error) if is_not_to_be_had(error) => Ok(native::call(call)),
        made => made?.ok_or(Errno::NOENT),
    }
}

/// A kernel or filter without openat2, or no room for one more descriptor: this says nothing about the path.
fn is_not_to_be_had(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::MFILE | Errno::NFILE)
}

/// Whether the directory that a relative path begins in may be another at any time.
fn may_be_exchanged(process: &Process, dirfd: RawFd) -> bool {
    if interpose::in_vfork_child() {
        return false; // Its table and directory are its own, and it has no other threads.
    }
    if process.restricted.load(Ordering::Relaxed) {
        return false; // What the program does not ask for may be the end of it.
    }
    let others = || match dirfd {
        sys::AT_FDCWD => process.common.place() || process.common.wanders(),
        _ => process.common.table(),
    };
    process.threaded.load(Ordering::Acquire) || others()
}

/// Makes the name in the directory that the kernel finds now; `None` if that is one which a mount hides. An error is what is wrong with the directory's
/// path.
fn in_directory(
    process: &Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
    resolve: u64,
) -> Result<Option<i64>, Errno> {
    let parent = argument.parent();
    let flags = u64::from(sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC);
    loop {
        // Under no lock: a file system may take any time to answer. (A forked child may find the descriptor among its own, until it execs.)
        let directory = namei::look_how(argument.dirfd, &parent, &OpenHow { flags, mode: 0, resolve })?;
        // (EREMOTEIO: it is on a mount of the module.)
        let hidden = native::fstat(directory)
            .map_or(true, |found| process.table.hidden_by(found.st_dev, found.st_ino).is_some());
        let made = (!hidden).then(|| {
            let mut name = argument.text.clone();
            name.remove_front(parent.len());
            // There is room: the parent was as long as a slash at least.
            let _ = name.try_push(0);
            let (number, args) = below(call, at, directory, name.as_ptr() as u64);
            native::raw_call(number, args)
        });
        let own = give_back(process, directory);
        // With another file at its number, which was no directory or has been closed, nothing has happened.
        let nothing = [Errno::BADF, Errno::NOTDIR].map(|none| Some(-i64::from(none.raw_os_error())));
        if own || made.is_some() && !nothing.contains(&made) {
            return Ok(made);
        }
    }
}

/// Closes the descriptor of a directory, unless another thread has put something else at its number, which the program may have: with a served file it
/// has the lock for that. Nothing here waits for a file system. False if it was not there any more.
fn give_back(process: &Process, directory: RawFd) -> bool {
    let _together = process.descriptors.lock();
    let asked =
        |command| native::raw_call(sys::__NR_fcntl, [directory as u64, u64::from(command), 0, 0, 0, 0]);
    let is_as_made = |(command, flag): (u32, u32)| {
        let flags = asked(command);
        flags >= 0 && flags & i64::from(flag) != 0
    };
    let own = [(sys::F_GETFL, sys::O_PATH), (sys::F_GETFD, sys::FD_CLOEXEC)].into_iter().all(is_as_made);
    if own {
        native::close(directory);
    }
    own
}

/// The call with another directory and name in the place of the path at `at`.
fn below(call: &Call, at: At, directory: RawFd, name: u64) -> (u32, [u64; 6]) {
    let [first, second, third, ..] = call.args;
    let (directory, here) = (directory as u64, sys::AT_FDCWD as u64);
    match call.nr {
        sys::__NR_mkdir => (sys::__NR_mkdirat, [directory, name, second, 0, 0, 0]),
        sys::__NR_mknod => (sys::__NR_mknodat, [directory, name, second, third, 0, 0]),
        sys::__NR_symlink => (sys::__NR_symlinkat, [first, directory, name, 0, 0, 0]),
        sys::__NR_link => (sys::__NR_linkat, [here, first, directory, name, 0, 0]),
        sys::__NR_rename => (sys::__NR_renameat, [here, first, directory, name, 0, 0]),
        number => {
            let mut args = call.args;
            args[at.path] = name;
            if let Some(position) = at.dirfd {
                args[position] = directory;
            }
            (number, args)
        }
    }
}
