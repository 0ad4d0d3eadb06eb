//! Before and after a new process: what both will have must be known to both, and no lock may be lost.

use std::sync::atomic::Ordering;

use interpose::{ForkCall, ForkKind};
use rustix::io::Errno;

use crate::process::Process;
use crate::{heap, nofile, paging, shadow, thread};

pub fn before(process: &'static Process, fork: &ForkCall) -> Result<(), Errno> {
    if fork.kind == ForkKind::Thread {
        if !process.threaded.swap(true, Ordering::AcqRel) {
            shadow::disown_all(process)?;
        }
        return Ok(());
    }
    if !process.files.is_empty() {
        shadow::separate_all(process)?;
    }
    if fork.kind == ForkKind::Fork {
        // In this order everywhere: a lock is only waited for by holders of those before it.
        process.descriptors.acquire();
        process.rebuilding.acquire();
        process.staging.acquire();
        process.cwd.acquire();
        process.vfork.acquire();
        for mount in &process.mounts {
            mount.before_fork();
            if let Some(instance) = mount.loaded() {
                instance.fork_prepare();
            }
        }
        if let Err(error) = paging::before_fork(process) {
            release_files(process);
            for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
                instance.fork_parent();
            }
            return Err(error);
        }
    }
    // Every child has limits of its own from now on, and must not keep one that is raised.
    nofile::before_fork();
    if fork.kind == ForkKind::Fork {
        heap::before_fork();
    }
    Ok(())
}

fn release_files(process: &Process) {
    for mount in process.mounts.iter().rev() {
        mount.after_fork();
    }
    process.vfork.release();
    process.cwd.release();
    process.staging.release();
    process.rebuilding.release();
    process.descriptors.release();
}

pub fn after_in_parent(process: &'static Process, fork: &ForkCall, result: i64) {
    match fork.kind {
        ForkKind::Fork => {
            heap::after_fork();
            nofile::after_fork();
            paging::after_fork_in_parent(process, result > 0);
            release_files(process);
            for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
                instance.fork_parent();
            }
        }
        ForkKind::Vfork => {
            if result < 0 {
                nofile::after_fork(); // There was no child to do it, which runs first and on the same memory.
            }
            process.after_vfork();
        }
        ForkKind::SharedVm => nofile::after_fork(),
        ForkKind::Thread => {}
    }
}

pub fn after_in_child(process: &'static Process, fork: &ForkCall) {
    match fork.kind {
        ForkKind::Fork => {}
        ForkKind::Vfork => return nofile::after_fork(),
        ForkKind::Thread | ForkKind::SharedVm => return,
    }
    thread::after_fork_in_child();
    heap::after_fork();
    nofile::after_fork();
    paging::after_fork_in_child(process);
    release_files(process);
    for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
        instance.fork_child();
    }
    process.register();
}
