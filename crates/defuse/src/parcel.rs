//! What a message with served files carries along: the descriptors that their handles consist of.
//!
//! Who receives a served file gets its shadow, which names the slot; the handle is the plugin's, and by the time the file is taken out of the
//! socket its sender may have ended, and its name be gone or another file's. So the message has one descriptor more than the program
//! passes: a socket in whose queue there are the handles' descriptors and what the plugins say of them. The kernel keeps these exactly as long
//! as the message is anywhere. The receiver takes the socket off the message (`serve::receiving`) and makes handles of what is in it;
//! it only looks at the queue, as a message that is peeked at is received more than once.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::{FdState, Ref, Released};
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use crate::file::{FileRef, OpenFile};
use crate::process::{Process, STATES};
use crate::restoring::{self, Description};
use crate::{locked_inodes, native, nofile, private_fd, shadow, trace};

/// Descriptors in one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;
/// linux/socket.h
const AF_UNIX: u64 = 1;
const SOCK_SEQPACKET: u64 = 5;
const SOCK_CLOEXEC: u64 = sys::O_CLOEXEC as u64;
const SOL_SOCKET: u64 = 1;
const SCM_RIGHTS: u64 = 1;
const SO_RCVLOWAT: u32 = 18;
const MSG_PEEK: u64 = 0x2;
const MSG_CTRUNC: u64 = 0x8;
const MSG_TRUNC: u64 = 0x20;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;

/// `SO_RCVLOWAT` of a parcel, which means nothing for packets: by that no socket of a program has to be read to be told from one.
const MARK: u32 = u32::from_be_bytes(*b"Dfse");
/// Bytes before the first file: which session it is of.
const SESSION: usize = size_of::<u128>();
/// Bytes before a plugin's words: slot, number of descriptors, number of bytes.
const ENTRY: usize = size_of::<u64>() + 2 * size_of::<u32>();
/// Bytes before the descriptors in a control message.
const CONTROL: usize = 16;

/// A parcel to be sent; its descriptor is closed when it is dropped.
pub struct Parcel(RawFd);

impl Parcel {
    /// Packs what the handles of these files consist of. The files stay open until it is sent.
    pub fn pack(process: &Process, files: &[(&FileRef, Description)]) -> Result<Self, Errno> {
        let mut data = process.arena.session_id().to_ne_bytes().to_vec();
        let mut fds = Vec::new();
        for (file, description) in files {
            data.extend_from_slice(&file.slot.to_bits().to_ne_bytes());
            data.extend_from_slice(&(description.kept.len() as u32).to_ne_bytes());
            data.extend_from_slice(&(description.described.len() as u32).to_ne_bytes());
            data.extend_from_slice(&description.described);
            fds.extend_from_slice(&description.kept);
        }
        let mut pair = [-1_i32; 2];
        let address = pair.as_mut_ptr() as u64;
        native::new_fd(sys::__NR_socketpair, [AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, address, 0, 0])?;
        // A message may wait for long to be sent, and the program must not meet the socket meanwhile.
        let parcel = Self(private_fd::take(pair[0]).unwrap_or(pair[0]));
        let sent = parcel.fill(pair[1], &data, &fds);
        native::close(pair[1]);
        sent.map(|()| parcel)
    }

    fn fill(&self, from: RawFd, data: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
        let mark = MARK;
        let option = [self.0 as u64, SOL_SOCKET, SO_RCVLOWAT.into(), &raw const mark as u64, 4, 0];
        native::checked(sys::__NR_setsockopt, option)?;
        let vector = [data.as_ptr() as u64, data.len() as u64];
        let control = rights(fds);
        let control_length = if fds.is_empty() { 0 } else { control.len() };
        let header = [0, 0, vector.as_ptr() as u64, 1, control.as_ptr() as u64, control_length as u64, 0_u64];
        let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        let args = [from as u64, header.as_ptr() as u64, flags, 0, 0, 0];
        let send = || native::checked(sys::__NR_sendmsg, args).map(drop);
        match send() {
            // Of an unprivileged user no more descriptors may be under way than a process may have open, and the program knows nothing of these.
            Err(Errno::TOOMANYREFS) => nofile::with_room(send),
            sent => sent,
        }
    }

