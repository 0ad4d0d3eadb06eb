//! From what a plugin opens to an FD of the program.

use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::Ordering;

use fdtable::FdState;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Handle, Instance, Open};
use rustix::io::Errno;
use stash::{Description, Kind};

use super::open::STATUS;
use super::reserved::Reserved;
use super::{ending, locks};
use crate::file::{self, OpenFile, plugin_errno};
use crate::lending::{self, Kept};
use crate::mount::Mount;
use crate::paging;
use crate::process::{Process, STATES};
use crate::shadow::{self, Form};
use crate::thread::{self, Adopting};
use crate::{common, locked_inodes, native, private_fd};

/// What a plugin has opened.
pub struct Opened {
    file: Open<Handle>,
    /// If it becomes the program's own descriptor, its close-on-exec flag is as the program asked.
    ready: bool,
    /// Keeps the number for it that it had had without us.
    reserved: Option<Reserved>,
}

/// Runs a plugin's `open`. Descriptors it opens are moved out of the program's sight, unless the plugin
/// says that they may become the program's own.
pub fn open_handle(
    process: &Process,
    mount: &Mount,
    instance: &Instance,
    flags: u32,
    open: impl FnOnce(i32) -> Result<Open<Handle>, Errno>,
) -> Result<Opened, Errno> {
    let capabilities = instance.capabilities();
    let threaded = process.threaded.load(Ordering::Acquire);
    // What the mount serves is not adopted then, but what it hands over may have locks of this process, which a move would take away.
    let native_locks = mount.shadows.of(flags).has_native_locks();
    let adopt = capabilities.contains(Capabilities::RELOCATABLE)
        && (!threaded || mount.hands_over())
        && !interpose::in_vfork_child()
        && !locks::used();
    if !adopt {
        let reserved = if locked_inodes::any() { Some(Reserved::new(process)?) } else { None };
        if reserved.is_none() && flags & (sys::O_CREAT | sys::O_TRUNC) != 0 {
            // `EMFILE` if the program can have no more FDs: before the plugin makes or cuts a file for nothing.
            drop(Reserved::new(process)?);
        }
        let file = open((flags | sys::O_CLOEXEC) as i32)?;
        mount.note_hand_over(matches!(file, Open::Native { .. }));
        return Ok(Opened { file, ready: false, reserved });
    }
    // With nothing but a descriptor the file goes through exec as it stands (`handover`).
    let bare = capabilities.contains(Capabilities::BARE_FD);
    let through = bare && flags & sys::O_CLOEXEC == 0;
    thread::set_adopting(if through { Adopting::ThroughExec } else { Adopting::AsOpened });
    let opened = open(if bare { flags } else { flags | sys::O_CLOEXEC } as i32);
    thread::set_adopting(Adopting::No);
    let mut file = opened?;
    mount.note_hand_over(matches!(file, Open::Native { .. }));
    if threaded || native_locks {
        file = keep_private(instance, file)?;
    }
    let ready = bare && capabilities.contains(Capabilities::CLOEXEC);
    Ok(Opened { file, ready, reserved: None })
}

/// A served file's descriptor moved out of the program's sight: in a process of several threads it is not adopted, as another
/// one could use the number while it changes hands; nor where its locks are the kernel's, on the shadow.
fn keep_private(instance: &Instance, file: Open<Handle>) -> Result<Open<Handle>, Errno> {
    let Open::Served { mut handle, backing_fd: Some(fd), mode_type, locks } = file else { return Ok(file) };
    let moved = private_fd::take(fd)
        .and_then(|private| instance.move_fd(&mut handle, private).map_err(plugin_errno).map(|()| private));
    match moved {
        Ok(private) => Ok(Open::Served { handle, backing_fd: Some(private), mode_type, locks }),
        Err(error) => {
            let _ = instance.close(handle);
            Err(error)
        }
    }
}

