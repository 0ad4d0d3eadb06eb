//! What stands in the kernel's FD table for a served file.
//!
//! A file that only this process has is a *placeholder*; or, cheaper still, the very descriptor that the plugin opened, if it can let go
//! of the number. Before anybody else can get hold of it (fork, exec, FD passing) it becomes a *shadow*, by which every process of
//! the session finds the slot of the arena that describes the file.
//!
//! Who makes shadows is a matter of the mount ([`ShadowProvider`]): the session's folder, see [`folder`], or the kernel module for what was
//! mounted with `mount -t defuse`, see [`module`]. With the module a file has its own shadow from the start, as that costs no
//! more than a placeholder; there the two forms differ only in who may have it.

mod alone;
mod folder;
mod module;
pub mod module_abi;
pub mod numbers;

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::Ref;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{Slot, SlotId};

use crate::file::{FileRef, OpenFile, Owner, stash_errno};
use crate::process::{Process, STATES};
use crate::serve::locks;
use crate::{lock_files, native, nofile, private_fd, restoring, trace};

pub use alone::{alone_in, forget_number, is_adopted, note_number, place_shared};
pub use folder::{after_fork, before_fork, is_empty_directory, open as open_shadow, placeholder};
pub use module::Module;
use module::Waiting;

/// What stands at the FD numbers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nobody else can have the file: a duplicate of the common placeholder, or the module's shadow.
    Placeholder,
    /// The description's own shadow, which others may have.
    Shadow,
    /// The plugin's own descriptor of the file: this number, and duplicates of it.
    Backing(RawFd),
}

/// The user word of a slot that holds the type of what it has open, as `S_IFMT` bits (lower half), and who owns the file, for the module (upper half).
pub const KIND: usize = 1;

/// The user word of a slot into which the module writes who opened the shadow.
pub const OPENER: usize = 2;

/// The user word of a slot that says which process has the descriptors that its blob names; or, with the highest bit, under which numbers its
/// owner has the file, which is no shadow there.
pub const LENDER: usize = 3;

/// Who makes the shadows of a mount's files.
pub enum ShadowProvider {
    /// The session's folder, on tmpfs.
    Folder,
    /// The kernel module: the mount is one of type `defuse`.
    Module(Module),
}

impl ShadowProvider {
    /// Whether record locks, `flock` and leases on these shadows are the kernel's own and hold between all who have the file open. Else
    /// they are the plugin's.
    pub fn has_native_locks(&self) -> bool {
        matches!(self, Self::Module(_))
    }

    /// Who makes the shadow of a description that was opened with `flags`. One that is only a place in the tree (`O_PATH`) has no locks, and
    /// is not ready for anything: to the module it would be a file like others.
    pub fn of(&self, flags: u32) -> &Self {
        if flags & sys::O_PATH == 0 { self } else { &Self::Folder }
    }

    /// Whether the mount at `point` is read-only now.
    pub fn is_read_only(&self, point: &CStr) -> bool {
        match self {
            Self::Folder => false,
            Self::Module(module) => module.is_read_only(point),
        }
    }

    fn is_held(&self, process: &Process, slot: &Slot<'_>) -> bool {
        match self {
            Self::Folder => folder::is_held(process, slot.id()),
            Self::Module(module) => module.is_held(process, slot),
        }
    }
}

/// Gives the program an FD number for the file in `slot`, the lowest free one, and says in which form. `AGAIN` when a lease on
/// the file is being broken: then [`place_waiting`], without any lock.
pub fn place(process: &'static Process, slot: &Slot<'_>, cloexec: bool) -> Result<(RawFd, Form), Errno> {
    place_by(process, slot, cloexec, Waiting::Never)
}

/// As [`place`]; waits until a lease is broken, unless a signal of the program comes.
pub fn place_waiting(
    process: &'static Process,
    slot: &Slot<'_>,
    cloexec: bool,
) -> Result<(RawFd, Form), Errno> {
    place_by(process, slot, cloexec, Waiting::UntilSignal)
}

