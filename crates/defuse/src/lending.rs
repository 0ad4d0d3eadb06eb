//! Files that go to processes which have no handle for them: over a socket, or by an FD table in common.
//!
//! Whoever meets the shadow opens the file by its path, and that may be gone by then, or be another file's. What is sent takes along what its
//! handle consists of ([`crate::parcel`]). For who comes by the shadow in another way, or where nothing can go along, the sender says
//! in the slot which of its private descriptors these are; whoever comes takes them out of the process (pidfd_getfd(2), or
//! `/proc/PID/fd`), as long as that lives. Where nothing went along with a file that has no name any more it keeps them until the FD is
//! closed everywhere.
//!
//! The plugin's `restore` says whether they are what its `save` described.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Handle, Instance, Open};
use rustix::io::Errno;
use stash::{ProcessId, Slot, SlotId};

use crate::file::{OpenFile, plugin_errno, stash_errno};
use crate::process::Process;
use crate::restoring::{self, Description};
use crate::shadow::LENDER;
use crate::sync::Lock;
use crate::{fdinfo, listing, locked_inodes, native, private_fd, shadow, trace};

/// Flags of a descriptor that one of the same file is opened with.
const AGAIN: u32 = sys::O_ACCMODE
    | sys::O_PATH
    | sys::O_DIRECT
    | sys::O_APPEND
    | sys::O_SYNC
    | sys::O_DSYNC
    | sys::O_NONBLOCK;

/// In [`LENDER`]: the process keeps them whether or not it has the file open itself.
const KEEPER: u64 = 1 << 32;

/// Descriptors of files without a name, which this process has passed on.
static LENT: Lock<Vec<Lent>> = Lock::new(Vec::new());

struct Lent {
    slot: SlotId,
    fds: Vec<RawFd>,
}

/// Before a fork, and [`after_fork`] on both sides.
pub fn before_fork() {
    LENT.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    LENT.release();
}

/// Where what a handle consists of is to be found while its file is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In this process, for a file without a name also when its own FDs are closed.
    Here,
    /// In the message: see [`crate::parcel`].
    Along,
}

/// `file`, which is a shadow, is about to be passed on. Returns what its handle consists of, as long as the file is open.
pub fn offer(process: &'static Process, file: &OpenFile, kept: Kept) -> Option<Description> {
    if kept == Kept::Here {
        take_back(process);
    }
    try_offer(process, file, kept)
        .inspect_err(|error| {
            trace::debug(format_args!("a file that is passed on can only be found by its path: {error}"));
        })
        .ok()
}

fn try_offer(process: &'static Process, file: &OpenFile, kept: Kept) -> Result<Description, Errno> {
    let attributes = file.with_handle(Instance::fgetattr)?;
    let mut description = restoring::describe(file).or_else(|error| match error {
        // The path will do, if it leads to the same file.
        Errno::NOSYS => Ok(Description::default()),
        other => Err(other),
    })?;
    description.inode = [attributes.st_dev, attributes.st_ino];
    description.access = description.kept.first().map_or(0, |&fd| restoring::access_of(fd));
    let nameless = attributes.st_nlink == 0 && !description.kept.is_empty();
    let mut keeps = false;
    if nameless && !interpose::in_vfork_child() {
        let mut lent = LENT.lock();
        if let Some(known) = lent.iter().find(|known| known.slot == file.slot) {
            // Who was told of these still needs them when the handle's own are closed.
            description.kept.clone_from(&known.fds);
            keeps = true;
        } else if kept == Kept::Here {
            let fds = private_fd::duplicate_all(&description.kept)?;
            description.kept.clone_from(&fds);
            lent.push(Lent { slot: file.slot, fds });
            keeps = true;
        }
    }
    let shared = file.shared()?;
    let guard = shared.lock(file.holder()).map_err(stash_errno)?;
    let lender = &shared.user_words()[LENDER];
    if !keeps && is_kept_elsewhere(process, lender.load(Ordering::Acquire)) {
        return Ok(description);
    }
    guard.set_blob(&description.to_blob()).map_err(stash_errno)?;
    let keeper = if keeps { KEEPER } else { 0 };
    lender.store(u64::from(process.me().to_bits()) | keeper, Ordering::Release);
    Ok(description)
}

/// Whether somebody else keeps the descriptors as long as the file is open anywhere, which this process does not.
fn is_kept_elsewhere(process: &Process, lender: u64) -> bool {
    let keeper = ProcessId::from_bits(lender as u32);
    lender & (KEEPER | 1 << 63) == KEEPER && keeper != process.me() && process.arena.process_is_alive(keeper)
}

/// `file` came with a message. Who takes it out of this process looks for what its handle consists of where its sender had that, and this may have ended;
/// without a name nothing else leads to it.
pub fn take_over(process: &'static Process, file: &OpenFile) {
    if file.with_handle(Instance::fgetattr).is_ok_and(|attributes| attributes.st_nlink == 0) {
        offer(process, file, Kept::Along);
    }
}

/// Before an exec, which closes what this process keeps: from now on who else has the file says where its descriptors are.
pub fn give_up_all(process: &Process) {
    change_keeping(process, KEEPER, 0);
}

/// The exec has failed: this process keeps what nobody else has taken on since.
pub fn keep_all(process: &Process) {
    change_keeping(process, 0, KEEPER);
}

