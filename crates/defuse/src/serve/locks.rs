//! Record locks and flock: kept by the plugin, or, if it keeps none, by [`lock_files`].

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use fdtable::{Ref, Released};
use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::flock as RecordLock;
use rustix::io::Errno;

use super::{DONE, Reply, Served};
use crate::file::{self, FileRef, OpenFile};
use crate::process::Process;
use crate::{lock_files, native, thread, user};

/// This process has set a record lock on some served file: only then closing has to drop any.
static USED: AtomicBool = AtomicBool::new(false);

/// Whether this process has used record locks.
pub fn used() -> bool {
    USED.load(Ordering::Acquire)
}

/// The previous image of this process has used them.
pub fn set_used() {
    USED.store(true, Ordering::Release);
}

/// fcntl(2)'s lock commands, POSIX and OFD.
pub fn record_lock(
    process: &'static Process,
    file: &FileRef,
    fd: RawFd,
    command: u32,
    address: u64,
) -> Served {
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    let asked = user::read::<RecordLock>(address)?;
    let mut lock = asked;
    let asks_only = matches!(command, sys::F_GETLK | sys::F_OFD_GETLK);
    match lock.l_type as u32 {
        sys::F_RDLCK if !asks_only && !file.readable() => return Err(Errno::BADF),
        sys::F_WRLCK if !asks_only && !file.writable() => return Err(Errno::BADF),
        sys::F_RDLCK | sys::F_WRLCK => {}
        sys::F_UNLCK if !asks_only || command == sys::F_OFD_GETLK => {}
        _ => return Err(Errno::INVAL),
    }
    // The offset is ours, so what is relative to it must be made absolute.
    let base = match lock.l_whence as u32 {
        sys::SEEK_SET => 0,
        sys::SEEK_CUR => super::transfer::lock_offset(file)?.slot().offset(),
        sys::SEEK_END => super::transfer::size_of_file(file)?,
        _ => return Err(Errno::INVAL),
    };
    lock.l_start = lock.l_start.checked_add(base).ok_or(Errno::OVERFLOW)?;
    lock.l_whence = sys::SEEK_SET as _;
    let by_session = lock_files::keeps_records(process, file);
    let area = lock;
    if by_session {
        set_by_session(process, file, command, &mut lock)?;
    } else {
        set_by_plugin(process, file, command, &mut lock)?;
    }
    let sets = matches!(command, sys::F_SETLK | sys::F_SETLKW) && lock.l_type as u32 != sys::F_UNLCK;
    if sets && is_closed(process, file, fd) {
        // Closed while this thread waited: the close came too early to drop the lock. As the kernel does.
        let mut unlocked = RecordLock { l_type: sys::F_UNLCK as _, ..area };
        if by_session {
            set_by_session(process, file, sys::F_SETLK, &mut unlocked)?;
        } else {
            set_by_plugin(process, file, sys::F_SETLK, &mut unlocked)?;
        }
        return Err(Errno::BADF);
    }
    if asks_only {
        if lock.l_type as u32 == sys::F_UNLCK {
            lock = RecordLock { l_type: sys::F_UNLCK as _, ..asked };
        }
        user::write(address, &lock)?;
    }
    DONE
}

fn set_by_plugin(
    process: &'static Process,
    file: &OpenFile,
    command: u32,
    lock: &mut RecordLock,
) -> Result<(), Errno> {
    // (A vfork child's locks are its own, and its parent has no file of another form.)
    if (command == sys::F_SETLK || command == sys::F_SETLKW) && !interpose::in_vfork_child() {
        // A descriptor of the file that is closed when its number changes would take the locks with it: from now on the
        // plugin's descriptors keep their numbers.
        if !USED.swap(true, Ordering::AcqRel) {
            crate::shadow::separate_all(process)?;
        }
    }
    thread::locking(|| file.with_handle(|instance, handle| instance.lock(handle, command as i32, lock)))
}

fn set_by_session(
    process: &'static Process,
    file: &FileRef,
    command: u32,
    lock: &mut RecordLock,
) -> Result<(), Errno> {
    let argument = std::ptr::from_mut(lock) as u64;
    let call = |fd: RawFd| {
        let args = [fd as u64, u64::from(command), argument, 0, 0, 0];
        native::checked_interruptible(sys::__NR_fcntl, args).map(drop)
    };
    if !matches!(command, sys::F_GETLK | sys::F_SETLK | sys::F_SETLKW) {
        return call(lock_files::companion(process, file)?);
    }
    let sets = command != sys::F_GETLK && lock.l_type as u32 != sys::F_UNLCK;
    lock_files::with_records(process, file, sets, call)
}

/// Whether `fd` is not the file's any more.
fn is_closed(process: &Process, file: &FileRef, fd: RawFd) -> bool {
    let is_it = |now: Ref<'_, OpenFile>| now.slot == file.slot;
    // (A vfork child has FDs of its own and its parent's table.)
    matches!(file, FileRef::Entered(_))
        && !interpose::in_vfork_child()
        && !process.files.get(fd).is_some_and(is_it)
}

/// A process that closes any FD of a file loses its record locks on it (fcntl(2)).
pub fn drop_record_locks(process: &Process, file: &OpenFile) {
    if file.open_flags & sys::O_PATH != 0 || file.shadows().has_native_locks() {
        return;
    }
    lock_files::drop_records(process, file);
    if USED.load(Ordering::Relaxed) {
        // No lock, or no such thing as locks: both are what was wanted.
        let _ = file.with_handle(|instance, handle| {
            let mut everything = lock_files::whole_file(sys::F_UNLCK);
            thread::locking(|| instance.lock(handle, sys::F_SETLK as i32, &mut everything))
        });
    }
}

/// An FD of this file was closed, and we have only seen that it is not there any more.
pub fn closed_unseen(process: &Process, file: Released<OpenFile>) {
    drop_record_locks(process, &file);
    drop(file);
}

pub fn flock(process: &'static Process, call: &Call) -> Served {
    let [fd, operation, ..] = call.args;
    let Some(file) = file::served(process, fd as RawFd) else { return Ok(Reply::Pass) };
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if !matches!(operation as u32 & !sys::LOCK_NB, sys::LOCK_SH | sys::LOCK_EX | sys::LOCK_UN) {
        return Err(Errno::INVAL);
    }
    if file.shadows().has_native_locks() {
        return Ok(Reply::Pass);
    }
    if lock_files::keeps_whole(process, &file) {
        let companion = lock_files::companion(process, &file)? as u64;
        native::checked_interruptible(sys::__NR_flock, [companion, operation, 0, 0, 0, 0])?;
    } else {
        file.with_handle(|instance, handle| instance.flock(handle, operation as i32))?;
    }
    DONE
}
