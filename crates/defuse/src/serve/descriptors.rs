//! Calls on FDs themselves: close, dup, fcntl.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::{FdState, Ref, Released};
use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::lingering::Lingering;
use super::open::STATUS;
use super::{DONE, Reply, Served, locks, namespaces, native_locks};
use crate::carried;
use crate::file::{self, FileRef, OpenFile};
use crate::process::{EXCHANGES, Process, STATES};
use crate::sync::Guard;
use crate::vfork::{self, LeftOpen};
use crate::{common, lock_files, locked_inodes, native, paging, private_fd, restoring, shadow, trace};

/// linux/close_range.h
const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

pub fn close(process: &'static Process, call: &Call) -> Served {
    let fd = call.args[0] as RawFd;
    if private_fd::is_hidden(fd) {
        return Err(Errno::BADF);
    }
    if interpose::in_vfork_child() {
        return Ok(Reply::Pass);
    }
    // With a table in common the number may be another file's by now, or nobody's.
    let known = process.files.get(fd).is_some();
    if known && process.common.table() && file::served(process, fd).is_none() {
        return Ok(Reply::Pass);
    }
    if !known {
        if carried::close(process, fd) {
            return Ok(Reply::Value(0));
        }
        // A shadow that this image has never touched may have kept descriptors, which go with it.
        if STATES.get(fd) != FdState::Unknown || file::served(process, fd).is_none() {
            STATES.forget(fd);
            let threaded = process.threaded.load(Ordering::Relaxed);
            if threaded && native::fstat(fd).is_err_and(|error| error == Errno::BADF) {
                // By the time of the call it may be something of ours, which another thread has there for a moment.
                return Err(Errno::BADF);
            }
            return Ok(Reply::Pass);
        }
    }
    let flushed = give_up(process, fd, true);
    flushed.map(|()| Reply::Value(0))
}

/// Closes the FD `fd`, which is served: takes it from the table and from the kernel.
pub fn give_up(process: &'static Process, fd: RawFd, flush: bool) -> Result<(), Errno> {
    let together = loop {
        let left = left_to_vfork_children(process, fd);
        let together = process.descriptors.lock();
        let Some(file) = process.files.get(fd) else { break together };
        if is_last_shadow(&file) {
            shadow::numbers::enter_all(process, Some(file.slot));
        }
        let last = Ref::fds(&file) == 1;
        if leave_to_vfork_children(&file, last, left) {
            shadow::vacate(process, &file, fd, last, false)?;
            break together;
        }
    };
    STATES.forget(fd);
    let Some(released) = process.files.remove(fd) else { return Ok(()) };
    shadow::forget_number(process, &released, fd);
    // The plugin's own descriptor is closed by the plugin, with the handle.
    if released.form() != shadow::Form::Backing(fd) {
        native::close(fd);
    }
    drop(together);
    let flushed = if flush { finish(process, &released) } else { Ok(()) };
    drop(released);
    flushed
}

/// Whether the table has one number of the file, and others may have come with it.
fn is_last_shadow(file: &Ref<'_, OpenFile>) -> bool {
    Ref::fds(file) == 1 && file.form() == shadow::Form::Shadow
}

/// What vfork children need of the file behind `fd`, which is about to be closed, if there are any. Plugins are asked under no lock: they may allocate, and a
/// fork has malloc's locks when it waits for ours.
fn left_to_vfork_children(process: &'static Process, fd: RawFd) -> Option<LeftOpen> {
    let file =
        process.files.get(fd).filter(|file| file.form() == shadow::Form::Shadow && Ref::fds(file) == 1)?;
    if !vfork::any_has_own_table() {
        return None;
    }
    let fds = restoring::save(&file).unwrap_or_else(|error| {
        trace::debug(format_args!("a vfork child has a file by its path only: {error}"));
        Vec::new()
    });
    Some(LeftOpen { slot: file.slot, fds, companion: lock_files::companion_of(&file) })
}

