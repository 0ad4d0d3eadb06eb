//! Whose an FD is.
//!
//! The kernel is the truth about FDs and the table a cache of it. An FD the table does not know is looked at
//! (`fstat`): if it is one of the session's shadows, that names the slot that says
//! everything else, and the plugin's handle is rebuilt from there.

use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::Arc;

use fdtable::{FdState, Ref};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::OpenFile;
use crate::process::{Process, STATES};
use crate::serve::fork::ahead;
use crate::serve::locks;
use crate::sync::Guard;
use crate::{carried, common, native, private_fd, shadow};

/// Whose an FD is.
pub enum Owner {
    /// Served, as this file.
    Served(FileRef),
    /// The kernel's.
    Foreign,
    /// Nobody's: it is not open.
    Closed,
    /// The kernel's: a directory above a mount point (its canonical path is needed to know what lies below).
    Ancestor,
}

/// An open file in use by a call.
pub enum FileRef {
    /// Found in the table.
    Entered(Ref<'static, OpenFile>),
    /// Rebuilt for this one call, in a vfork child, whose table is the parent's.
    Alone(Box<OpenFile>),
    /// The working directory's.
    WorkingDirectory(Arc<OpenFile>),
}

impl FileRef {
    /// How many FDs of the process it has.
    pub fn fds(&self) -> u64 {
        match self {
            Self::Entered(file) => Ref::fds(file),
            Self::Alone(_) => 1,
            Self::WorkingDirectory(_) => 0,
        }
    }
}

impl Deref for FileRef {
    type Target = OpenFile;
    fn deref(&self) -> &OpenFile {
        match self {
            Self::Entered(file) => file,
            Self::Alone(file) => file,
            Self::WorkingDirectory(file) => file,
        }
    }
}

/// The served file behind `fd`, if it is one.
pub fn served(process: &'static Process, fd: RawFd) -> Option<FileRef> {
    match owner(process, fd) {
        Owner::Served(file) => Some(file),
        _ => None,
    }
}

/// As [`served`], for calls that must not be handed on to the kernel when the FD is not open: by then another thread may
/// have put something else there.
pub fn served_if_open(process: &'static Process, fd: RawFd) -> Result<Option<FileRef>, Errno> {
    match owner(process, fd) {
        Owner::Served(file) => Ok(Some(file)),
        Owner::Closed => Err(Errno::BADF),
        Owner::Foreign | Owner::Ancestor => Ok(None),
    }
}

/// Whose `fd` is.
pub fn owner(process: &'static Process, fd: RawFd) -> Owner {
    if interpose::in_vfork_child() {
        // The table is the parent's; only the kernel knows about our FDs.
        return look(process, fd);
    }
    if process.common.table() {
        return checked_owner(process, fd);
    }
    match STATES.get(fd) {
        FdState::Foreign => return Owner::Foreign,
        FdState::Served | FdState::Unknown => {
            if let Some(file) = process.files.get(fd) {
                return Owner::Served(FileRef::Entered(file));
            }
        }
    }
    load_plugin(process, fd);
    let Some(_together) = together_unless_foreign(process, fd) else { return Owner::Foreign };
    let _one_at_a_time = process.rebuilding.lock();
    if let Some(file) = process.files.get(fd) {
        return Owner::Served(FileRef::Entered(file));
    }
    look(process, fd)
}

/// As [`owner`], where the table knows nothing for sure: somebody else may have changed what the kernel has.
fn checked_owner(process: &'static Process, fd: RawFd) -> Owner {
    load_plugin(process, fd);
    // If it was ours before, who looks next finds out.
    let Some(together) = together_unless_foreign(process, fd) else { return Owner::Foreign };
    let one_at_a_time = process.rebuilding.lock();
    let slot = shadow::slot_behind(process, fd, &native::fstat(fd));
    let mut gone = None;
    if let Some(file) = process.files.get(fd) {
        if Some(file.slot) == slot {
            return Owner::Served(FileRef::Entered(file));
        }
        gone = process.files.remove(fd);
    }
    let owner = look(process, fd);
    drop((one_at_a_time, together));
    if let Some(file) = gone {
        locks::closed_unseen(process, file);
    }
    owner
}

/// Loads the plugin of an FD that is to be rebuilt, before any lock is taken: the dynamic linker may be locked by a thread that
/// waits for one of ours.
fn load_plugin(process: &'static Process, fd: RawFd) {
    if process.mounts.iter().all(|mount| mount.loaded().is_some()) {
        return;
    }
    if let Some(slot) = shadow::slot_behind(process, fd, &native::fstat(fd))
        && let Ok(slot) = process.arena.slot(slot)
        && let Some(mount) = process.mount_of(&slot)
    {
        // What is wrong with it is said again when it is needed.
        let _ = mount.instance();
    }
}

/// The lock that whoever is about to close or replace an FD has. A fork may have it, and wait for a lock of libc's that we are called under: `None` if
/// it has, and the FD is the kernel's.
fn together_unless_foreign(process: &'static Process, fd: RawFd) -> Option<Guard<'static, ()>> {
    let foreign = || ahead::while_held(|| is_nothing_of_ours(process, fd)).filter(|foreign| *foreign);
    process.descriptors.lock_unless(foreign).ok()
}

/// Whether a call on `fd`, which is not in the table, can do without us, whatever came through exec. Takes no lock.
fn is_nothing_of_ours(process: &'static Process, fd: RawFd) -> bool {
    process.carried.count() == 0
        && !private_fd::is_hidden(fd)
        && native::fstat(fd).is_ok_and(|stat| {
            stat.st_mode & sys::S_IFMT != sys::S_IFDIR && stat.st_dev != process.folder_device
        })
}

/// Asks the kernel about an FD that the table does not know.
fn look(process: &'static Process, fd: RawFd) -> Owner {
    if private_fd::is_hidden(fd) {
        return Owner::Closed;
    }
    if let Some(owner) = carried::rebuild(process, fd) {
        return owner;
    }
    let looked = native::fstat(fd);
    if let Some(slot) = shadow::slot_behind(process, fd, &looked) {
        return shadow::rebuild(process, fd, slot);
    }
    let (mode, device, inode) = match looked {
        Ok(stat) => (stat.st_mode, stat.st_dev, stat.st_ino),
        // Somebody else's shadow.
        Err(Errno::REMOTEIO) => (0, 0, 0),
        Err(_) => return Owner::Closed,
    };
    if mode & sys::S_IFMT == sys::S_IFDIR {
        if device == process.proc_device {
            // And not to be forgotten about: getdents asks again whether it is one of FDs, which relative paths may lead to as well.
            return Owner::Foreign;
        }
        if process.ancestors.contains(&(device, inode)) {
            return Owner::Ancestor;
        }
    }
    if !interpose::in_vfork_child() {
        common::learn_foreign(process, fd);
    }
    Owner::Foreign
}

/// Whether `fd` is a directory like /proc/self/fd. `device` is that of `fd`.
pub fn is_fd_directory(process: &Process, fd: RawFd, device: u64) -> bool {
    device == process.proc_device && crate::namei::fd_path(fd).is_ok_and(|path| path.ends_with(b"/fd"))
}

/// Type, device and inode of what the kernel has at `fd`.
pub fn identity(fd: RawFd) -> Option<(u32, u64, u64)> {
    let stat = native::fstat(fd).ok()?;
    Some((stat.st_mode, stat.st_dev, stat.st_ino))
}
