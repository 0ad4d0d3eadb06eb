//! Locks through exec.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use stash::{ExecEntry, SlotId};

use super::{ELSEWHERE, ENTRIES, Entry, INHERITED, NONE, RECORDS, entry_of, inode_of, on_disk};
use crate::carried::Mark;
use crate::file::OpenFile;
use crate::process::Process;
use crate::shadow::Form;

/// Whether exec has to keep anything of ours.
pub fn is_unused() -> bool {
    ENTRIES.lock().is_empty() && INHERITED.lock().is_empty()
}

/// Whether there is more to `file` than its FD: closing it must be looked at.
pub fn concern(file: &OpenFile) -> bool {
    RECORDS.load(Ordering::Acquire) || companion_of(file).is_some()
}

/// The descriptor that carries the locks of the description, if there is one here.
pub fn companion_of(file: &OpenFile) -> Option<RawFd> {
    Some(file.locks.companion.load(Ordering::Relaxed)).filter(|&fd| fd >= 0)
}

/// Lists what must go through exec: the companions of descriptions that do, and the record locks, unless exec closes an FD of
/// the inode. A vfork child has no record locks, and may inherit any description.
pub fn for_exec(process: &Process, list: &mut Vec<ExecEntry>, kept: &mut Vec<RawFd>) {
    if is_unused() {
        return;
    }
    let in_vfork_child = interpose::in_vfork_child();
    let mut put = |mark: Mark, fd: RawFd, slot: SlotId| {
        kept.push(fd);
        list.push(mark.entry(fd, slot, false));
    };
    let companion_mark = if in_vfork_child { Mark::CompanionPerhaps } else { Mark::Companion };
    for &(slot, fd) in INHERITED.lock().iter() {
        put(companion_mark, fd, slot);
    }
    let records = !in_vfork_child && RECORDS.load(Ordering::Acquire);
    let (mut staying, mut closing, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    process.files.for_each(|_, file, cloexec| {
        if records && file.open_flags & sys::O_PATH == 0 {
            let inodes = if cloexec { &mut closing } else { &mut staying };
            inodes.extend(inode_of(file).ok().map(|inode| (inode, file.slot)));
        }
        let companion = file.locks.companion.load(Ordering::Relaxed);
        if companion >= 0 && (!cloexec || in_vfork_child) && !listed.contains(&companion) {
            listed.push(companion);
            put(companion_mark, companion, file.slot);
        }
    });
    for entry in ENTRIES.lock().iter().filter(|entry| records && entry.held) {
        let untouched = entry.untouched.map(|slot| (entry.inode, slot));
        let slot = staying.iter().chain(&untouched).find(|(inode, _)| *inode == entry.inode);
        if let Some(&(_, slot)) = slot
            && closing.iter().all(|(inode, _)| *inode != entry.inode)
        {
            put(Mark::Records, entry.records, slot);
            let spare = [entry.spare].into_iter().filter(|&fd| fd != NONE);
            spare.chain(entry.parked.iter().copied()).for_each(|fd| put(Mark::Spare, fd, slot));
        }
    }
}

/// The previous image left this descriptor, and the description that it is for came through exec as well.
pub fn inherit(kept: &ExecEntry) {
    let (mark, fd) = (Mark::of(kept), kept.fd as RawFd);
    if matches!(mark, Mark::Companion | Mark::CompanionPerhaps) {
        return INHERITED.lock().push((kept.slot, fd));
    }
    let Some(inode) = on_disk::inode_of(fd) else { return };
    let mut entries = ENTRIES.lock();
    let at = entries.iter().position(|known| known.inode == inode).unwrap_or_else(|| {
        entries.push(Entry::new(inode));
        entries.len() - 1
    });
    let entry = &mut entries[at];
    entry.held = true;
    entry.untouched = Some(kept.slot);
    match (mark, entry.spare) {
        (Mark::Records, _) => entry.records = fd,
        (_, NONE) => entry.spare = fd,
        _ => entry.parked.push(fd),
    }
    RECORDS.store(true, Ordering::Release);
}

/// The file was rebuilt from a description that came from elsewhere: through exec, perhaps with its companion, or from another
/// process. Only what nobody else can have needs none so far.
pub fn attach(file: &OpenFile) {
    let mut inherited = INHERITED.lock();
    let at = inherited.iter().position(|(slot, _)| *slot == file.slot);
    let companion = match at {
        Some(at) if !interpose::in_vfork_child() => inherited.swap_remove(at).1,
        None if file.form() != Form::Shadow => NONE,
        _ => ELSEWHERE,
    };
    drop(inherited);
    file.locks.companion.store(companion, Ordering::Release);
    if companion >= 0
        && let Ok(inode) = inode_of(file)
    {
        // Fails in a vfork child only.
        let _ = entry_of(&mut ENTRIES.lock(), file, inode);
    }
}