/// An FD of this file is about to be closed, the last one or not: vfork children that are now keep theirs, and exec with them. The caller holds
/// `Process::descriptors`. False if it has to be found out first what is `left`.
fn leave_to_vfork_children(file: &OpenFile, last: bool, left: Option<LeftOpen>) -> bool {
    // What is no shadow was opened when they were there already.
    if file.form() != shadow::Form::Shadow {
        return true;
    }
    if !last {
        vfork::closes_on_exec(Some(file.slot));
        return true;
    }
    if !vfork::any_has_own_table() {
        return true;
    }
    let left = left.filter(|left| left.slot == file.slot);
    left.map(|left| vfork::leave_open(&left)).is_some()
}

/// What closing an FD means for the file, whether or not it is the last one.
pub fn finish(process: &Process, file: &Released<OpenFile>) -> Result<(), Errno> {
    locks::drop_record_locks(process, file);
    match file.with_handle(plugin_abi::Instance::flush) {
        Ok(()) | Err(Errno::INTR) => file.take_error(),
        other => other,
    }
}

pub fn close_range(process: &'static Process, call: &Call) -> Served {
    let [first, last, flags, ..] = call.args;
    let (first, last, flags) = (first as u32, last as u32, flags as u32);
    if first > last || flags & !(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE) != 0 {
        return Ok(Reply::Pass);
    }
    // As unshare(2).
    if flags & CLOSE_RANGE_UNSHARE != 0
        && !interpose::in_vfork_child()
        && process.threaded.load(Ordering::Relaxed)
        && (process.restricted.load(Ordering::Relaxed) || namespaces::has_threads())
    {
        return Err(Errno::INVAL);
    }
    let cloexec_only = flags & CLOSE_RANGE_CLOEXEC != 0;
    let (mut together, mut lingering) = (None, Lingering::default());
    if !interpose::in_vfork_child() {
        process.carried.settle(process);
        if flags & CLOSE_RANGE_UNSHARE != 0 {
            common::own_table(process);
        }
        if cloexec_only {
            together = Some(process.descriptors.lock());
            vfork::closes_on_exec(None);
            process.files.cloexec_range(first, last);
        } else {
            lingering = Lingering::among(process, first, last);
            together = Some(give_up_range(process, first, last));
            STATES.forget_range(first, last);
        }
    }
    let mut result = 0;
    let mut close = |from: u32, to: u32| {
        let args = [u64::from(from), u64::from(to), u64::from(flags), 0, 0, 0];
        let closed = native::raw_call(sys::__NR_close_range, args);
        if closed < 0 {
            result = closed;
        }
    };
    locked_inodes::ranges_without(first, last, |from, to| private_fd::ranges_without(from, to, &mut close));
    drop(together);
    drop(lingering);
    Ok(Reply::Value(result))
}

