//! sendmsg and sendmmsg: FDs that are passed on, and addresses on a mount.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::control::for_each_passed;
use super::sockets::{self, Address};
use super::{Reply, Served, other_end};
use crate::file::{self, FileRef};
use crate::lending::{self, Kept};
use crate::parcel::{DESCRIPTORS_MAX, Parcel};
use crate::process::Process;
use crate::{native, nofile, private_fd, shadow, trace, user};

const MSG_DONTWAIT: u64 = 0x40;
/// `UIO_MAXIOV`: the kernel sends no more messages at once.
const MESSAGES_MAX: u32 = 1024;
/// A `struct msghdr`, and behind it where a `struct mmsghdr` has the number of bytes sent.
type Header = [u64; 8];
const STRIDE: u64 = size_of::<Header>() as u64;
const SENT: u64 = 56;
/// Bytes of control data that are looked at for more than descriptors: as many as the kernel takes by default.
const CONTROL_MAX: u64 = 128 * 1024;

/// Something of ours that goes with a message.
struct Addition {
    index: u64,
    /// The program's control data and the parcel behind it.
    control: Vec<u8>,
    _parcel: Parcel,
    /// What it is of.
    files: Vec<FileRef>,
}

pub fn send_message(process: &'static Process, call: &Call) -> Served {
    let [_, messages, count, ..] = call.args;
    let single = call.nr == sys::__NR_sendmsg;
    let wanted = if single { 1 } else { u64::from((count as u32).min(MESSAGES_MAX)) };
    let mut additions = Vec::new();
    let mut destination = None;
    let mut count = wanted;
    for index in 0..wanted {
        let header = user::read::<[u64; 7]>(messages + index * STRIDE)?;
        let on_mount = sockets::destination(process, &header)?;
        if on_mount.is_some() {
            // sendmmsg may send fewer messages than it is given: one to a path on a mount is sent alone.
            count = index.max(1);
            if index > 0 {
                break;
            }
        }
        destination = on_mount;
        // Only processes of the session can have such a name.
        let is_known = destination.is_some();
        additions.extend(pass_on(process, call.args[0] as RawFd, is_known, index, &header)?);
        if is_known {
            break;
        }
    }
    if additions.is_empty() && destination.is_none() {
        return Ok(as_it_stands(call, count, wanted));
    }
    let mut result = send(call, count, 0, &additions, destination.as_ref())?;
    let is = |result: i64, errno: Errno| result == -i64::from(errno.raw_os_error());
    if is(result, Errno::TOOMANYREFS) && !additions.is_empty() {
        // There is a limit to descriptors under way, and parcels are more of them.
        let again = || send(call, count, MSG_DONTWAIT, &additions, destination.as_ref());
        let sent = nofile::with_room(again)?;
        result = if is(sent, Errno::AGAIN) { result } else { sent };
    }
    let refused = [Errno::TOOMANYREFS, Errno::INVAL, Errno::NOBUFS];
    if !additions.is_empty() && refused.into_iter().any(|errno| is(result, errno)) {
        // It may have been one descriptor too many.
        additions.drain(..).for_each(|addition| offer_here(process, &addition.files));
        if destination.is_none() {
            return Ok(as_it_stands(call, count, wanted));
        }
        result = send(call, count, 0, &[], destination.as_ref())?;
    }
    Ok(Reply::Value(result))
}

fn as_it_stands(call: &Call, count: u64, wanted: u64) -> Reply {
    if count == wanted {
        return Reply::Pass;
    }
    let mut args = call.args;
    args[2] = count;
    Reply::PassWith(args)
}

