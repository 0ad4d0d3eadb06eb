//! What stands in the kernel's FD table for a served file (the tmpfs provider).
//!
//! A file that only this process has is a *placeholder*: one more descriptor of an empty directory, a plain dup and
//! therefore cheap; or, cheaper still, the very descriptor that the plugin opened, if it can let go of the number. Before anybody else can get hold of it (fork, exec, FD passing) it becomes a *shadow*: a directory
//! of its own in the session's folder, whose inode number names the slot of the arena that describes the
//! file. Both are directories opened for reading, so that a process that is not intercepted gets EISDIR, EBADF or
//! ENODEV from every attempt to use them as a file. The shadow of a directory is the other way round a file opened for
//! writing, in which nothing can be listed, found or made.
//!
//! A shadow carries an open-file-description lock on its object. The kernel keeps it over fork and passing
//! and drops it with the last descriptor anywhere, so it tells whether a slot is still in use when
//! processes were killed.

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use arrayvec::ArrayVec;
use fdtable::Ref;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use crate::file::{FileRef, OpenFile, Owner, stash_errno};
use crate::process::{Process, STATES};
use crate::{handover, lock_files, native, nofile, private_fd, trace};

/// What stands at the FD numbers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A duplicate of the common placeholder.
    Placeholder,
    /// The description's own directory.
    Shadow,
    /// The plugin's own descriptor of the file: this number, and duplicates of it.
    Backing(RawFd),
}

/// The private descriptor that placeholders are duplicates of; -1 until the first.
static PLACEHOLDER: AtomicI32 = AtomicI32::new(-1);

/// Gives the program an FD number for the file in `slot`, the lowest free one, and says in which form.
pub fn place(process: &'static Process, slot: SlotId, cloexec: bool) -> Result<(RawFd, Form), Errno> {
    if interpose::in_vfork_child() {
        let fd = open_shadow(process, slot, cloexec)?;
        return Ok((process.check_limit(fd)?, Form::Shadow));
    }
    let command = u64::from(if cloexec { sys::F_DUPFD_CLOEXEC } else { sys::F_DUPFD });
    let duplicate = |of: RawFd| native::checked(sys::__NR_fcntl, [of as u64, command, 0, 0, 0, 0]);
    let fd = match duplicate(PLACEHOLDER.load(Ordering::Relaxed)) {
        // None yet, or a program that is not fully intercepted closed it.
        Err(Errno::BADF) => duplicate(open_placeholder(process)?)?,
        other => other?,
    };
    Ok((process.check_limit(fd as RawFd)?, Form::Placeholder))
}

/// Makes `file` a shadow if it is not one: from here on other processes may get it.
pub fn separate(process: &'static Process, file: &OpenFile) -> Result<(), Errno> {
    let _one_at_a_time = process.rebuilding.lock();
    if file.form() == Form::Shadow {
        return Ok(());
    }
    lock_files::share(process, file);
    let kind = u64::from(file.kind()?);
    file.shared()?.user_words()[KIND].store(kind, Ordering::Relaxed);
    let shadow = open_shadow(process, file.slot, true)?;
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
    process.files.for_each(|fd, other, cloexec| {
        if other.slot == file.slot {
            result = result.and(replace(process, shadow, fd, cloexec));
        }
    });
    native::close(shadow);
    file.set_form(Form::Shadow);
    result
}