/// Gives up every served FD from `first` to `last`, also those that the table learns of when others are given up. Until the lock is given back no other comes
/// there.
fn give_up_range(process: &'static Process, first: u32, last: u32) -> Guard<'static, ()> {
    let mut stay = Vec::new();
    loop {
        let together = process.descriptors.lock();
        shadow::numbers::enter_all(process, None);
        let mut served = Vec::new();
        process.files.for_each(|fd, _, _| {
            if (first..=last).contains(&(fd as u32)) && !stay.contains(&fd) {
                served.push(fd);
            }
        });
        if served.is_empty() {
            return together;
        }
        drop(together);
        for fd in served {
            // close_range(2) ignores the errors of single FDs.
            if give_up(process, fd, true).is_err() && process.files.get(fd).is_some() {
                stay.push(fd);
            }
        }
    }
}

pub fn dup(process: &'static Process, call: &Call) -> Served {
    duplicate(process, call, call.args[0] as RawFd, false)
}

/// dup(2), `F_DUPFD` and pidfd_getfd(2) of this very process: the kernel chooses the number.
pub fn duplicate(process: &'static Process, call: &Call, from: RawFd, cloexec: bool) -> Served {
    if private_fd::is_hidden(from) {
        return Err(Errno::BADF);
    }
    if interpose::in_vfork_child() {
        return duplicate_in_vfork_child(process, call);
    }
    look_at(process, from);
    let together = process.descriptors.lock();
    let owner = entered(process, from);
    let to = native::call(call);
    if to < 0 {
        return Ok(Reply::Value(to));
    }
    let to = process.check_limit(to as RawFd)?;
    let mut replaced = None;
    match owner {
        Some(file) => {
            replaced = enter_duplicate(process, &file, to, cloexec)?;
        }
        // What was known of the former holder of the number was forgotten when that was closed.
        None => STATES.set(to, STATES.get(from)),
    }
    drop(together);
    if let Some(file) = replaced {
        locks::closed_unseen(process, file);
    }
    Ok(Reply::Value(to.into()))
}

/// A vfork child has no table to enter the copy in, and takes no lock of its parent's, which would be left held if it were killed.
fn duplicate_in_vfork_child(process: &'static Process, call: &Call) -> Served {
    let to = native::call(call);
    if to < 0 {
        return Ok(Reply::Value(to));
    }
    let to = process.check_limit(to as RawFd)?;
    hand_on_in_vfork_child(process, to);
    // What the parent knew of the number is not so here; it will look again.
    STATES.forget(to);
    Ok(Reply::Value(to.into()))
}

/// A vfork child may have `fd` open when it execs, whatever its parent's table says of the file.
fn hand_on_in_vfork_child(process: &Process, fd: RawFd) {
    if !process.files.is_empty()
        && let Some(slot) = shadow::slot_behind(process, fd, &native::fstat(fd))
    {
        vfork::children().hand_on(slot);
    }
}

/// Has `fd` in the table if it is ours, before the lock is taken.
fn look_at(process: &'static Process, fd: RawFd) {
    let _ = file::owner(process, fd);
}

/// The served file behind `fd`, which was looked at. The caller holds `Process::descriptors`: another thread may have given the number to something else
/// before.
fn entered(process: &'static Process, fd: RawFd) -> Option<FileRef> {
    process.files.get(fd).map(FileRef::Entered)
}

/// Enters `to` as one more FD of `file`; the caller has duplicated it in the kernel. Returns what the table held there.
fn enter_duplicate(
    process: &'static Process,
    file: &FileRef,
    to: RawFd,
    cloexec: bool,
) -> Result<Option<Released<OpenFile>>, Errno> {
    let FileRef::Entered(file) = file else { return Err(Errno::BADF) };
    let replaced = process.files.insert_shared(to, file, cloexec).map_err(|_| Errno::BADF)?;
    shadow::note_number(process, file, to)?;
    STATES.set(to, FdState::Served);
    Ok(replaced)
}

pub fn dup2(process: &'static Process, call: &Call) -> Served {
    duplicate_onto(process, call, false)
}

pub fn dup3(process: &'static Process, call: &Call) -> Served {
    if call.args[2] as u32 & !sys::O_CLOEXEC != 0 {
        return Ok(Reply::Pass); // Neither FD is looked at.
    }
    duplicate_onto(process, call, call.args[2] as u32 & sys::O_CLOEXEC != 0)
}

fn duplicate_onto(process: &'static Process, call: &Call, cloexec: bool) -> Served {
    let (from, to) = (call.args[0] as RawFd, call.args[1] as RawFd);
    if private_fd::is_hidden(from) || private_fd::is_private(to) {
        return Err(Errno::BADF);
    }
    if to as u64 >= process.fd_limit() && to >= 0 {
        return Err(Errno::BADF);
    }
    if interpose::in_vfork_child() {
        hand_on_in_vfork_child(process, from);
        // What the parent knew of the number is not so here; it will look again.
        STATES.forget(to);
        return Ok(Reply::Pass);
    }
    if from == to {
        return Ok(Reply::Pass);
    }
    look_at(process, from);
    look_at(process, to);
    // dup2 closes nothing if there is nothing to duplicate.
    let closes = process.threaded.load(Ordering::Relaxed) && is_open(from);
    let lingering =
        if closes { Lingering::among(process, to as u32, to as u32) } else { Lingering::default() };
    let (together, source, target) = loop {
        let left = left_to_vfork_children(process, to);
        let together = process.descriptors.lock();
        let (source, target) = (entered(process, from), entered(process, to));
        if let Some(FileRef::Entered(target)) = &target
            && is_last_shadow(target)
        {
            shadow::numbers::enter_all(process, Some(target.slot));
        }
        let known = |target: &FileRef| leave_to_vfork_children(target, target.fds() == 1, left);
        if target.as_ref().is_none_or(known) {
            break (together, source, target);
        }
    };
    if source.is_none() && target.is_none() {
        STATES.forget(to);
        let result = native::call(call);
        if result >= 0 {
            locked_inodes::give_number(to);
            STATES.learn(to, STATES.get(from));
        }
        drop(together);
        drop(lingering);
        return Ok(Reply::Value(result));
    }
    if let Some(target) = &target {
        if !is_open(from) {
            return Err(Errno::BADF);
        }
        shadow::vacate(process, target, to, false, true)?;
    }
    drop(target);
    STATES.forget(to);
    if source.is_some() {
        // Who takes the number for one of the kernel's, and finds nothing there, looks again.
        EXCHANGES.fetch_add(2, Ordering::SeqCst);
    }
    let result = native::call(call);
    if result < 0 {
        return Ok(Reply::Value(result));
    }
    locked_inodes::give_number(to);
    let replaced = if let Some(source) = &source {
        enter_duplicate(process, source, to, cloexec)?
    } else {
        let replaced = process.files.remove(to);
        STATES.learn(to, STATES.get(from));
        replaced
    };
    drop(together);
    drop(lingering);
    if let Some(released) = replaced {
        shadow::forget_number(process, &released, to);
        let _ = finish(process, &released);
    }
    Ok(Reply::Value(result))
}

fn is_open(fd: RawFd) -> bool {
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0]) >= 0
}