/// Makes a description for what the plugin opened, and an FD of the program for the description.
pub fn enter(
    process: &'static Process,
    mount: &Mount,
    instance: &Instance,
    opened: Opened,
    path: &[u8],
    flags: u32,
) -> Result<RawFd, Errno> {
    let cloexec = flags & sys::O_CLOEXEC != 0;
    let (handle, backing, kind) = match opened.file {
        Open::Native { fd, .. } => {
            drop(opened.reserved);
            return enter_native(process, fd.into_raw_fd(), cloexec, opened.ready);
        }
        Open::Served { handle, backing_fd, mode_type, .. } => (handle, backing_fd, mode_type),
    };
    let raw = handle.raw();
    let mut kind = if file::opens_directory(flags) && kind == 0 { sys::S_IFDIR } else { kind };
    let (mut inode_key, mut owner) = ((0, 0), 0);
    if mount.shadows.of(flags).has_native_locks() {
        // The kernel has to know which file it is.
        match instance.fgetattr(&handle) {
            Ok(stat) => {
                (inode_key, owner) = ((stat.st_dev, stat.st_ino), stat.st_uid);
                kind = stat.st_mode & sys::S_IFMT;
            }
            Err(error) => {
                let _ = instance.close(handle);
                return Err(plugin_errno(error));
            }
        }
        if instance.capabilities().contains(Capabilities::PROCESS_LOCAL) {
            // Another process has other files under the same numbers.
            inode_key.0 ^= u64::from(process.me().to_bits()) << 32;
        }
    }
    let description = Description {
        status_flags: flags & STATUS,
        access_mode: flags & sys::O_ACCMODE,
        mount: mount.number as u32,
        kind: Kind(kind),
        inode_key,
        path,
    };
    let slot = match process.allocate_slot(&description) {
        Ok(slot) => slot,
        Err(error) => {
            let _ = instance.close(handle);
            return Err(error);
        }
    };
    slot.user_words()[0].store(flags.into(), Ordering::Relaxed);
    let kind_and_owner = u64::from(owner) << 32 | u64::from(kind);
    slot.user_words()[shadow::KIND].store(kind_and_owner, Ordering::Relaxed);
    // From here on dropping the file undoes everything.
    let file = OpenFile::new(process, mount.number, raw, slot.id(), flags, kind);
    let new = flags & sys::O_TMPFILE == sys::O_TMPFILE;
    // Here killed processes' pages are written back, if there are any.
    if flags & sys::O_PATH == 0
        && let Err(error) = paging::opened(&file, new)
    {
        crate::trace::debug(format_args!("pages of a mapped file: {error}"));
    }
    let mut together = process.descriptors.lock();
    let fd = if let Some(fd) = backing.filter(|&fd| !private_fd::was_moved(fd)) {
        file.set_form(Form::Backing(fd));
        if fd as u64 >= process.fd_limit() {
            return Err(Errno::MFILE);
        }
        fd
    } else {
        drop(opened.reserved);
        let (fd, form) = match shadow::place(process, &slot, cloexec) {
            Err(Errno::AGAIN) if flags & sys::O_NONBLOCK == 0 => {
                drop(together);
                let placed = shadow::place_waiting(process, &slot, cloexec)?;
                together = process.descriptors.lock();
                placed
            }
            placed => placed?,
        };
        file.set_form(form);
        fd
    };
    if interpose::in_vfork_child() {
        drop(together);
        STATES.forget(fd);
        crate::handover::leave_behind(process, file)?;
        return Ok(fd);
    }
    if process.common.table() {
        let _ = lending::offer(process, &file, Kept::Here);
    }
    ending::watch(instance);
    let replaced = process.files.insert(fd, file, cloexec).map_err(|_| Errno::NOMEM)?;
    if let Some(file) = process.files.get(fd) {
        shadow::note_number(process, &file, fd)?;
    }
    STATES.set(fd, FdState::Served);
    process.serving.store(1, Ordering::Release);
    drop(together);
    if let Some(file) = replaced {
        locks::closed_unseen(process, file);
    }
    Ok(fd)
}

/// The program's FD is the plugin's file itself. `ready` says that its close-on-exec flag is right.
fn enter_native(process: &Process, fd: RawFd, cloexec: bool, ready: bool) -> Result<RawFd, Errno> {
    let fd = if private_fd::was_moved(fd) {
        let command = u64::from(if cloexec { sys::F_DUPFD_CLOEXEC } else { sys::F_DUPFD });
        let duplicate = native::checked(sys::__NR_fcntl, [fd as u64, command, 0, 0, 0, 0]);
        locked_inodes::close(fd);
        duplicate? as RawFd
    } else {
        if !cloexec && !ready {
            native::checked(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), 0, 0, 0, 0])?;
        }
        fd
    };
    let fd = process.check_limit(fd)?;
    if !interpose::in_vfork_child() {
        common::mark_foreign(process, fd);
    }
    Ok(fd)
}
