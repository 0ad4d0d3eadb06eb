//! What record locks need to go through exec: the kernel keeps them, unless exec closes a descriptor of the inode.
//!
//! Ours are closed by exec, parked ones as well as those whose handle the next image makes anew. So those of an inode that keeps its locks stay
//! open, and the next image is told which inodes these are.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use stash::{ExecEntry, SlotId};

use super::{Identity, LOCKED, any, identity, identity_of_opened, keep_parked, make_known};
use crate::carried::{self, Mark};
use crate::process::Process;
use crate::{private_fd, restoring};

/// Completes the list for the next image. The caller has listed all that goes through exec for other reasons.
pub fn for_exec(process: &Process, list: &mut Vec<ExecEntry>, kept: &mut Vec<RawFd>) {
    if !any() {
        return;
    }
    let held = held();
    let staying = staying(process, &held);
    held.iter().filter(|inode| !staying.contains(inode)).for_each(|&inode| have_closed(inode, kept));
    if staying.is_empty() {
        return;
    }
    let listed: BTreeSet<u32> = list.iter().flat_map(carried::singly).map(|entry| entry.fd).collect();
    let mut fds: Vec<RawFd> = LOCKED
        .lock()
        .iter()
        .flat_map(|inode| &inode.parked)
        .copied()
        .filter(|&fd| !private_fd::is_private(fd))
        .collect();
    private_fd::for_each(|fd| fds.push(fd));
    let mut told = Vec::new();
    for fd in fds {
        let Some(identity) = identity_of_opened(fd).filter(|identity| staying.contains(identity)) else {
            continue;
        };
        let mark = if listed.contains(&(fd as u32)) { Mark::Locked } else { Mark::Parked };
        if mark == Mark::Parked {
            kept.push(fd);
        } else if told.contains(&identity) {
            continue;
        }
        told.push(identity);
        list.push(mark.entry(fd, SlotId::from_bits(0), false));
    }
}

/// Where the program may have locks.
fn held() -> Vec<Identity> {
    let held = |inode: &&super::Inode| inode.for_program && inode.held;
    LOCKED.lock().iter().filter(held).map(|inode| inode.identity).collect()
}

/// Exec closes an FD of this inode, and by that gives up its locks. All that the kernel has of the file may go through, for another FD of it: then
/// there is one descriptor more for exec to close.
fn have_closed(inode: Identity, kept: &[RawFd]) {
    let mut all = Vec::new();
    private_fd::for_each(|fd| all.push(fd));
    all.retain(|&fd| identity_of_opened(fd) == Some(inode));
    let Some(&one) = all.first() else { return };
    if all.iter().any(|fd| !kept.contains(fd)) {
        return;
    }
    let Ok(copy) = private_fd::duplicate(one) else { return };
    let mut locked = LOCKED.lock();
    match locked.iter_mut().find(|known| known.identity == inode) {
        // If the exec fails it stays until the locks are gone.
        Some(known) => keep_parked(known, copy),
        None => private_fd::close(copy),
    }
}

/// The inodes among these whose locks go through exec: it closes no FD of theirs.
fn staying(process: &Process, held: &[Identity]) -> Vec<Identity> {
    let mut staying = held.to_vec();
    process.files.for_each(|_, file, cloexec| {
        if cloexec && file.open_flags & sys::O_PATH == 0 && !staying.is_empty() {
            let attributes = file.with_handle(Instance::fgetattr).ok();
            let named = attributes.map(|stat| (stat.st_dev, stat.st_ino));
            let kept = restoring::describe(file).map_or_else(|_| Vec::new(), |description| description.kept);
            let closing: Vec<Identity> = kept.into_iter().filter_map(identity).chain(named).collect();
            staying.retain(|identity| !closing.contains(identity));
        }
    });
    staying
}

/// The previous image has left this descriptor, of an inode with locks.
pub fn inherit(entry: &ExecEntry) {
    let fd = entry.fd as RawFd;
    let Some(identity) = identity(fd) else { return };
    let mut locked = LOCKED.lock();
    let inode = make_known(&mut locked, identity);
    inode.for_program = true;
    inode.held = true;
    if Mark::of(entry) == Mark::Parked {
        keep_parked(inode, fd);
    }
}