    /// The control message by which it is sent.
    pub fn control(&self) -> Vec<u8> {
        rights(&[self.0])
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        private_fd::close(self.0);
    }
}

/// The control message that passes `fds`.
fn rights(fds: &[RawFd]) -> Vec<u8> {
    let mut control = Vec::with_capacity(CONTROL + 4 * fds.len() + 4);
    control.extend_from_slice(&((CONTROL + 4 * fds.len()) as u64).to_ne_bytes());
    control.extend_from_slice(&(SOL_SOCKET | SCM_RIGHTS << 32).to_ne_bytes());
    for fd in fds {
        control.extend_from_slice(&fd.to_ne_bytes());
    }
    control.resize(control.len().next_multiple_of(8), 0);
    control
}

/// Whether `fd`, which has just been received, is a parcel.
pub fn is_one(fd: RawFd) -> bool {
    native::socket_option(fd, SO_RCVLOWAT) == Ok(MARK)
}

/// What `parcel` holds.
pub fn unpack(process: &'static Process, parcel: RawFd) -> Vec<Content> {
    open(process, parcel).unwrap_or_else(|error| {
        trace::debug(format_args!("what came with a message is lost: {error}"));
        Vec::new()
    })
}

/// Makes a handle of `content` for its file among `received`, which came in the same message. The caller holds `Process::descriptors`.
pub fn enter(
    process: &'static Process,
    content: Content,
    received: &[RawFd],
    cloexec: bool,
) -> Option<Entered> {
    let same = |fd: &&RawFd| shadow::slot_behind(process, **fd, &native::fstat(**fd)) == Some(content.slot);
    // Another thread may have closed it, and have put something else at the number.
    let &fd = received.iter().find(same)?;
    let entered = enter_at(process, fd, content, cloexec);
    entered
        .inspect_err(|error| {
            trace::debug(format_args!("FD {fd} cannot be made of what came with it: {error}"));
        })
        .ok()?
}

/// A file that came with a message, and what the table had at its number: both for when the lock is given back.
pub struct Entered {
    /// The file.
    pub file: Option<Ref<'static, OpenFile>>,
    _replaced: Option<Released<OpenFile>>,
}

/// What a parcel holds for one file. The descriptors are private, and closed with it, unless record locks would be lost by that.
pub struct Content {
    slot: SlotId,
    described: Vec<u8>,
    fds: Vec<RawFd>,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.fds.drain(..).for_each(locked_inodes::close);
    }
}

impl Content {
    /// Whether the plugin is there: it is loaded under no lock of ours.
    pub fn can_be_entered(&self, process: &Process) -> bool {
        let mount = process.arena.slot(self.slot).ok().and_then(|slot| process.mount_of(&slot));
        mount.is_none_or(|mount| mount.loaded().is_some())
    }

    /// Has the plugin there.
    pub fn load(&self, process: &Process) {
        if let Ok(slot) = process.arena.slot(self.slot)
            && let Some(mount) = process.mount_of(&slot)
        {
            // What is wrong with it is said again when it is needed.
            let _ = mount.instance();
        }
    }
}

fn enter_at(
    process: &'static Process,
    fd: RawFd,
    mut content: Content,
    cloexec: bool,
) -> Result<Option<Entered>, Errno> {
    let _one_at_a_time = process.rebuilding.lock();
    if shadow::known(process, content.slot).is_some() {
        return Ok(None);
    }
    shadow::numbers::one_is_made();
    let file = restoring::restore_of(process, content.slot, &content.described, &content.fds)?;
    content.fds.clear();
    let replaced = process.files.insert(fd, file, cloexec).map_err(|_| Errno::NOMEM)?;
    STATES.set(fd, FdState::Served);
    process.serving.store(1, Ordering::Release);
    Ok(Some(Entered { file: process.files.get(fd), _replaced: replaced }))
}

