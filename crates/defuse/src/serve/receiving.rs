//! FDs that come from other processes. Their numbers may have meant something else before, and the file behind may be
//! served by whoever it comes from: they are looked at anew when they are used.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::{FdState, Released};
use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use super::control::Fitted;
use super::descriptors::{self, duplicate};
use super::peers::Name;
use super::reserved::Reserved;
use super::sockets::{self, ADDRESS_MAX};
use super::{Reply, Served, control, last_numbers, locks, together};
use crate::file::OpenFile;
use crate::parcel::{self, Content, DESCRIPTORS_MAX, Entered};
use crate::process::{Process, STATES};
use crate::{fdinfo, lending, locked_inodes, native, restoring, shadow, trace, user};

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
            Ok(room) if index == 0 || room.has_place_for_name() => rooms.push(room),
            // Those before can be received.
            _ if index > 0 => break,
            _ => return Ok(Reply::Pass),
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
    let (result, limit, together) = match carefully {
        Some((result, limit)) => (result, limit, None),
        None if restricted || !process.threaded.load(Ordering::Acquire) => {
            (native::interruptible(call.nr, args), u64::MAX, None)
        }
        None => {
            let (result, together) = together::receive(process, call.nr, args);
            (result, u64::MAX, together)
        }
    };
    let received = u64::try_from(result).map_or(0, |count| messages(Some(count))) as usize;
    let received = received.min(rooms.len());
    let together = together.or_else(|| (!interpose::in_vfork_child()).then(|| process.descriptors.lock()));
    let settle = |(room, header): (&Room, &Header)| room.settle(process, header, limit, !restricted);
    let settled: Vec<_> = rooms.iter().zip(&headers).take(received).map(settle).collect();
    drop(together);
    let settled: Vec<_> = settled.into_iter().map(|settled| settled.finish(process)).collect();
    for (index, fitted) in settled.iter().enumerate() {
        let is_single = call.nr == sys::__NR_recvmsg;
        if let Err(error) = rooms[index].hand_over(process, &headers[index], fitted, is_single) {
            // Another thread has taken the memory away. What comes after it the program will never know of.
            let lost = settled[index + 1..].iter().flat_map(|fitted| &fitted.fds);
            lost.for_each(|&fd| match process.files.get(fd) {
                Some(_) if !interpose::in_vfork_child() => drop(descriptors::give_up(process, fd, true)),
                _ => locked_inodes::close_excess(fd),
            });
            return if index > 0 { Ok(Reply::Value(index as i64)) } else { Err(error) };
        }
    }
    Ok(Reply::Value(result))
}

/// What a message brought, when it has its place in the table: the rest is for when the lock is given back.
struct Settled {
    fitted: Fitted,
    cloexec: bool,
    gone: Vec<Released<OpenFile>>,
    entered: Vec<Entered>,
    /// Whose plugins are not there.
    left: Vec<Content>,
}

impl Settled {
    fn finish(self, process: &'static Process) -> Fitted {
        self.gone.into_iter().for_each(|file| locks::closed_unseen(process, file));
        let mut entered = self.entered;
        for content in self.left {
            content.load(process);
            let _together = process.descriptors.lock();
            entered.extend(parcel::enter(process, content, &self.fitted.fds, self.cloexec));
        }
        entered
            .iter()
            .filter_map(|entered| entered.file.as_ref())
            .for_each(|file| lending::take_over(process, file));
        self.fitted
    }
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

    /// Whether the sender's name can be put where the program wants it.
    fn has_place_for_name(&self) -> bool {
        let [name, room, ..] = self.header;
        name == 0 || user::check_writable(name, (room as u32 as usize).min(ADDRESS_MAX)).is_ok()
    }

    /// How many descriptors a message may bring: those that the program has room for, a parcel, and the sender (`SCM_PIDFD`).
    fn descriptors(&self) -> usize {
        let room = self.header[5].min(CONTROL_MAX) as usize;
        (room.saturating_sub(CONTROL_HEADER) / size_of::<RawFd>()).min(DESCRIPTORS_MAX) + 2
    }

