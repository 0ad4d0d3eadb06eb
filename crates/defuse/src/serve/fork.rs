//! Before and after a new process: what both will have must be known to both, and no lock may be lost.

pub mod ahead;

use std::sync::atomic::Ordering;

use interpose::{ForkCall, ForkKind};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{ending, reserved, sandbox};
use crate::mount::{self, Mount};
use crate::process::Process;
use crate::{
    common, heap, lending, lock_files, locked_inodes, nofile, paging, shadow, sync, thread, unclaimed, vfork,
    working_directory,
};

pub fn before(process: &'static Process, fork: &ForkCall) -> Result<(), Errno> {
    // Somebody is going to run beside us on the same FD table.
    let beside = fork.kind == ForkKind::Thread || (fork.shares_files() && fork.kind != ForkKind::Vfork);
    if beside && !process.threaded.swap(true, Ordering::AcqRel) {
        shadow::disown_all(process)?;
    }
    if fork.kind == ForkKind::Thread && !fork.is_lodger() {
        return Ok(());
    }
    if fork.flags & u64::from(sys::CLONE_NEWNS) != 0 {
        // The child may put something else in the place of what the plugins need (bubblewrap does), and go on using the mounts.
        sandbox::load_plugins(process);
    }
    if fork.kind == ForkKind::Fork {
        ahead::hold_still(process, fork)?;
        if let Err(error) = paging::before_fork(process) {
            go_on(process);
            return Err(error);
        }
    } else {
        shadow::separate_all(process)?;
        working_directory::share(process);
    }
    if fork.is_lodger() {
        common::admit_lodger(process, fork);
    }
    // Every child has limits of its own from now on, and must not keep one that is raised.
    if fork.kind == ForkKind::Vfork {
        if !fork.shares_files() {
            process.mounts.iter().for_each(Mount::before_vfork);
        }
        let together = process.descriptors.lock();
        // What other threads have opened meanwhile.
        shadow::separate_rest(process)?;
        shadow::numbers::enter_all(process, None);
        if fork.shares_files() {
            common::lend_table(process);
        }
        vfork::begin(vfork::Beginning {
            own_table: (!fork.shares_files()).then(mount::started),
            umask: (!shares_directory(fork)).then(|| common::umask(process)),
            limits: process.nofile(),
        });
        drop(together);
        nofile::before_vfork();
    } else if fork.kind != ForkKind::Fork {
        nofile::before_fork();
    }
    if matches!(fork.kind, ForkKind::Fork | ForkKind::Vfork) {
        // The child registers itself, and we may end before it does: also where we wait for it, as that can be killed.
        process.arena.begin_birth();
    }
    Ok(())
}

/// Before a fork, after all calls of plugins and when the entry has its own locks: what a thread takes that loads an object, and has the entry's lock for that.
pub fn at_last() {
    // Every child has limits of its own from now on, and must not keep one that is raised.
    nofile::before_fork();
    // After the lock of the limit: it is taken in closes, by plugins and under that.
    locked_inodes::before_fork();
    shadow::before_fork();
    heap::before_fork();
}

/// Whether working directory and umask are to be those of both.
fn shares_directory(fork: &ForkCall) -> bool {
    fork.flags & u64::from(sys::CLONE_FS) != 0
}

/// Makes every file a shadow, takes our locks and asks the plugins to keep still.
fn hold_still(process: &'static Process, fork: &ForkCall) -> Result<(), Errno> {
    shadow::separate_all(process)?;
    working_directory::share(process);
    common::before_fork(process, fork)?;
    // In this order everywhere: a lock is only waited for by holders of those before it.
    process.descriptors.acquire();
    ahead::begin(process);
    // What other threads have opened meanwhile: the child would have it unshared, and the parent's close take its slot away.
    if let Err(error) = shadow::separate_rest(process) {
        ahead::end();
        process.descriptors.release();
        return Err(error);
    }
    if fork.shares_files() {
        common::share_table(process, fork);
    }
    process.rebuilding.acquire();
    process.staging.acquire();
    process.cwd.acquire();
    unclaimed::before_fork();
    lending::before_fork();
    reserved::before_fork();
    process.mounts.iter().for_each(Mount::before_fork);
    lock_files::before_fork();
    paging::hold(process);
    // Last: plugins are called under all of these.
    for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
        instance.fork_prepare();
    }
    // A vfork child that forks looks there for its plugins.
    vfork::before_fork();
    Ok(())
}

