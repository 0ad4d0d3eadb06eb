//! Numbers of a file that came with it, through exec or in messages, and that nobody has used yet.
//!
//! The table knows a shadow when it is first used. So the last number that it has of a file need not be the last one there is: with that one closed, or
//! left to exec, the handle would go, and the next number found without any.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use fdtable::{FdState, Ref};
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use super::{folder, is_cloexec, known, slot_behind};
use crate::file::OpenFile;
use crate::process::{Process, STATES};
use crate::sync::Lock;
use crate::{listing, native};

/// Some file of this process was made of its shadow.
static ANY: AtomicBool = AtomicBool::new(false);
/// Nothing has come from another process since somebody looked.
static LOOKED: AtomicBool = AtomicBool::new(false);
/// The files that had several numbers then, none of which the table knew. Under `Process::descriptors` only.
static SEVERAL: Lock<Vec<SlotId>> = Lock::new(Vec::new());

/// A file is about to be made of its shadow.
pub fn one_is_made() {
    ANY.store(true, Ordering::Release);
}

/// Nobody knows what has come.
pub fn look_again() {
    LOOKED.store(false, Ordering::Release);
    ANY.store(true, Ordering::Release);
}

/// The descriptor `fd` has come from another process. The caller holds `Process::descriptors`, in no vfork child.
pub fn has_come(process: &'static Process, fd: RawFd, cloexec: bool) {
    if process.files.get(fd).is_some() || !may_look(process) {
        return;
    }
    let Some(slot) = slot_behind(process, fd, &native::fstat(fd)) else { return };
    if let Some(file) = known(process, slot) {
        enter(process, fd, &file, cloexec);
    } else {
        look_again();
    }
}

/// A filter of the program's may end it for a call that it does not make itself; and in a table that others use, too, nothing is believed.
fn may_look(process: &Process) -> bool {
    !process.restricted.load(Ordering::Relaxed) && !process.common.table()
}

fn enter(process: &Process, fd: RawFd, file: &Ref<'_, OpenFile>, cloexec: bool) {
    if process.files.insert_shared(fd, file, cloexec).is_ok() {
        STATES.set(fd, FdState::Served);
    }
}

/// Enters all numbers of the file in `slot`, or of all files that the table has. The caller holds `Process::descriptors`, in no vfork child.
pub fn enter_all(process: &'static Process, slot: Option<SlotId>) {
    if !ANY.load(Ordering::Acquire) || interpose::in_vfork_child() || !may_look(process) {
        return;
    }
    let mut several = SEVERAL.lock();
    let are_known = slot.map_or(several.is_empty(), |slot| !several.contains(&slot));
    if LOOKED.swap(true, Ordering::AcqRel) && are_known {
        return;
    }
    let Ok(mut found) = all_shadows(process) else {
        LOOKED.store(false, Ordering::Release);
        return;
    };
    found.sort_unstable_by_key(|(slot, _)| slot.to_bits());
    let groups = found.chunk_by(|(one, _), (other, _)| one == other).filter(|group| group.len() > 1);
    let mut left = Vec::new();
    for group in groups {
        match known(process, group[0].0) {
            None => left.push(group[0].0),
            Some(file) => {
                for &(_, fd) in group.iter().filter(|(_, fd)| process.files.get(*fd).is_none()) {
                    enter(process, fd, &file, is_cloexec(fd));
                }
            }
        }
    }
    *several = left;
}

/// Every shadow among the open FDs.
fn all_shadows(process: &Process) -> Result<Vec<(SlotId, RawFd)>, Errno> {
    let flags = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let path = c"/proc/self/fd".as_ptr() as u64;
    let directory = native::new_fd(sys::__NR_open, [path, flags, 0, 0, 0, 0])?;
    let mut found = Vec::new();
    // What is there for a moment only is no number of the program's. To list takes no lock but the heap's.
    let passing = folder::nothing_passes();
    let listed = listing::for_each_number(directory, |fd| {
        found.extend(slot_behind(process, fd, &native::fstat(fd)).map(|slot| (slot, fd)));
    });
    drop(passing);
    native::close(directory);
    listed.map(|()| found)
}
