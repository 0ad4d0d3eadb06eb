//! The end of the process, and of its image: what closing files means for their plugins.
//!
//! The kernel closes the FDs, and what a plugin's handle is in memory only would be gone without a word: data that it has not passed on
//! yet, above all. So each file is flushed and closed before. Not for plugins whose handles are a descriptor and nothing else; and not
//! when a signal ends the process.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance};

use super::{Reply, Served, descriptors};
use crate::file::OpenFile;
use crate::paging::live;
use crate::process::Process;
use crate::{native, trace};

/// The process is about to end: nobody is to use its files any more.
static ENDING: AtomicBool = AtomicBool::new(false);

/// exit_group(2).
pub fn exit_group(process: &'static Process, call: &Call) -> Served {
    if interpose::in_vfork_child() || process.restricted.load(Ordering::Relaxed) {
        return Ok(Reply::Pass);
    }
    live::leave(process);
    let concerned = concerned(process);
    if !concerned.is_empty() {
        ENDING.store(true, Ordering::Release);
        for fd in concerned {
            if let Some(released) = process.files.remove(fd) {
                if let Err(error) = descriptors::finish(process, &released) {
                    trace::debug(format_args!("at the end of the process: {error}"));
                }
                drop(released);
            }
        }
    }
    // Not by the program's own instruction, which may have been in a mapped file.
    Ok(Reply::Value(native::call(call)))
}

/// A call of another thread while the process ends does not come back: it would not find its files.
pub fn wait_for_end() {
    if ENDING.load(Ordering::Relaxed) && !interpose::in_vfork_child() {
        loop {
            native::raw_call(sys::__NR_pause, [0; 6]);
        }
    }
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
