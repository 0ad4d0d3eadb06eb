//! The end of the process, and of its image: what closing files means for their plugins.
//!
//! The kernel closes the FDs, and what a plugin's handle is in memory only would be gone without a word: data that it has not passed on
//! yet, above all. So each file is flushed and closed before. Not for plugins whose handles are a descriptor and nothing else.
//!
//! A signal that ends the process by its default action is postponed for that ([`struck`]) until a thread makes a call that is ours or waits, for a moment at most. The
//! next signal ends the process at once.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use interpose::{Call, End};
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance};

use super::{Reply, Served, descriptors};
use crate::file::OpenFile;
use crate::paging::live;
use crate::process::{Process, STATES};
use crate::{native, trace};

/// 0, or the signal that is to end the process; with [`BEGUN`] somebody is about to end it: nobody else is to use its files any more.
static ENDING: AtomicU32 = AtomicU32::new(0);
const BEGUN: u32 = 1 << 8;

/// The interposer asks before a signal ends the process.
static WATCHING: AtomicBool = AtomicBool::new(false);

/// The timer by which the process ends at the latest; -1 for none.
static TIMER: AtomicI32 = AtomicI32::new(-1);

/// How long an end is postponed at most, in nanoseconds; for a thread that computes [`interpose`] sees to it that it is not that long.
const LONG: u64 = 2_000_000_000;

/// exit_group(2).
pub fn exit_group(process: &'static Process, call: &Call) -> Served {
    if interpose::in_vfork_child() || process.restricted.load(Ordering::Relaxed) {
        return Ok(Reply::Pass);
    }
    finish(process);
    // Not by the program's own instruction, which may have been in a mapped file.
    Ok(Reply::Value(native::call(call)))
}

/// Flushes and closes all files.
fn finish(process: &'static Process) {
    interpose::begin_end();
    live::leave(process);
    let concerned = concerned(process);
    if concerned.is_empty() {
        return;
    }
    ENDING.fetch_or(BEGUN, Ordering::AcqRel);
    for fd in concerned {
        if let Some(released) = process.files.remove(fd) {
            if let Err(error) = descriptors::finish(process, &released) {
                trace::debug(format_args!("at the end of the process: {error}"));
            }
            drop(released);
        }
    }
}

/// A file of this plugin is open from now on: its plugin will want to hear of the end.
pub fn watch(instance: &Instance) {
    if WATCHING.load(Ordering::Relaxed) || interpose::in_vfork_child() {
        return;
    }
    // What others keep in this process's memory only is gone in any case.
    let unconcerned = Capabilities::BARE_FD.union(Capabilities::PROCESS_LOCAL);
    // The kernel keeps the first process of a PID namespace from signals that it does not handle.
    if instance.capabilities().intersects(unconcerned) || native::pid() == 1 {
        return;
    }
    WATCHING.store(true, Ordering::Relaxed);
    interpose::watch_endings();
}

/// A signal is about to end the process. Only atomics and system calls: see [`interpose::Handler::struck`].
pub fn struck(process: &'static Process, signal: u32) -> End {
    if process.restricted.load(Ordering::Relaxed) {
        return End::AtOnce;
    }
    match ENDING.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            set_deadline(signal);
            if ENDING.load(Ordering::SeqCst) & BEGUN != 0 {
                // Who began it may have found no timer yet.
                drop_deadline();
            }
            // All calls about FDs are ours.
            STATES.forget_range(0, u32::MAX);
            process.serving.store(1, Ordering::Release);
            End::Postponed
        }
        // It ends already, and the next signal is one too many.
        Err(BEGUN)
            if ENDING
                .compare_exchange(BEGUN, BEGUN | signal, Ordering::AcqRel, Ordering::Acquire)
                .is_ok() =>
        {
            set_deadline(signal);
            End::Begun
        }
        Err(_) => End::AtOnce,
    }
}

/// The kernel sends the signal once more, which ends the process then.
fn set_deadline(signal: u32) {
    let event = [0, u64::from(signal), 0, 0, 0, 0, 0, 0];
    let mut timer = -1_i32;
    let (event, made) = ((&raw const event) as u64, (&raw mut timer) as u64);
    native::raw_call(sys::__NR_timer_create, [sys::CLOCK_MONOTONIC.into(), event, made, 0, 0, 0]);
    let after = [0, 0, LONG / 1_000_000_000, LONG % 1_000_000_000];
    native::raw_call(sys::__NR_timer_settime, [timer as u64, 0, (&raw const after) as u64, 0, 0, 0]);
    TIMER.store(timer, Ordering::SeqCst);
}

fn drop_deadline() {
    native::raw_call(sys::__NR_timer_delete, [TIMER.swap(-1, Ordering::SeqCst) as u64, 0, 0, 0, 0, 0]);
}

/// Before a call is served. While the process ends it does not come back: it would not find its files.
#[inline]
pub fn before_call(process: &'static Process, call: &Call) {
    if ENDING.load(Ordering::Relaxed) != 0 && !interpose::in_vfork_child() && !is_of_allocator(call) {
        end(process);
    }
}

/// After a call was served.
#[inline]
pub fn after_call(process: &'static Process) {
    if ENDING.load(Ordering::Relaxed) != 0 && !interpose::in_vfork_child() {
        end(process);
    }
}

/// Whether the program may make this call under the lock of its allocator, for which what a plugin does may have to wait.
fn is_of_allocator(call: &Call) -> bool {
    match call.nr {
        sys::__NR_mmap => call.args[4] as u32 == u32::MAX,
        sys::__NR_munmap | sys::__NR_mremap | sys::__NR_mprotect | sys::__NR_madvise | sys::__NR_brk => true,
        _ => false,
    }
}

#[cold]
fn end(process: &'static Process) -> ! {
    let signal = ENDING.fetch_or(BEGUN, Ordering::SeqCst);
    if signal & BEGUN != 0 {
        loop {
            native::raw_call(sys::__NR_pause, [0; 6]);
        }
    }
    // However long it takes: the next signal ends it.
    drop_deadline();
    finish(process);
    interpose::end_by(signal)
}

/// In a forked child: what ends its parent does not end it.
pub fn in_forked_child() {
    ENDING.store(0, Ordering::Relaxed);
}

/// Before exec: the next image has other handles, or none.
pub fn flush_all(process: &'static Process) {
    for fd in concerned(process) {
        let Some(file) = process.files.get(fd) else { continue };
        if let Err(error) = file.with_handle(Instance::flush) {
            trace::debug(format_args!("before exec: {error}"));
        }
    }
}

/// FDs of files that are more than a descriptor.
fn concerned(process: &'static Process) -> Vec<RawFd> {
    let mut fds = Vec::new();
    if process.mounts.iter().filter_map(|mount| mount.loaded()).all(is_bare) {
        return fds;
    }
    process.files.for_each(|fd, file, _| {
        if file.open_flags & sys::O_PATH == 0 && !has_bare_handle(file) {
            fds.push(fd);
        }
    });
    fds
}

fn has_bare_handle(file: &OpenFile) -> bool {
    file.instance().is_ok_and(is_bare)
}

fn is_bare(instance: &Instance) -> bool {
    instance.capabilities().contains(Capabilities::BARE_FD)
}