    /// Has the descriptors that the kernel has received, as said in `header`, in the table. Those of the program are below `limit`. The caller holds
    /// `Process::descriptors`, but in a vfork child: a thread that closes numbers at random must not meet what is not the program's, nor one that uses a
    /// number which it had before what is not ready.
    fn settle(&self, process: &'static Process, header: &Header, limit: u64, whole: bool) -> Settled {
        let received = self.control.get(..header[5] as usize).unwrap_or_default();
        let room = self.header[5].min(CONTROL_MAX) as usize;
        let fitted = control::fit(received, room, limit, |fd| whole && parcel::is_one(fd));
        let cloexec = header[6] as u32 & MSG_CMSG_CLOEXEC != 0;
        let mut settled =
            Settled { fitted, cloexec, gone: Vec::new(), entered: Vec::new(), left: Vec::new() };
        let fitted = &settled.fitted;
        fitted.excess.iter().for_each(|&fd| locked_inodes::close_excess(fd));
        let mut contents = Vec::new();
        if !interpose::in_vfork_child() {
            settled.gone.extend(fitted.fds.iter().filter_map(|&fd| forget_former(process, fd)));
            contents = fitted.parcel.map_or_else(Vec::new, |parcel| parcel::unpack(process, parcel));
        }
        if let Some(parcel) = fitted.parcel {
            match fitted.renumbered {
                Some(fd) => renumber(fd, parcel),
                None => native::close(parcel),
            }
        }
        for content in contents {
            if content.can_be_entered(process) {
                settled.entered.extend(parcel::enter(process, content, &fitted.fds, cloexec));
            } else {
                settled.left.push(content);
            }
        }
        if !interpose::in_vfork_child() {
            fitted.fds.iter().for_each(|&fd| shadow::numbers::has_come(process, fd, cloexec));
        }
        settled
    }

    /// Gives the program what the kernel has received, as said in `header`, and as it fits.
    fn hand_over(
        &self,
        process: &'static Process,
        header: &Header,
        fitted: &Fitted,
        single: bool,
    ) -> Result<(), Errno> {
        let flags = header[6] as u32;
        let truncated = if fitted.truncated { MSG_CTRUNC } else { 0 };
        if !fitted.bytes.is_empty() {
            user::write_bytes(self.header[4], &fitted.bytes)?;
        }
        if self.header[0] != 0 {
            let (place, room) = (self.header[0], self.header[1] as u32 as usize);
            let length = self.name.put(process, header[1] as u32, place, room)?;
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
    if pid == Some(native::pid()) {
        return duplicate(process, call, wanted, true);
    }
    let alone = || pid.and_then(|pid| shadow::alone_in(process, pid, wanted));
    // What is taken may be a plugin's own descriptor, and have to stay where the kernel puts it: closing it would take this process's record locks away.
    let reserved =
        if locked_inodes::any() && alone().is_some() { Some(Reserved::new(process)?) } else { None };
    let Some(reserved) = reserved else {
        let result = native::call(call);
        return if result < 0 {
            Ok(Reply::Value(result))
        } else {
            taken(process, alone(), result as RawFd, result as RawFd)
        };
    };
    let found = native::new_fd(call.nr, call.args)?;
    let result = taken(process, alone(), found, reserved.number())?;
    locked_inodes::close(found);
    reserved.given();
    Ok(result)
}

/// A descriptor was taken from another process, which the program is to have as `fd`. That is another number if that one is reserved.
/// `alone` is the file if the other process has it for itself: it does not know that it shares it now, so what was taken may be no shadow.
fn taken(process: &'static Process, alone: Option<SlotId>, taken: RawFd, fd: RawFd) -> Served {
    if let Some(slot) = alone {
        let file = made_of(process, slot, taken);
        if let Err(error) = shadow::place_shared(process, slot, taken, fd) {
            locked_inodes::close(taken);
            return Err(error);
        }
        if !interpose::in_vfork_child() {
            arrived(process, fd);
        }
        if let Some(file) = file {
            let _together = process.descriptors.lock();
            // Another thread may have used the number meanwhile.
            if process.files.get(fd).is_none() {
                process.files.insert(fd, file, true).map_err(|_| Errno::NOMEM)?;
                STATES.set(fd, FdState::Served);
            }
        }
    } else {
        if taken != fd {
            let args = [taken as u64, fd as u64, sys::O_CLOEXEC.into(), 0, 0, 0];
            native::raw_call(sys::__NR_dup3, args);
        }
        if !interpose::in_vfork_child() {
            arrived(process, fd);
        }
    }
    Ok(Reply::Value(fd.into()))
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
    let together = process.descriptors.lock();
    let former = forget_former(process, fd);
    shadow::numbers::has_come(process, fd, true);
    drop(together);
    if let Some(file) = former {
        locks::closed_unseen(process, file);
    }
}

/// As [`arrived`], by who holds `Process::descriptors`. Returns what the table has there, which was closed unseen, or it would not be new; but where
/// another thread has used the number since it came, that is the very file.
fn forget_former(process: &'static Process, fd: RawFd) -> Option<Released<OpenFile>> {
    STATES.forget(fd);
    process.serving.store(1, Ordering::Release);
    let slot = process.files.get(fd)?.slot;
    if shadow::slot_behind(process, fd, &native::fstat(fd)) == Some(slot) {
        return None;
    }
    process.files.remove(fd)
}