fn change_keeping(process: &Process, from: u64, to: u64) {
    if interpose::in_vfork_child() {
        return; // It is its parent who keeps them.
    }
    let me = u64::from(process.me().to_bits());
    for lent in &*LENT.lock() {
        if let Ok(slot) = process.arena.slot(lent.slot) {
            let lender = &slot.user_words()[LENDER];
            let _ = lender.compare_exchange(me | from, me | to, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Closes what nobody can come for any more.
fn take_back(process: &'static Process) {
    let mut lent = LENT.lock();
    let mut at = 0;
    while at < lent.len() {
        if shadow::is_anywhere(process, lent[at].slot) {
            at += 1;
        } else {
            lent.swap_remove(at).fds.into_iter().for_each(locked_inodes::close);
        }
    }
}

/// A handle made of the descriptors of the process that has passed the file in `slot` on.
pub fn borrow(
    process: &Process,
    instance: &Instance,
    slot: &Slot<'_>,
    description: &Description,
) -> Result<Open<Handle>, Errno> {
    let lender = ProcessId::from_bits(slot.user_words()[LENDER].load(Ordering::Acquire) as u32);
    let lender = process.arena.process(lender).map_err(|_| Errno::SRCH)?;
    let here = process.arena.process(process.me()).map_err(|_| Errno::SRCH)?;
    if description.kept.is_empty() || lender.pid_namespace != here.pid_namespace {
        return Err(Errno::SRCH);
    }
    let mut fds = Vec::new();
    let taken = description.kept.iter().try_for_each(|&fd| {
        fds.push(take_out(lender.pid, fd, slot)?);
        Ok(())
    });
    // Under its number there may be another descriptor of the same file by now.
    let is_other = || description.inode != [0; 2] && restoring::access_of(fds[0]) != description.access;
    let taken = taken.and_then(|()| if is_other() { Err(Errno::SRCH) } else { Ok(()) });
    let opened = taken.and_then(|()| instance.restore(&description.described, &fds).map_err(plugin_errno));
    if opened.is_err() {
        fds.into_iter().for_each(locked_inodes::close);
    }
    // The lender may have something else under these numbers by now.
    restoring::only_of(instance, description.inode, opened?)
}

/// A handle made of a descriptor that the owner of `slot` has of the same file, opened for the same. For a file that its owner has for itself on a mount of the kernel module, and that
/// has no name any more: nobody has said what its handle consists of.
pub fn find(process: &Process, instance: &Instance, slot: &Slot<'_>) -> Result<Open<Handle>, Errno> {
    let inode = restoring::inode_of(instance, slot);
    let owner = slot.owner().and_then(|owner| process.arena.process(owner)).map_err(|_| Errno::SRCH)?;
    let here = process.arena.process(process.me()).map_err(|_| Errno::SRCH)?;
    let is_bare = instance.capabilities().contains(Capabilities::BARE_FD);
    if inode == [0; 2] || !is_bare || owner.pid_namespace != here.pid_namespace {
        return Err(Errno::SRCH);
    }
    let fd = private_of(owner.pid, inode, slot.user_words()[0].load(Ordering::Relaxed) as u32)?;
    let taken = take_out(owner.pid, fd, slot)?;
    let opened = instance.restore(&[], &[taken]).map_err(plugin_errno);
    // It may have something else under this number by now.
    restoring::only_of(instance, inode, opened.inspect_err(|_| locked_inodes::close(taken))?)
}

/// A private number of the file `inode` in process `pid`, with the access that `flags` say.
fn private_of(pid: u32, inode: [u64; 2], flags: u32) -> Result<RawFd, Errno> {
    const ACCESS: u32 = sys::O_ACCMODE | sys::O_PATH | sys::O_DIRECT;
    let name = format!("/proc/{pid}/fd\0");
    let directory = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let list = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, directory, 0, 0, 0, 0])?;
    let mut found = None;
    let listed = listing::for_each_number(list, |fd| {
        if found.is_some() || (fd as u32) < private_fd::base() {
            return;
        }
        let path = format!("/proc/{pid}/fd/{fd}\0");
        let is_it = CStr::from_bytes_with_nul(path.as_bytes())
            .is_ok_and(|path| native::stat(path).is_ok_and(|stat| [stat.st_dev, stat.st_ino] == inode))
            && fdinfo::flags(pid, fd).is_some_and(|opened| (opened ^ flags) & ACCESS == 0);
        if is_it {
            found = Some(fd);
        }
    });
    native::close(list);
    listed.and(found.ok_or(Errno::SRCH))
}

/// A private descriptor of what `fd` is in process `pid`.
fn take_out(pid: u32, fd: RawFd, slot: &Slot<'_>) -> Result<RawFd, Errno> {
    let found = match native::new_fd(sys::__NR_pidfd_open, [pid.into(), 0, 0, 0, 0, 0]) {
        Ok(pidfd) => {
            let found = native::new_fd(sys::__NR_pidfd_getfd, [pidfd as u64, fd as u64, 0, 0, 0, 0]);
            native::close(pidfd);
            found
        }
        Err(error) => Err(error),
    };
    // Tracing may be allowed for descendants only; looking is for whoever has the same user.
    let found = found.or_else(|_| {
        let opened = slot.user_words()[0].load(Ordering::Relaxed) as u32;
        // The plugin's own, which need not be the program's.
        let flags = fdinfo::flags(pid, fd).unwrap_or(opened & !sys::O_APPEND) & AGAIN | sys::O_CLOEXEC;
        let name = format!("/proc/{pid}/fd/{fd}\0");
        native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags.into(), 0, 0, 0, 0])
    })?;
    private_fd::take(found).inspect_err(|_| locked_inodes::close(found))
}