fn place_by(
    process: &'static Process,
    slot: &Slot<'_>,
    cloexec: bool,
    waiting: Waiting,
) -> Result<(RawFd, Form), Errno> {
    // Others may come by its number before they could be given a shadow.
    let at_once = interpose::in_vfork_child() || process.common.table();
    let fd = match provider(process, slot)? {
        ShadowProvider::Module(module) => module.open(process, slot, cloexec, waiting)?,
        ShadowProvider::Folder if at_once => folder::open(process, slot.id(), cloexec)?,
        ShadowProvider::Folder => folder::place(process, cloexec)?,
    };
    if at_once {
        slot.mark_shared().map_err(stash_errno)?;
    }
    let form = if at_once { Form::Shadow } else { Form::Placeholder };
    Ok((process.check_limit(fd)?, form))
}

fn provider<'p>(process: &'p Process, slot: &Slot<'_>) -> Result<&'p ShadowProvider, Errno> {
    let flags = slot.user_words()[0].load(Ordering::Relaxed) as u32;
    process.mount_of(slot).map(|mount| mount.shadows.of(flags)).ok_or(Errno::IO)
}

/// Makes `file` a shadow if it is not one: from here on other processes may get it.
pub fn separate(process: &'static Process, file: &OpenFile) -> Result<(), Errno> {
    separate_at(process, file, None)
}

/// As [`separate`]; `only` is the one number that the file has, if it is known that there is no other.
fn separate_at(process: &'static Process, file: &OpenFile, only: Option<(RawFd, bool)>) -> Result<(), Errno> {
    let _one_at_a_time = process.rebuilding.lock();
    if file.form() == Form::Shadow {
        return Ok(());
    }
    let shared = file.shared()?;
    if let ShadowProvider::Module(_) = provider(process, &shared)? {
        return module::share(process, file, &shared, only.map(|(fd, _)| fd));
    }
    lock_files::share(process, file);
    let kind = u64::from(file.kind()?);
    shared.user_words()[KIND].store(kind, Ordering::Relaxed);
    let shadow = folder::open(process, file.slot, true)?;
    if let Form::Backing(fd) = file.form() {
        // The plugin goes on with a private number. Calls under way with the old one may meet the shadow; they are
        // made again (`OpenFile::with_handle`).
        let moved = private_fd::duplicate(fd).and_then(|private| file.move_backing(private));
        if let Err(error) = moved {
            native::close(shadow);
            return Err(error);
        }
    }
    let mut result = Ok(());
    if let Some((fd, cloexec)) = only {
        result = replace(process, shadow, fd, cloexec);
    } else {
        process.files.for_each(|fd, other, cloexec| {
            if other.slot == file.slot {
                result = result.and(replace(process, shadow, fd, cloexec));
            }
        });
    }
    native::close(shadow);
    file.set_form(Form::Shadow);
    shared.user_words()[LENDER].store(0, Ordering::Release);
    result
}

/// Makes every file a shadow: before fork and exec. A vfork child has only shadows: what is none in the table its parent's other threads have
/// opened since, and have alone.
pub fn separate_all(process: &'static Process) -> Result<(), Errno> {
    if interpose::in_vfork_child() {
        return Ok(());
    }
    process.carried.settle(process);
    let _together = process.descriptors.lock();
    separate_rest(process)
}

/// As [`separate_all`], for what has come since; the caller holds `Process::descriptors`.
pub fn separate_rest(process: &'static Process) -> Result<(), Errno> {
    if interpose::in_vfork_child() {
        return Ok(());
    }
    let mut result = Ok(());
    process.files.for_each(|fd, file, cloexec| {
        if file.form() != Form::Shadow {
            // Not for each file a look at all numbers.
            let only = (Ref::fds(file) == 1).then_some((fd, cloexec));
            result = result.and(separate_at(process, file, only));
        }
    });
    result
}