pub fn fcntl(process: &'static Process, call: &Call) -> Served {
    let [fd, command, argument, ..] = call.args;
    let (fd, command) = (fd as RawFd, command as u32);
    if private_fd::is_hidden(fd) {
        return Err(Errno::BADF);
    }
    if matches!(command, sys::F_DUPFD | sys::F_DUPFD_CLOEXEC) {
        return duplicate(process, call, fd, command == sys::F_DUPFD_CLOEXEC);
    }
    let Some(file) = file::served(process, fd) else { return Ok(Reply::Pass) };
    match command {
        sys::F_GETFD => Ok(Reply::Value(is_cloexec(process, fd).into())),
        sys::F_SETFD => {
            set_cloexec(process, fd, argument as u32 & sys::FD_CLOEXEC != 0);
            DONE
        }
        sys::F_GETFL => {
            let shown = file.open_flags
                & !(sys::O_CLOEXEC | sys::O_CREAT | sys::O_EXCL | sys::O_NOCTTY | sys::O_TRUNC);
            let status = file.shared()?.status_flags() & STATUS;
            let large = if file.open_flags & sys::O_PATH == 0 { sys::O_LARGEFILE } else { 0 };
            Ok(Reply::Value((shown & !STATUS | status | large).into()))
        }
        _ if file.is_place() => Err(Errno::BADF),
        sys::F_SETFL => {
            let (shared, wanted) = (file.shared()?, argument as u32 & STATUS);
            if (wanted ^ shared.status_flags()) & OF_THE_FILE != 0 {
                // The pager writes by the same descriptor, and the last page of a file is seldom a whole one.
                let direct = if paging::key_of(&file)?.is_some() { sys::O_DIRECT } else { 0 };
                set_flags_behind(&file, wanted & OF_THE_FILE & !direct)?;
            }
            shared.set_status_flags(wanted);
            DONE
        }
        sys::F_GETLK
        | sys::F_SETLK
        | sys::F_SETLKW
        | sys::F_OFD_GETLK
        | sys::F_OFD_SETLK
        | sys::F_OFD_SETLKW
            if file.shadows().has_native_locks() =>
        {
            native_locks::record_lock(&file, call)
        }
        sys::F_SETLEASE | sys::F_GETLEASE if file.shadows().has_native_locks() => Ok(Reply::Pass),
        sys::F_GETLK
        | sys::F_SETLK
        | sys::F_SETLKW
        | sys::F_OFD_GETLK
        | sys::F_OFD_SETLK
        | sys::F_OFD_SETLKW => locks::record_lock(process, &file, fd, command, argument),
        sys::F_GETOWN
        | sys::F_SETOWN
        | sys::F_GETOWN_EX
        | sys::F_SETOWN_EX
        | sys::F_GETOWNER_UIDS
        | sys::F_GETSIG
        | sys::F_SETSIG => Ok(Reply::Pass),
        sys::F_GETPIPE_SZ | sys::F_SETPIPE_SZ => Err(Errno::BADF),
        // Seals, hints, leases, notifications: of the file behind, if there is one.
        _ => match file.with_handle(|instance, handle| {
            instance
                .backing_fd(handle, plugin_abi::Purpose::Map)
                .map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd))
        }) {
            Ok(backing) => {
                let mut args = call.args;
                args[0] = backing as u64;
                Ok(Reply::Value(native::raw_call(call.nr, args)))
            }
            // As file systems without leases have it.
            Err(_) if command == sys::F_GETLEASE => Ok(Reply::Value(sys::F_UNLCK.into())),
            Err(_) => Err(Errno::INVAL),
        },
    }
}

