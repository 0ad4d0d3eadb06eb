//! A name made below a directory that another thread may exchange for another one meanwhile, by chdir(2) or dup2(2).
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

/// Makes the name at the path, which is nobody's by its text.
pub fn make(process: &Process, call: &Call, at: At, argument: &PathArgument) -> Pinned {
    let parent = argument.parent();
    if argument.is_absolute() || parent.as_slice() == b"." || !process.threaded.load(Ordering::Acquire) {
        return Pinned::NotNeeded;
    }
    let flags = u64::from(sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let how = OpenHow { flags, mode: 0, resolve: NO_SYMLINKS };
    let directory = match namei::look_how(argument.dirfd, &parent, &how) {
        Ok(directory) => directory,
        Err(Errno::LOOP) => return Pinned::Elsewhere,
        // The kernel has other things to say first, perhaps.
        Err(_) => return Pinned::Done(native::call(call)),
    };
    let hidden = native::fstat(directory)
        .is_ok_and(|found| process.table.hidden_by(found.st_dev, found.st_ino).is_some());
    let made = (!hidden).then(|| {
        let mut name = argument.text.clone();
        name.remove_front(parent.len());
        // There is room: the parent was as long as a slash at least.
        let _ = name.try_push(0);
        let (number, args) = below(call, at, directory, name.as_ptr() as u64);
        native::raw_call(number, args)
    });
    native::close(directory);
    made.map_or(Pinned::Elsewhere, Pinned::Done)
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