/// Takes the plugins' descriptors away from the program's numbers and puts placeholders there: before the process gets a
/// second thread, which could use such a number while it changes hands.
pub fn disown_all(process: &'static Process) -> Result<(), Errno> {
    process.carried.settle(process);
    let _together = process.descriptors.lock();
    let mut adopted = Vec::new();
    process.files.for_each(|_, file, _| {
        if let Form::Backing(fd) = file.form() {
            adopted.push(fd);
        }
    });
    adopted.dedup();
    for fd in adopted {
        let Some(file) = process.files.get(fd) else { continue };
        vacate(process, &file, fd, Ref::fds(&file) == 1, true)?;
        if file.form() != Form::Placeholder {
            // `vacate` went to another number of the same file: one more step takes it away from there.
            if let Form::Backing(next) = file.form() {
                let private = private_fd::duplicate(next)?;
                file.move_backing(private)?;
                file.set_form(Form::Placeholder);
            }
        }
        let placeholder = placeholder(process)?;
        let mut result = Ok(());
        process.files.for_each(|number, same, cloexec| {
            if same.slot == file.slot {
                result = result.and(replace(process, placeholder, number, cloexec));
            }
        });
        result?;
    }
    Ok(())
}

/// Puts a duplicate of `by` at the program's number `fd`, which may lie above a limit that was lowered since.
fn replace(process: &Process, by: RawFd, fd: RawFd, cloexec: bool) -> Result<(), Errno> {
    let flags = u64::from(if cloexec { sys::O_CLOEXEC } else { 0 });
    let put = || native::checked(sys::__NR_dup3, [by as u64, fd as u64, flags, 0, 0, 0]).map(drop);
    if (fd as u64) < process.fd_limit() { put() } else { nofile::with_room(put) }
}

/// Before the FD `fd` of `file` is closed or replaced: if that number is the plugin's own descriptor, the plugin gets
/// another one. `only` says that the file has no other FD, `replaced` that something else takes the number's place.
pub fn vacate(
    process: &'static Process,
    file: &OpenFile,
    fd: RawFd,
    only: bool,
    replaced: bool,
) -> Result<(), Errno> {
    if file.form() != Form::Backing(fd) || (only && !replaced) {
        return Ok(());
    }
    let _one_at_a_time = process.rebuilding.lock();
    let mut other = None;
    if !only {
        process.files.for_each(|number, same, _| {
            if same.slot == file.slot && number != fd {
                other = Some(number);
            }
        });
    }
    match other {
        Some(number) => {
            file.move_backing(number)?;
            file.set_form(Form::Backing(number));
        }
        // The plugin's close will close the number; but not when something else takes its place.
        None if !replaced => {}
        None => {
            let private = private_fd::duplicate(fd)?;
            file.move_backing(private)?;
            file.set_form(Form::Placeholder);
        }
    }
    Ok(())
}

/// Somebody else has used our FD table, and does not any more: forgets what is not so now.
pub fn believe_the_kernel(process: &'static Process) {
    let _together = process.descriptors.lock();
    let mut gone = Vec::new();
    process.files.for_each(|fd, file, _| {
        if slot_behind(process, fd, &native::fstat(fd)) != Some(file.slot) {
            gone.push(fd);
        }
    });
    for fd in gone {
        if let Some(file) = process.files.remove(fd) {
            locks::closed_unseen(process, file);
        }
    }
    let mut left = Vec::new();
    process.files.for_each(|fd, _, _| left.push(fd));
    for fd in left {
        process.files.set_cloexec(fd, is_cloexec(fd));
    }
    numbers::look_again();
    STATES.forget_range(0, u32::MAX);
}

/// This process has no more use for the slot; frees it unless somebody else has.
pub fn let_go(process: &'static Process, slot: SlotId) {
    let Ok(shared) = process.arena.slot(slot) else { return };
    let held = || {
        if shared.is_shared().unwrap_or(true) {
            process.restricted.load(Ordering::Relaxed) || is_held(process, &shared)
        } else {
            // One from whom a descriptor was to be taken, which has come to nothing, still has it for itself.
            alone::is_another_s(process, &shared)
        }
    };
    if !held() {
        // Somebody else may have found it unused at the same time.
        let _ = process.arena.free_slot(process.me(), slot);
    }
}

/// Frees the slots that nobody holds any more: their processes ended without closing.
pub fn sweep(process: &'static Process) {
    let swept = process.arena.sweep(process.holder(), usize::MAX, |slot| is_held(process, &slot));
    trace::debug(format_args!("slots freed of processes that ended: {swept:?}"));
}

/// Whether the description is open in any process.
pub fn is_anywhere(process: &'static Process, slot: SlotId) -> bool {
    process.arena.slot(slot).is_ok_and(|slot| is_held(process, &slot))
}

