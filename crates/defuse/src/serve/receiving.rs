//! FDs that come from other processes. Their numbers may have meant something else before, and the file behind may be
//! served by whoever it comes from: they are looked at anew when they are used.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::FdState;
use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use super::descriptors::duplicate;
use super::peers::Name;
use super::sockets::{self, ADDRESS_MAX};
use super::{Reply, Served, control, last_numbers, locks};
use crate::file::OpenFile;
use crate::parcel::{self, DESCRIPTORS_MAX};
use crate::process::{Process, STATES};
use crate::{fdinfo, locked_inodes, native, restoring, shadow, trace, user};

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

/// Data alone is the kernel's business; a sender may be named on a mount. `messages` says how many there may be in the vector, and how many of them are
/// filled in when the kernel has received as many as it says.
fn receive(process: &'static Process, call: &Call, messages: impl Fn(Option<u64>) -> u64) -> Served {
    let [fd, vector, ..] = call.args;
    if !(0..messages(None)).any(|index| asks_for_more(vector + index * STRIDE)) {
        return Ok(Reply::Pass);
    }
    // A filter of the program's may end it for a call that it does not make itself.
    let restricted = process.restricted.load(Ordering::Relaxed);
    if !restricted && !sockets::is_unix_socket(fd as RawFd) {
        return Ok(Reply::Pass);
    }
    let more = if restricted { 0 } else { MORE };
    let mut rooms = Vec::new();
    for index in 0..messages(None) {
        match Room::of(vector + index * STRIDE, more) {
            Ok(room) => rooms.push(room),
            // Those before can be received.
            Err(_) if index > 0 => break,
            Err(_) => return Ok(Reply::Pass),
        }
    }
    let mut headers: Vec<Header> = rooms.iter_mut().map(Room::header).collect();
    let mut args = call.args;
    args[1] = headers.as_mut_ptr() as u64;
    if call.nr == sys::__NR_recvmmsg {
        args[2] = rooms.len() as u64;
    }
    let wanted = rooms.iter().map(Room::descriptors).sum();
    let few = !restricted && last_numbers::may_be_too_few(process, wanted);
    let carefully = few.then(|| last_numbers::receive(process, call.nr, args)).flatten();
    let (result, limit) = carefully.unwrap_or_else(|| (native::interruptible(call.nr, args), u64::MAX));
    let received = u64::try_from(result).map_or(0, |count| messages(Some(count))) as usize;
    for (room, header) in rooms.iter_mut().zip(&headers).take(received) {
        let is_single = call.nr == sys::__NR_recvmsg;
        room.hand_over(process, header, limit, is_single, !restricted)?;
    }
    Ok(Reply::Value(result))
}

/// A `struct msghdr`, and behind it where a `struct mmsghdr` has the number of bytes received.
type Header = [u64; 8];
/// Bytes by which the kernel gets more room than the program has: the parcel is the last descriptor, also of a message that has no room
/// in the program's buffer.
const MORE: usize = size_of::<RawFd>() * DESCRIPTORS_MAX;
/// More control data than there is in any message of a Unix socket.
const CONTROL_MAX: u64 = 16 * 1024;
/// Bytes of a `struct cmsghdr`.
const CONTROL_HEADER: usize = 16;
const MSG_CTRUNC: u32 = 0x8;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// A message that may be received: the program's `struct msghdr`, and room of ours for control data.
struct Room {
    message: u64,
    header: [u64; 7],
    name: Name,
    control: Vec<u8>,
}

impl Room {
    fn of(message: u64, more: usize) -> Result<Self, Errno> {
        let header = user::read::<[u64; 7]>(message)?;
        let [name, room, _, _, control, length, _] = header;
        if name != 0 && i32::try_from(room as u32).is_err() {
            return Err(Errno::INVAL);
        }
        let length = if control == 0 { 0 } else { length.min(CONTROL_MAX) as usize };
        user::check_writable(control, length)?;
        let more = if length == 0 { 0 } else { more };
        Ok(Self { message, header, name: Name::new(), control: vec![0; length + more] })
    }

