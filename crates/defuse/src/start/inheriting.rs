//! What this image takes over from the one before it.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::carried::{self, Mark};
use crate::environment::Inheritance;
use crate::process::{Cwd, Process};
use crate::resolve::PathBytes;
use crate::{
    listing, lock_files, locked_inodes, native, private_fd, serve, shadow, trace, unclaimed,
    working_directory,
};

/// linux/prctl.h
const PR_SET_NAME: u32 = 15;

/// Takes over what the previous image of this process left.
pub fn inherit(
    process: &'static Process,
    left: Option<&Inheritance>,
) -> Result<(), Box<dyn std::error::Error>> {
    let pid = native::pid();
    let known = left
        .and_then(|left| left.process)
        .filter(|&me| process.arena.process(me).is_ok_and(|found| found.pid == pid));
    match known {
        Some(me) => process.go_on_as(me)?,
        None => process.register(left.and_then(|left| left.made_by(pid))),
    }
    let Some(left) = left else { return Ok(()) };
    if !left.name.is_empty() {
        let mut name = [0u8; 16];
        let length = left.name.len().min(15);
        name[..length].copy_from_slice(&left.name[..length]);
        native::raw_call(sys::__NR_prctl, [u64::from(PR_SET_NAME), name.as_ptr() as u64, 0, 0, 0, 0]);
    }
    process.serving.store(left.serving.into(), Ordering::Relaxed);
    if left.locking {
        serve::locks::set_used();
    }
    if let Some((mount, below)) = process.table.find(&left.cwd) {
        let below = if below.is_empty() { b"/".as_slice() } else { below };
        let path = PathBytes::try_from(below).map_err(|_| "the working directory's path is too long")?;
        *process.cwd.lock() = Cwd::Served { mount, path, held: None };
        process.nowhere.store(true, Ordering::Relaxed);
    }
    if let Some(token) = left.token {
        let mut kept = Vec::new();
        match process.arena.take_exec_map(token, &mut kept) {
            Ok(()) => {
                // Before anything is closed.
                let locked =
                    |entry: &&stash::ExecEntry| matches!(Mark::of(entry), Mark::Parked | Mark::Locked);
                kept.iter().filter(locked).for_each(locked_inodes::inherit);
                if kept.iter().any(|entry| Mark::of(entry).is_perhaps()) {
                    keep_what_was_inherited(process, &kept)?;
                }
                for entry in kept.iter().filter(|entry| !Mark::of(entry).is_perhaps()) {
                    take_over(process, entry);
                }
                process.carried.fill(kept);
            }
            Err(error) => trace::error(format_args!("files of the previous image are opened anew: {error}")),
        }
    }
    Ok(())
}

/// Takes a private descriptor over from the previous image. The others stay as the list has them.
fn take_over(process: &'static Process, entry: &stash::ExecEntry) {
    let fd = entry.fd as RawFd;
    match Mark::of(entry) {
        Mark::Kept => return private_fd::adopt(fd),
        Mark::WorkingDirectory => working_directory::inherit(process, entry.slot, fd),
        Mark::Companion | Mark::CompanionPerhaps | Mark::Records | Mark::Spare => lock_files::inherit(entry),
        _ => return,
    }
    private_fd::adopt(fd);
    let cloexec = u64::from(sys::FD_CLOEXEC);
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), cloexec, 0, 0, 0]);
}

/// Of the private descriptors that went through exec, closes those whose file did not.
fn keep_what_was_inherited(
    process: &'static Process,
    kept: &[stash::ExecEntry],
) -> Result<(), Box<dyn std::error::Error>> {
    let slot_at = |fd| shadow::slot_behind(process, fd, &native::fstat(fd));
    // Files by which the list says where they are, if anywhere.
    let (mut known, mut inherited) = (BTreeSet::new(), BTreeSet::new());
    let names_a_shadow =
        |run: &&stash::ExecEntry| matches!(Mark::of(run), Mark::Shadow | Mark::WorkingDirectory);
    for entry in kept.iter().filter(names_a_shadow).flat_map(carried::singly) {
        known.insert(entry.slot.to_bits());
        inherited.extend(slot_at(entry.fd as RawFd).map(stash::SlotId::to_bits));
    }
    let perhaps = || kept.iter().filter(|entry| Mark::of(entry).is_perhaps());
    if perhaps().any(|entry| !known.contains(&entry.slot.to_bits())) {
        let of_plugins = kept.iter().filter(|entry| Mark::of(entry) == Mark::KeptPerhaps);
        let of_plugins: BTreeSet<u32> = of_plugins.map(|entry| entry.fd).collect();
        for_each_open_fd(|fd| {
            if !of_plugins.contains(&(fd as u32)) {
                inherited.extend(slot_at(fd).map(stash::SlotId::to_bits));
            }
        })?;
    }
    // A number may be there for two files: one that the parent closed, and one that has got it since.
    let comes = |entry: &&stash::ExecEntry| inherited.contains(&entry.slot.to_bits());
    let needed: BTreeSet<u32> = perhaps().filter(comes).map(|entry| entry.fd).collect();
    for entry in perhaps() {
        let fd = entry.fd as RawFd;
        if !comes(&entry) {
            if !needed.contains(&entry.fd) {
                locked_inodes::close(fd);
            }
        } else if Mark::of(entry) == Mark::KeptPerhaps {
            unclaimed::came_through(entry);
        } else {
            take_over(process, entry);
        }
    }
    Ok(())
}

/// Calls `each` for every open FD of this process.
pub fn for_each_open_fd(mut each: impl FnMut(RawFd)) -> Result<(), Errno> {
    let flags = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let directory = native::new_fd(sys::__NR_open, [c"/proc/self/fd".as_ptr() as u64, flags, 0, 0, 0, 0])?;
    let listed = listing::for_each_number(directory, |fd| {
        if fd != directory {
            each(fd);
        }
    });
    native::close(directory);
    listed
}