/// Whether any process, this one as well, has an FD of the description.
pub fn is_open(process: &Process, slot: &Slot<'_>) -> bool {
    if slot.is_shared().unwrap_or(false) { is_held(process, slot) } else { alone::has_numbers(process, slot) }
}

/// Whether any descriptor of the slot's shadow is open anywhere.
fn is_held(process: &Process, slot: &Slot<'_>) -> bool {
    // When it cannot be known, a leaked slot is better than one that two files share.
    alone::is_with_owner(process, slot)
        || provider(process, slot).map_or(true, |provider| provider.is_held(process, slot))
}

/// The slot whose shadow `fd` is, by what `fstat` says about it.
pub fn slot_behind(process: &Process, fd: RawFd, looked: &Result<sys::stat, Errno>) -> Option<SlotId> {
    match looked {
        Ok(stat) if stat.st_dev == process.folder_device => process.arena.find_by_shadow(stat.st_ino),
        // The root of a module's mount is a directory that can be looked at, by a description of ours or not.
        Ok(stat) if process.table.hidden_by(stat.st_dev, stat.st_ino).is_some() => {
            module::slot_of(process, fd)
        }
        // Nothing else of a module's mount can be looked at.
        Err(Errno::REMOTEIO) => module::slot_of(process, fd),
        Ok(_) | Err(_) => None,
    }
}

/// The file behind `fd`, which is the shadow of `slot`, rebuilt for this process. The caller holds the
/// rebuilding lock.
pub fn rebuild(process: &'static Process, fd: RawFd, slot: SlotId) -> Owner {
    let known = known(process, slot);
    if known.is_none() && is_in_the_making(process, slot) {
        return Owner::Foreign; // Another thread is about to enter it.
    }
    rebuild_as(process, fd, slot, Form::Shadow, known, is_cloexec(fd))
}

/// A file that has the description in `slot` already, by another number.
pub fn known(process: &'static Process, slot: SlotId) -> Option<Ref<'static, OpenFile>> {
    let mut known = None;
    process.files.for_each(|number, other, _| {
        if other.slot == slot {
            known = Some(number);
        }
    });
    process.files.get(known?)
}

/// As [`rebuild`], for a file that came in any form; `known` is one that shares its description.
pub fn rebuild_as(
    process: &'static Process,
    fd: RawFd,
    slot: SlotId,
    form: Form,
    known: Option<Ref<'static, OpenFile>>,
    cloexec: bool,
) -> Owner {
    if interpose::in_vfork_child() {
        // The parent's handle is as good, and its memory is ours.
        if let Some(file) = known {
            return Owner::Served(FileRef::Entered(file));
        }
    }
    let entered = match &known {
        Some(same) => process.files.insert_shared(fd, same, cloexec),
        None => match restored(process, slot, form) {
            Ok(file) if interpose::in_vfork_child() => return Owner::Served(FileRef::Alone(Box::new(file))),
            Ok(file) => process.files.insert(fd, file, cloexec),
            Err(error) => {
                trace::error(format_args!("cannot rebuild the file behind FD {fd}: {error}"));
                return Owner::Foreign;
            }
        },
    };
    if entered.is_err() {
        return Owner::Foreign;
    }
    STATES.set(fd, fdtable::FdState::Served);
    process.serving.store(1, Ordering::Release);
    process.files.get(fd).map_or(Owner::Foreign, |file| Owner::Served(FileRef::Entered(file)))
}

fn restored(process: &'static Process, slot: SlotId, form: Form) -> Result<OpenFile, Errno> {
    if form == Form::Shadow {
        numbers::one_is_made();
    }
    restoring::restore(process, slot, form)
}

/// Whether this process has the description for itself: then its FD stands in the table, or will at once.
fn is_in_the_making(process: &Process, slot: SlotId) -> bool {
    process.arena.slot(slot).is_ok_and(|slot| {
        slot.is_shared().is_ok_and(|shared| !shared) && slot.owner().is_ok_and(|owner| owner == process.me())
    })
}

fn is_cloexec(fd: RawFd) -> bool {
    let flags = native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0]);
    flags & i64::from(sys::FD_CLOEXEC) != 0
}
