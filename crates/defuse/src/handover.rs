//! Open files through exec.
//!
//! What goes through exec as it stands is only listed (see `carried`). For the rest the plugin's `save` describes each handle
//! that the next image may inherit; the description goes into the slot. Private descriptors that the plugin wants to keep go through exec open, and the arena's exec map lists
//! them, so that the next image can close those whose file it did not inherit.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::Ref;
use linux_raw_sys::general as sys;
use plugin_abi::Capabilities;
use rustix::io::Errno;
use stash::{ExecEntry, ExecToken, ProcessId, SlotId};

use crate::carried::{self, Mark};
use crate::file::{OpenFile, stash_errno};
use crate::process::Process;
use crate::shadow::{self, Form};
use crate::sync::Guard;
use crate::unclaimed::{self, set_cloexec};
use crate::{lock_files, locked_inodes, native, restoring, trace, vfork, working_directory};

/// What goes through exec: the list in the arena, and the descriptors that exec must not close.
#[derive(Default)]
pub struct Prepared {
    /// Names the list for the next image; `None` if nothing is kept.
    pub token: Option<ExecToken>,
    /// The next image's process in the arena, if that is not this image's: a vfork child's, so that its maker may end before that image registers.
    pub registered: Option<ProcessId>,
    kept: Vec<RawFd>,
    /// What exec closes, of files that are no shadows.
    closed: Vec<RawFd>,
    _together: Option<Guard<'static, ()>>,
}

impl Prepared {
    /// exec failed: this image goes on as before.
    pub fn undo(self, process: &'static Process) {
        for fd in self.closed {
            if let Some(file) = process.files.get(fd)
                && let Err(error) = shadow::note_number(process, &file, fd)
            {
                trace::error(format_args!("FD {fd} after a failed exec: {error}"));
            }
        }
        for fd in self.kept {
            set_cloexec(fd, true);
        }
        if let Some(token) = self.token {
            let _ = process.arena.drop_exec_map(token.process());
        }
        if let Some(registered) = self.registered {
            // For an image that there will not be.
            let _ = process.arena.unregister_process(registered);
        }
    }
}

/// The descriptor of the arena, left open through exec if the next image could not open it: this process is not who it was
/// when it joined the session.
pub fn carry_arena(process: &Process) -> Option<RawFd> {
    let effective = native::raw_call(sys::__NR_geteuid, [0; 6]);
    if effective == i64::from(process.owner) || effective == 0 {
        return None;
    }
    set_cloexec(process.arena_fd, false);
    Some(process.arena_fd)
}

/// exec failed: the descriptor of the arena stays with this image.
pub fn keep_arena(process: &Process) {
    set_cloexec(process.arena_fd, true);
}

/// Hands the files to the next image. `intercepted` says that this will surely run with us; then placeholders and adopted
/// descriptors go through as they stand, and the arena's exec map tells which is which. Otherwise, and in a vfork child, every
/// file is a shadow.
pub fn prepare_exec(process: &'static Process, intercepted: bool) -> Result<Prepared, Errno> {
    if interpose::in_vfork_child() {
        return prepare_in_vfork_child(process);
    }
    let cwd = working_directory::for_exec(process);
    let nothing_came = process.carried.is_empty() && unclaimed::is_empty();
    if process.files.is_empty() && nothing_came && cwd.is_none() && lock_files::is_unused() {
        return Ok(Prepared::default());
    }
    if !intercepted {
        shadow::separate_all(process)?;
    }
    // Until the exec is through, or has failed, no other thread opens or closes anything.
    let together = process.descriptors.lock();
    shadow::numbers::enter_all(process, None);
    let mut list = Vec::new();
    let mut kept = Vec::new();
    let mut saved: Vec<SlotId> = Vec::new();
    let mut closed = Vec::new();
    let mut result = Ok(());
    process.files.for_each(|fd, file, cloexec| {
        let more = Ref::fds(file) > 1;
        let mut first = || {
            let first = !more || !saved.contains(&file.slot);
            if more && first {
                saved.push(file.slot);
            }
            first
        };
        let form = file.form();
        match form {
            _ if cloexec => {
                if form != Form::Shadow {
                    closed.push(fd);
                    if !more {
                        carried::append(&mut list, Mark::Closed.entry(fd, file.slot, false));
                    }
                }
            }
            Form::Backing(_) if is_bare(file) => {
                let more = more || lock_files::concern(file);
                carried::append(&mut list, Mark::Adopted.entry(fd, file.slot, more));
            }
            Form::Backing(_) => {
                result = result.and_then(|()| shadow::separate(process, file));
                keep(file, Mark::Kept, &mut list, &mut kept);
            }
            Form::Placeholder => {
                let mut more = more || lock_files::concern(file);
                if !process.mounts[file.mount].saves_nothing.load(Ordering::Relaxed) && first() {
                    more |= keep(file, Mark::Kept, &mut list, &mut kept);
                }
                carried::append(&mut list, Mark::Placeholder.entry(fd, file.slot, more));
            }
            Form::Shadow => {
                if first() {
                    keep(file, Mark::Kept, &mut list, &mut kept);
                }
            }
        }
    });
    result?;
    if let Some((held, entry)) = cwd {
        kept.push(entry.fd as RawFd);
        list.push(entry);
        if let Some(file) = held.file() {
            keep(&file, Mark::Kept, &mut list, &mut kept);
        }
    }
    lock_files::for_exec(process, &mut list, &mut kept);
    process.carried.hand_on(&mut list);
    list.extend(unclaimed::entries());
    locked_inodes::for_exec(process, &mut list, &mut kept);
    let mut prepared = leave(process, process.me(), list, kept, Some(together))?;
    // The next image may have other files under these numbers.
    for &fd in &closed {
        if let Some(file) = process.files.get(fd) {
            shadow::forget_number(process, &file, fd);
        }
    }
    prepared.closed = closed;
    Ok(prepared)
}