/// Status flags that say how the plugin's descriptor reads and writes.
const OF_THE_FILE: u32 = sys::O_DIRECT | sys::O_NOATIME;

/// Sets these flags on the descriptor that the plugin has, if it has one, with what the kernel has against it: a transfer that is not
/// aligned fails as long as that has `O_DIRECT`.
fn set_flags_behind(file: &FileRef, wanted: u32) -> Result<(), Errno> {
    file.with_handle(|instance, handle| {
        let Ok(fd) = instance.backing_fd(handle, plugin_abi::Purpose::Flags) else { return Ok(Ok(())) };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&fd) as u64;
        let set = || {
            let now = native::checked(sys::__NR_fcntl, [fd, sys::F_GETFL.into(), 0, 0, 0, 0])?;
            let flags = now & !u64::from(OF_THE_FILE) | u64::from(wanted);
            native::checked(sys::__NR_fcntl, [fd, sys::F_SETFL.into(), flags, 0, 0, 0]).map(drop)
        };
        Ok(set())
    })?
}

/// Whether exec closes `fd`; for a served FD the table says so, as a descriptor of a plugin that stands there is always closed.
pub fn is_cloexec(process: &'static Process, fd: RawFd) -> bool {
    match process.files.cloexec(fd) {
        Some(cloexec) if !interpose::in_vfork_child() && !process.common.table() => cloexec,
        _ => {
            let flags = native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0]);
            flags & i64::from(sys::FD_CLOEXEC) != 0
        }
    }
}

/// Sets the close-on-exec flag of a served FD, in the table and in the kernel.
pub fn set_cloexec(process: &'static Process, fd: RawFd, cloexec: bool) {
    let mut together = None;
    if interpose::in_vfork_child() {
        hand_on_in_vfork_child(process, fd);
    } else {
        together = Some(process.descriptors.lock());
        if cloexec {
            vfork::closes_on_exec(process.files.get(fd).map(|file| file.slot));
        }
        process.files.set_cloexec(fd, cloexec);
    }
    let flags = u64::from(if cloexec { sys::FD_CLOEXEC } else { 0 });
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), flags, 0, 0, 0]);
    drop(together);
}