    /// For the kernel.
    fn header(&mut self) -> Header {
        let [place, room, vector, count, _, length, flags] = self.header;
        let (name, name_length) =
            if place == 0 { (0, room) } else { (self.name.for_kernel()[0], ADDRESS_MAX as u64) };
        let (control, length) = match self.control.len() {
            0 => (0, length),
            length => (self.control.as_mut_ptr() as u64, length as u64),
        };
        [name, name_length, vector, count, control, length, flags, 0]
    }

    /// How many descriptors a message may bring: those that the program has room for, a parcel, and the sender (`SCM_PIDFD`).
    fn descriptors(&self) -> usize {
        let room = self.header[5].min(CONTROL_MAX) as usize;
        (room.saturating_sub(CONTROL_HEADER) / size_of::<RawFd>()).min(DESCRIPTORS_MAX) + 2
    }

    /// Gives the program what the kernel has received, as said in `header`. Its descriptors are below `limit`.
    fn hand_over(
        &mut self,
        process: &'static Process,
        header: &Header,
        limit: u64,
        single: bool,
        whole: bool,
    ) -> Result<(), Errno> {
        let flags = header[6] as u32;
        let received = self.control.get(..header[5] as usize).unwrap_or_default();
        let room = self.header[5].min(CONTROL_MAX) as usize;
        let fitted = control::fit(received, room, limit, |fd| whole && parcel::is_one(fd));
        fitted.excess.iter().for_each(|&fd| locked_inodes::close_excess(fd));
        if !interpose::in_vfork_child() {
            fitted.fds.iter().for_each(|&fd| arrived(process, fd));
            if let Some(parcel) = fitted.parcel {
                parcel::unpack(process, parcel, &fitted.fds, flags & MSG_CMSG_CLOEXEC != 0);
            }
        }
        if let Some(parcel) = fitted.parcel {
            match fitted.renumbered {
                Some(fd) => renumber(fd, parcel),
                None => native::close(parcel),
            }
        }
        let truncated = if fitted.truncated { MSG_CTRUNC } else { 0 };
        if !fitted.bytes.is_empty() {
            user::write_bytes(self.header[4], &fitted.bytes)?;
        }
        if self.header[0] != 0 {
            self.name.set_length(header[1] as u32);
            let length = self.name.put(process, self.header[0], self.header[1] as u32 as usize)?;
            user::write(self.message + 8, &length)?;
        }
        user::write_bytes(self.message + 40, &fitted.bytes.len().to_ne_bytes())?;
        user::write_bytes(self.message + 48, &(flags | truncated).to_ne_bytes())?;
        if !single {
            user::write_bytes(self.message + 56, &header[7].to_ne_bytes()[..4])?;
        }
        Ok(())
    }
}

/// Gives what is `fd`, and is closed by exec, the number `to` instead.
fn renumber(fd: RawFd, to: RawFd) {
    native::raw_call(sys::__NR_dup3, [fd as u64, to as u64, sys::O_CLOEXEC.into(), 0, 0, 0]);
    native::close(fd);
}

/// Whether a `struct msghdr` names room for control data, or for the sender's name.
fn asks_for_more(message: u64) -> bool {
    user::read::<[u64; 7]>(message)
        .is_ok_and(|[name, _, _, _, control, length, _]| name != 0 || control != 0 && length != 0)
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

/// The process of a pidfd.
fn pid_of(pidfd: RawFd) -> Option<u32> {
    fdinfo::field("self", pidfd, "Pid:")?.parse().ok()
}

/// `fd` is new here, and nothing is known about it.
fn arrived(process: &'static Process, fd: RawFd) {
    STATES.forget(fd);
    // Closed unseen, or it would not be new.
    if let Some(file) = process.files.remove(fd) {
        locks::closed_unseen(process, file);
    }
    process.serving.store(1, Ordering::Release);
}