/// Undoes [`hold_still`], in the parent.
fn go_on(process: &'static Process) {
    ahead::is_over();
    // A vfork child that forks looks its plugins up there. No other fork can take it before the files are released.
    vfork::after_fork();
    // Those that were asked to keep still, while no other can be loaded.
    for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
        instance.fork_parent();
    }
    release_files(process);
}

fn release_files(process: &Process) {
    paging::let_go(process);
    lock_files::after_fork();
    for mount in process.mounts.iter().rev() {
        mount.after_fork();
    }
    reserved::after_fork();
    lending::after_fork();
    unclaimed::after_fork();
    process.cwd.release();
    process.staging.release();
    process.rebuilding.release();
    ahead::end();
    process.descriptors.release();
}

pub fn after_in_parent(process: &'static Process, fork: &ForkCall, result: i64) {
    match fork.kind {
        ForkKind::Fork => {
            if result < 0 {
                process.arena.end_birth();
            }
            heap::after_fork();
            shadow::after_fork();
            locked_inodes::after_fork();
            nofile::after_fork();
            paging::after_fork_in_parent(process, result > 0);
            go_on(process);
        }
        ForkKind::Vfork => {
            // It has registered to execute something, or is gone.
            process.arena.end_birth();
            if result < 0 {
                nofile::after_fork(); // There was no child to do it, which runs first and on the same memory.
            }
            nofile::forget_child();
            ahead::vfork_child_gone();
            sync::release_of_child();
            thread::vfork_child_gone();
            for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
                instance.vfork_child_gone();
            }
            let left = vfork::end();
            for number in left.mounts {
                // So that the next child finds it. What is wrong with it is said again when it is needed.
                let _ = process.mounts[number].instance();
            }
            if fork.shares_files() {
                common::take_table_back(process);
            }
            paging::live::after_vfork(process);
            if result > 0
                && shares_directory(fork)
                && let Some(cwd) = left.cwd
            {
                process.set_cwd(cwd);
            }
        }
        ForkKind::SharedVm => nofile::after_fork(),
        ForkKind::Thread if fork.is_lodger() => nofile::after_fork(),
        ForkKind::Thread => {}
    }
}

pub fn after_in_child(process: &'static Process, fork: &ForkCall) {
    match fork.kind {
        ForkKind::Fork => {}
        ForkKind::Vfork => return nofile::after_fork(),
        ForkKind::Thread | ForkKind::SharedVm => return,
    }
    ahead::in_child();
    let parents_thread = thread::id();
    thread::after_fork_in_child();
    let moving = process.in_chdir.swap(0, Ordering::SeqCst) != 0;
    ending::in_forked_child();
    heap::after_fork();
    shadow::after_fork();
    locked_inodes::after_fork();
    nofile::after_fork();
    locked_inodes::in_forked_child(fork.shares_files());
    paging::after_fork_in_child(process, fork.shares_files());
    vfork::after_fork();
    release_files(process);
    vfork::in_forked_child(parents_thread);
    lock_files::in_forked_child(fork.shares_files());
    reserved::in_forked_child(process, fork.shares_files());
    process.mounts.iter().for_each(Mount::in_forked_child);
    for instance in process.mounts.iter().filter_map(|mount| mount.loaded()) {
        instance.fork_child();
    }
    // On memory that is a copy of the parent's, which says who that was.
    process.register(Some(process.me()));
    process.arena.end_birth();
    common::in_child(process, fork);
    if moving {
        // Another thread's chdir(2), which is not here to say what has come of it.
        process.know_cwd_of_kernel();
    }
}