/// Makes what a message passes known to other processes, and packs what they need of it.
/// `is_known` says that it goes to a process of the session, else that is asked of the socket.
fn pass_on(
    process: &'static Process,
    socket: RawFd,
    is_known: bool,
    index: u64,
    header: &[u64; 7],
) -> Result<Option<Addition>, Errno> {
    let [_, _, _, _, control, length, _] = *header;
    let mut files = Vec::new();
    let mut passed = 0;
    let end = for_each_passed(control, length, |fd| {
        passed += 1;
        if private_fd::is_hidden(fd) {
            return Err(Errno::BADF);
        }
        if let Some(file) = file::served(process, fd) {
            let together = process.descriptors.lock();
            shadow::separate(process, &file)?;
            drop(together);
            files.push(file);
        }
        Ok(())
    })?;
    if files.is_empty() {
        return Ok(None);
    }
    let restricted = process.restricted.load(Ordering::Relaxed);
    let well_formed = end.filter(|_| length <= CONTROL_MAX && passed < DESCRIPTORS_MAX && !restricted);
    // To somebody else the plugins' descriptors may be more than the files that are passed.
    let wanted = well_formed.filter(|_| is_known || other_end::is_of_session(process, socket));
    match wanted.map(|end| pack(process, &files, control, length, end)).transpose() {
        Ok(Some(packed)) => {
            return Ok(packed.map(|(control, parcel)| Addition { index, control, _parcel: parcel, files }));
        }
        Ok(None) => {}
        Err(error) => trace::debug(format_args!("nothing goes with a message that passes files: {error}")),
    }
    offer_here(process, &files);
    Ok(None)
}

/// Nothing goes with the message that passes these.
fn offer_here(process: &'static Process, files: &[FileRef]) {
    for file in files {
        lending::offer(process, file, Kept::Here);
    }
}

/// Packs what the handles of `files` consist of, which the control data at `control` passes, `end` bytes when it is filled up. Returns the
/// control data to be sent in its place; nothing if they consist of no descriptors.
fn pack(
    process: &'static Process,
    files: &[FileRef],
    control: u64,
    length: u64,
    end: u64,
) -> Result<Option<(Vec<u8>, Parcel)>, Errno> {
    let mut contents = Vec::new();
    let mut fds = 0;
    for file in files {
        let Some(description) = lending::offer(process, file, Kept::Along) else { continue };
        fds += description.kept.len();
        if !description.kept.is_empty() {
            contents.push((file, description));
        }
    }
    if contents.is_empty() {
        return Ok(None);
    }
    if fds > DESCRIPTORS_MAX {
        return Err(Errno::TOOMANYREFS);
    }
    let parcel = Parcel::pack(process, &contents)?;
    let mut data = vec![0; end as usize];
    let own = length.min(end) as usize;
    user::read_bytes(control, &mut data[..own])?;
    data.extend(parcel.control());
    Ok(Some((data, parcel)))
}

/// Sends the first `count` messages with what is added to them, the first one to `destination` if there is one. `more` are flags besides the
/// program's.
fn send(
    call: &Call,
    count: u64,
    more: u64,
    additions: &[Addition],
    destination: Option<&Address>,
) -> Result<i64, Errno> {
    let [fd, messages, ..] = call.args;
    let single = call.nr == sys::__NR_sendmsg;
    let mut headers = Vec::with_capacity(count as usize);
    for index in 0..count {
        let mut header: Header = [0; 8];
        header[..7].copy_from_slice(&user::read::<[u64; 7]>(messages + index * STRIDE)?);
        headers.push(header);
    }
    for addition in additions {
        let header = &mut headers[addition.index as usize];
        header[4] = addition.control.as_ptr() as u64;
        header[5] = addition.control.len() as u64;
    }
    if let Some(address) = destination {
        headers[0][0] = address.pointer();
        headers[0][1] = address.length();
    }
    let args = [fd, headers.as_mut_ptr() as u64];
    let result = if single {
        native::interruptible(call.nr, [args[0], args[1], call.args[2] | more, 0, 0, 0])
    } else {
        native::interruptible(call.nr, [args[0], args[1], count, call.args[3] | more, 0, 0])
    };
    if !single {
        for (index, header) in headers.iter().enumerate().take(usize::try_from(result).unwrap_or(0)) {
            let sent = &header[7].to_ne_bytes()[..4];
            user::write_bytes(messages + index as u64 * STRIDE + SENT, sent)?;
        }
    }
    Ok(result)
}
