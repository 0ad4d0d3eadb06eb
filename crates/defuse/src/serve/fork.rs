//! Before and after a new process: what both will have must be known to both, and no lock may be lost.

use std::sync::atomic::Ordering;

use interpose::{ForkCall, ForkKind};
use rustix::io::Errno;

use crate::process::Process;
use crate::{heap, nofile, shadow, thread};

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
        for mount in &process.mounts {
            mount.before_fork();
            if let Some(instance) = mount.loaded() {
                instance.fork_prepare();
            }
        }
        nofile::before_fork();
        heap::before_fork();
    }
    Ok(())
}

fn release(process: &Process) {
    heap::after_fork();
    nofile::after_fork();
    for mount in process.mounts.iter().rev() {
        mount.after_fork();
    }
    process.cwd.release();
    process.staging.release();
    process.rebuilding.release();
    process.descriptors.release();
}

pub fn after_in_parent(process: &'static Process, fork: &ForkCall) {
    match fork.kind {
        ForkKind::Fork => {
            release(process);
            for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
                instance.fork_parent();
            }
        }
        ForkKind::Vfork => process.after_vfork(),
        ForkKind::Thread | ForkKind::SharedVm => {}
    }
}

pub fn after_in_child(process: &'static Process, fork: &ForkCall) {
    if fork.kind != ForkKind::Fork {
        return;
    }
    thread::after_fork_in_child();
    release(process);
    for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
        instance.fork_child();
    }
    process.register();
}