/// What is in a parcel of this session.
fn open(process: &'static Process, parcel: RawFd) -> Result<Vec<Content>, Errno> {
    let flags = MSG_PEEK | MSG_DONTWAIT;
    let mut session = [0_u8; SESSION];
    let look = [parcel as u64, session.as_mut_ptr() as u64, SESSION as u64, flags | MSG_TRUNC, 0, 0];
    let length = native::checked(sys::__NR_recvfrom, look)? as usize;
    if length < SESSION || u128::from_ne_bytes(session) != process.arena.session_id() {
        return Err(Errno::STALE);
    }
    let mut data = vec![0_u8; length];
    let look = [parcel as u64, data.as_mut_ptr() as u64, length as u64, flags, 0, 0];
    native::checked(sys::__NR_recvfrom, look)?;
    // Without need no descriptor is made: to close it again would take the process's record locks on its inode away.
    if entries(&data[SESSION..])?.iter().all(|entry| shadow::known(process, entry.slot).is_some()) {
        return Ok(Vec::new());
    }
    let mut receive = || receive(parcel, &mut data, flags | MSG_CMSG_CLOEXEC);
    let fds = match receive() {
        Err(Errno::MFILE) => nofile::with_room(receive)?,
        received => received?,
    };
    let mut private = Vec::with_capacity(fds.len());
    for fd in fds {
        // One that cannot be moved is missed below.
        match private_fd::take(fd) {
            Ok(moved) => private.push(moved),
            Err(_) => locked_inodes::close(fd),
        }
    }
    sort(&data[SESSION..], private)
}

/// Receives a packet of `data.len()` bytes, and returns its descriptors.
fn receive(parcel: RawFd, data: &mut [u8], flags: u64) -> Result<Vec<RawFd>, Errno> {
    let vector = [data.as_mut_ptr() as u64, data.len() as u64];
    let mut control = [0_u64; (CONTROL + 4 * DESCRIPTORS_MAX).div_ceil(8)];
    let mut header = [0, 0, vector.as_ptr() as u64, 1, control.as_mut_ptr() as u64, 0, 0_u64];
    header[5] = size_of_val(&control) as u64;
    let args = [parcel as u64, header.as_mut_ptr() as u64, flags, 0, 0, 0];
    native::checked(sys::__NR_recvmsg, args)?;
    let bytes = (control[0] as usize).saturating_sub(CONTROL).min(4 * DESCRIPTORS_MAX);
    let numbers = control[CONTROL / 8..].iter().flat_map(|two| [*two as i32, (*two >> 32) as i32]);
    let fds = if header[5] == 0 { Vec::new() } else { numbers.take(bytes / 4).collect::<Vec<_>>() };
    if header[6] & MSG_CTRUNC != 0 {
        // The only reason: there are no numbers left.
        fds.into_iter().for_each(locked_inodes::close);
        return Err(Errno::MFILE);
    }
    Ok(fds)
}

/// What the data of a parcel says of one file.
struct Entry<'a> {
    slot: SlotId,
    count: usize,
    described: &'a [u8],
}

fn entries(mut data: &[u8]) -> Result<Vec<Entry<'_>>, Errno> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<ENTRY>() {
        let [slot, sizes] =
            [0, 8].map(|at| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap_or_default()));
        let (count, length) = (sizes as u32 as usize, (sizes >> 32) as usize);
        let (described, rest) = rest.split_at_checked(length).ok_or(Errno::BADMSG)?;
        entries.push(Entry { slot: SlotId::from_bits(slot), count, described });
        data = rest;
    }
    Ok(entries)
}

/// Tells the files in `data` apart, and whose each of the descriptors is.
fn sort(data: &[u8], fds: Vec<RawFd>) -> Result<Vec<Content>, Errno> {
    let mut contents = Vec::new();
    // Whatever goes wrong, each is closed.
    let mut left = Content { slot: SlotId::from_bits(0), described: Vec::new(), fds };
    for Entry { slot, count, described } in entries(data)? {
        if count > left.fds.len() {
            return Err(Errno::MFILE);
        }
        let fds = left.fds.drain(..count).collect();
        contents.push(Content { slot, described: described.to_vec(), fds });
    }
    Ok(contents)
}