/// Makes every file a shadow: before fork and exec.
pub fn separate_all(process: &'static Process) -> Result<(), Errno> {
    process.carried.settle(process);
    let mut result = Ok(());
    process.files.for_each(|_, file, _| {
        if file.form() != Form::Shadow {
            result = result.and(separate(process, file));
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

/// The common placeholder; opens it if there is none.
pub fn placeholder(process: &Process) -> Result<RawFd, Errno> {
    match PLACEHOLDER.load(Ordering::Relaxed) {
        -1 => open_placeholder(process),
        fd => Ok(fd),
    }
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

/// Somebody else has used our FD table: forgets what is not so any more.
pub fn believe_the_kernel(process: &'static Process) {
    let _together = process.descriptors.lock();
    let mut gone = Vec::new();
    process.files.for_each(|fd, file, _| {
        let now = crate::file::identity(fd).filter(|(_, device, _)| *device == process.folder_device);
        if now.and_then(|(_, _, inode)| process.arena.find_by_shadow(inode)) != Some(file.slot) {
            gone.push(fd);
        }
    });
    for fd in gone {
        drop(process.files.remove(fd));
    }
    STATES.forget_range(0, u32::MAX);
}

/// This process has no more use for the slot; frees it unless somebody else has.
pub fn let_go(process: &'static Process, slot: SlotId) {
    let Ok(shared) = process.arena.slot(slot) else { return };
    let held = || process.restricted.load(Ordering::Relaxed) || held_anywhere(process, slot);
    if !shared.is_shared().unwrap_or(true) || !held() {
        // Somebody else may have found it unused at the same time.
        let _ = process.arena.free_slot(process.me(), slot);
    }
}

/// Frees the slots that nobody holds any more: their processes ended without closing.
pub fn sweep(process: &'static Process) {
    let swept = process.arena.sweep(process.holder(), usize::MAX, |slot| held_anywhere(process, slot.id()));
    trace::debug(format_args!("slots freed of processes that ended: {swept:?}"));
}

/// The file behind `fd`, which is the shadow of `slot`, rebuilt for this process. The caller holds the
/// rebuilding lock.
pub fn rebuild(process: &'static Process, fd: RawFd, slot: SlotId) -> Owner {
    rebuild_as(process, fd, slot, Form::Shadow, known(process, slot), is_cloexec(fd))
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
        None => match handover::restore(process, slot, form) {
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

fn is_cloexec(fd: RawFd) -> bool {
    let flags = native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0]);
    flags & i64::from(sys::FD_CLOEXEC) != 0
}

fn open_placeholder(process: &Process) -> Result<RawFd, Errno> {
    let path = folder_path(process, "null", None);
    let fd = open_directory(&path, true)?;
    let private = private_fd::take(fd)?;
    let former = PLACEHOLDER.swap(private, Ordering::AcqRel);
    if former >= 0 {
        private_fd::forget(former);
    }
    Ok(private)
}

/// Which object in the session's folder stands for a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    /// For a file: an empty directory, opened for reading. Reading it is EISDIR, writing EBADF, mapping ENODEV.
    Directory,
    /// For a directory: an empty file, opened for writing. Listing it, entering it and names relative to it are ENOTDIR.
    File,
}

impl Object {
    /// The one that stands for the description in `slot`.
    fn of(process: &Process, slot: SlotId) -> Result<Self, Errno> {
        let kind = process.arena.slot(slot).map_err(stash_errno)?.user_words()[KIND].load(Ordering::Relaxed);
        Ok(if kind as u32 == sys::S_IFDIR { Self::File } else { Self::Directory })
    }

    fn path(self, process: &Process, slot: SlotId) -> ArrayVec<u8, 4096> {
        match self {
            Self::Directory => folder_path(process, "slots/", Some(slot)),
            Self::File => folder_path(process, "slots/d", Some(slot)),
        }
    }

    fn open(self, path: &ArrayVec<u8, 4096>, cloexec: bool) -> Result<RawFd, Errno> {
        let cloexec = if cloexec { sys::O_CLOEXEC } else { 0 };
        let kind = match self {
            Self::Directory => sys::O_RDONLY | sys::O_DIRECTORY,
            Self::File => sys::O_WRONLY,
        };
        let args = [path.as_ptr() as u64, u64::from(kind | cloexec | sys::O_NOFOLLOW), 0, 0, 0, 0];
        native::new_fd(sys::__NR_open, args)
    }

    fn make(self, path: &ArrayVec<u8, 4096>) -> Result<(), Errno> {
        let name = path.as_ptr() as u64;
        let made = match self {
            Self::Directory => native::checked(sys::__NR_mkdir, [name, 0o700, 0, 0, 0, 0]),
            Self::File => {
                native::checked(sys::__NR_mknod, [name, u64::from(sys::S_IFREG | 0o600), 0, 0, 0, 0])
            }
        };
        match made {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The lock that a description of it may have.
    fn lock(self) -> u32 {
        match self {
            Self::Directory => sys::F_RDLCK,
            Self::File => sys::F_WRLCK,
        }
    }
}

/// The user word of a slot that holds the type of what it has open, as `S_IFMT` bits.
pub const KIND: usize = 1;

/// Opens the slot's own object, making it at the slot's first use, and locks the description.
pub fn open_shadow(process: &Process, slot: SlotId, cloexec: bool) -> Result<RawFd, Errno> {
    let object = Object::of(process, slot)?;
    let path = object.path(process, slot);
    let fd = match object.open(&path, cloexec) {
        Err(Errno::NOENT) => {
            object.make(&path)?;
            object.open(&path, cloexec)?
        }
        other => other?,
    };
    let ready = lock_call(fd, sys::F_OFD_SETLK, object.lock()).and_then(|_| {
        let (_, _, inode) = crate::file::identity(fd).ok_or(Errno::IO)?;
        let shared = process.arena.slot(slot).map_err(stash_errno)?;
        if shared.shadow() != inode {
            shared.set_shadow(inode).map_err(stash_errno)?;
        }
        shared.mark_shared().map_err(stash_errno)
    });
    if let Err(error) = ready {
        native::close(fd);
        return Err(error);
    }
    Ok(fd)
}

fn open_directory(path: &ArrayVec<u8, 4096>, cloexec: bool) -> Result<RawFd, Errno> {
    Object::Directory.open(path, cloexec)
}

/// Whether any descriptor of the slot's object is open anywhere: then its lock forbids a write lock.
fn held_anywhere(process: &Process, slot: SlotId) -> bool {
    // When it cannot be known, a leaked slot is better than one that two files share.
    let Ok(object) = Object::of(process, slot) else { return true };
    let fd = match object.open(&object.path(process, slot), true) {
        Ok(fd) => fd,
        Err(error) => return error != Errno::NOENT,
    };
    let found = lock_call(fd, sys::F_OFD_GETLK, sys::F_WRLCK);
    native::close(fd);
    !matches!(found, Ok(kind) if kind == sys::F_UNLCK)
}

fn lock_call(fd: RawFd, command: u32, kind: u32) -> Result<u32, Errno> {
    let mut lock =
        sys::flock { l_type: kind as _, l_whence: sys::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    let lock_pointer = (&raw mut lock) as u64;
    native::checked(sys::__NR_fcntl, [fd as u64, u64::from(command), lock_pointer, 0, 0, 0])?;
    Ok(lock.l_type as u32)
}

/// `<folder>/<below>`, or `<shared folder>/<below><slot index>`, with its NUL.
fn folder_path(process: &Process, below: &str, slot: Option<SlotId>) -> ArrayVec<u8, 4096> {
    let mut path = ArrayVec::new();
    // The folder's path is short (checked when the session was opened), so this cannot fail.
    let _ = path.write_all(if slot.is_some() { &process.shared_folder } else { &process.folder });
    let _ = write!(path, "/{below}");
    if let Some(slot) = slot {
        let _ = write!(path, "{}", slot.index);
        let user = native::raw_call(sys::__NR_geteuid, [0; 6]);
        if user != i64::from(process.owner) {
            // Objects of the session's owner cannot be opened by others: a process that is somebody else now has its own.
            let _ = write!(path, "-{user}");
        }
    }
    let _ = path.write_all(b"\0");
    path
}
