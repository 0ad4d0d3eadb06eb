//! FDs that come from other processes. Their numbers may have meant something else before, and the file behind may be
//! served by whoever it comes from: they are looked at anew when they are used.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::FdState;
use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use super::descriptors::{duplicate, for_each_passed};
use super::{Reply, Served};
use crate::file::OpenFile;
use crate::process::{Process, STATES};
use crate::{native, restoring, shadow, trace, user};

/// `UIO_MAXIOV`: the kernel takes no more messages at once.
const MESSAGES_MAX: u64 = 1024;
/// Bytes of a `struct mmsghdr`.
const STRIDE: u64 = 64;

pub fn recvmsg(process: &'static Process, call: &Call) -> Served {
    receive(process, call, |_| 1)
}

pub fn recvmmsg(process: &'static Process, call: &Call) -> Served {
    let wanted = u64::from(call.args[2] as u32).min(MESSAGES_MAX);
    receive(process, call, |received| received.map_or(wanted, |count| wanted.min(count)))
}

/// Data alone is the kernel's business. `messages` says how many there may be in the vector, and how many of them are
/// filled in when the kernel has received as many as it says.
fn receive(process: &'static Process, call: &Call, messages: impl Fn(Option<u64>) -> u64) -> Served {
    let vector = call.args[1];
    if interpose::in_vfork_child() || !(0..messages(None)).any(|index| has_control(vector + index * STRIDE)) {
        return Ok(Reply::Pass);
    }
    let result = native::interruptible(call.nr, call.args);
    for index in 0..u64::try_from(result).map_or(0, |count| messages(Some(count))) {
        let Ok([_, _, _, _, control, length, _]) = user::read::<[u64; 7]>(vector + index * STRIDE) else {
            break;
        };
        // What cannot be read has not been received either.
        let _ = for_each_passed(control, length, |fd| {
            arrived(process, fd);
            Ok(())
        });
    }
    Ok(Reply::Value(result))
}

/// Whether a `struct msghdr` names room for control data.
fn has_control(message: u64) -> bool {
    user::read::<[u64; 7]>(message).is_ok_and(|[_, _, _, _, control, length, _]| control != 0 && length != 0)
}

pub fn pidfd_getfd(process: &'static Process, call: &Call) -> Served {
    let wanted = call.args[1] as RawFd;
    let pid = pid_of(call.args[0] as RawFd);
    if pid.is_some_and(|pid| i64::from(pid) == native::raw_call(sys::__NR_getpid, [0; 6])) {
        return duplicate(process, call, wanted, true);
    }
    let result = native::call(call);
    if result < 0 {
        return Ok(Reply::Value(result));
    }
    let fd = result as RawFd;
    // The other process does not know that it shares the file now, so what was taken may be no shadow.
    if let Some(slot) = pid.and_then(|pid| shadow::alone_in(process, pid, wanted)) {
        let file = made_of(process, slot, fd);
        if let Err(error) = shadow::place_shared(process, slot, fd) {
            native::close(fd);
            return Err(error);
        }
        if !interpose::in_vfork_child() {
            arrived(process, fd);
        }
        if let Some(file) = file {
            let _together = process.descriptors.lock();
            process.files.insert(fd, file, true).map_err(|_| Errno::NOMEM)?;
            STATES.set(fd, FdState::Served);
        }
    } else if !interpose::in_vfork_child() {
        arrived(process, fd);
    }
    Ok(Reply::Value(result))
}

/// The file in `slot`, if it is new to this process and `fd` is the descriptor of its plugin that another process has as its own: the path
/// need not lead to it any more.
fn made_of(process: &'static Process, slot: SlotId, fd: RawFd) -> Option<OpenFile> {
    let known =
        interpose::in_vfork_child() || process.common.table() || shadow::known(process, slot).is_some();
    if known || !shadow::is_adopted(process, fd) {
        return None;
    }
    let made = restoring::restore_from(process, slot, fd);
    made.inspect_err(|error| trace::debug(format_args!("FD {fd} of another process: {error}"))).ok()
}

/// The process of a pidfd, as `/proc/self/fdinfo` tells it.
fn pid_of(pidfd: RawFd) -> Option<u32> {
    let name = format!("/proc/self/fdinfo/{pidfd}\0");
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC);
    let fd = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags, 0, 0, 0, 0]).ok()?;
    let mut text = [0u8; 512];
    let read =
        native::checked(sys::__NR_read, [fd as u64, text.as_mut_ptr() as u64, text.len() as u64, 0, 0, 0]);
    native::close(fd);
    let text = std::str::from_utf8(&text[..read.ok()? as usize]).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// `fd` is new here, and nothing is known about it.
fn arrived(process: &'static Process, fd: RawFd) {
    STATES.forget(fd);
    // Closed unseen, or it would not be new.
    drop(process.files.remove(fd));
    process.serving.store(1, Ordering::Release);
}