/// Readies the files for an image that will not be in this session: to it they are shadows that it knows nothing of.
pub fn prepare_to_leave(process: &'static Process) -> Result<Prepared, Errno> {
    if !interpose::in_vfork_child() {
        shadow::separate_all(process)?;
    }
    Ok(Prepared::default())
}

/// As [`prepare_exec`], for the files of the suspended parent, which all are shadows: any may be inherited that is not closed by exec. Where the
/// child has made no other FD of a file, the list says by which it is inherited, if it is.
fn prepare_in_vfork_child(process: &'static Process) -> Result<Prepared, Errno> {
    let (mut list, mut kept, mut shadows) = (Vec::new(), Vec::new(), Vec::new());
    let mut saved: Vec<SlotId> = Vec::new();
    process.files.for_each(|fd, file, cloexec| {
        let handed_on = vfork::children().hands_on(file.slot);
        // What is no shadow another thread has opened since: the child does not have it.
        if file.form() != Form::Shadow || cloexec && !handed_on {
            return;
        }
        if !handed_on {
            carried::append(&mut shadows, Mark::Shadow.entry(fd, file.slot, false));
        }
        if Ref::fds(file) == 1 || !saved.contains(&file.slot) {
            saved.push(file.slot);
            keep(file, Mark::KeptPerhaps, &mut list, &mut kept);
        }
    });
    for vfork::LeftOpen { slot, fds, companion } in vfork::children().left_open() {
        if !saved.contains(slot) {
            saved.push(*slot);
            list_kept(*slot, fds, Mark::KeptPerhaps, &mut list, &mut kept);
            list.extend(companion.map(|fd| Mark::CompanionPerhaps.entry(fd, *slot, false)));
            kept.extend(companion);
        }
    }
    if let Some((held, entry)) = working_directory::for_exec(process) {
        kept.push(entry.fd as RawFd);
        list.push(entry);
        if let Some(file) = held.file() {
            keep(&file, Mark::KeptPerhaps, &mut list, &mut kept);
        }
    }
    lock_files::for_exec(process, &mut list, &mut kept);
    process.carried.hand_on_perhaps(&mut list);
    list.extend(unclaimed::entries());
    list.extend(shadows);
    let registered = match process.arena.register_child(process.me()) {
        Ok(registered) => registered,
        // Without a list the next image may find room.
        Err(_) if list.is_empty() => return Ok(Prepared::default()),
        Err(error) => return Err(stash_errno(error)),
    };
    let left = leave(process, registered, list, kept, None);
    if left.is_err() {
        let _ = process.arena.unregister_process(registered);
    }
    left.map(|prepared| Prepared { registered: Some(registered), ..prepared })
}

/// Leaves the list for the next image, and the descriptors that are kept open.
fn leave(
    process: &'static Process,
    me: ProcessId,
    list: Vec<ExecEntry>,
    kept: Vec<RawFd>,
    together: Option<Guard<'static, ()>>,
) -> Result<Prepared, Errno> {
    let token =
        if list.is_empty() { None } else { Some(process.arena.put_exec_map(me, list).map_err(stash_errno)?) };
    for &fd in &kept {
        set_cloexec(fd, false);
    }
    Ok(Prepared { token, kept, _together: together, ..Prepared::default() })
}

/// Whether the plugin's descriptor is all there is to the handle.
fn is_bare(file: &OpenFile) -> bool {
    file.instance().is_ok_and(|instance| instance.capabilities().contains(Capabilities::BARE_FD))
}

/// Lets the plugin describe the handle, and lists the descriptors that it wants to keep. Says whether there are any.
fn keep(file: &OpenFile, mark: Mark, list: &mut Vec<ExecEntry>, kept: &mut Vec<RawFd>) -> bool {
    match restoring::save(file) {
        Ok(fds) => {
            list_kept(file.slot, &fds, mark, list, kept);
            !fds.is_empty()
        }
        // The next image opens it again by its path.
        Err(error) => {
            if error == Errno::NOSYS {
                file.mount().saves_nothing.store(true, Ordering::Relaxed);
            }
            trace::debug(format_args!("a file cannot be saved for exec: {error}"));
            false
        }
    }
}

fn list_kept(slot: SlotId, fds: &[RawFd], mark: Mark, list: &mut Vec<ExecEntry>, kept: &mut Vec<RawFd>) {
    let entry = |(rank, &fd): (usize, &RawFd)| mark.kept_entry(fd, slot, rank);
    list.extend(fds.iter().enumerate().map(entry));
    kept.extend(fds);
}

/// A vfork child has opened a file: its memory is the parent's, so all that stays is the shadow FD. Whoever touches that
/// opens the file again by its path.
pub fn leave_behind(process: &'static Process, file: OpenFile) -> Result<(), Errno> {
    process.arena.slot(file.slot).and_then(|slot| slot.mark_shared()).map_err(stash_errno)?;
    drop(file);
    Ok(())
}
