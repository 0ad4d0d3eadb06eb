//! prctl(2) and seccomp(2): a program that gives up system calls. What serving needs once is done before; what it needs for
//! each call must be allowed by the program's filter.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::Purpose;
use rustix::io::Errno;

use super::open::STATUS;
use super::{Reply, Served, file_size};
use crate::file::OpenFile;
use crate::process::Process;
use crate::shadow::ShadowProvider;
use crate::{common, file, locked_inodes, native, shadow, start, thread};

/// linux/prctl.h
const PR_SET_SECCOMP: u32 = 22;
const PR_SET_SYSCALL_USER_DISPATCH: u32 = 59;
/// `SECCOMP_MODE_STRICT`: read, write, exit and `rt_sigreturn`.
const MODE_STRICT: u64 = 1;
/// Operations of seccomp(2).
const SET_MODE_STRICT: u64 = 0;
const SET_MODE_FILTER: u64 = 1;

pub fn prctl(process: &'static Process, call: &Call) -> Served {
    let [option, mode, ..] = call.args;
    match option as u32 {
        PR_SET_SECCOMP => restrict(process, mode == MODE_STRICT),
        PR_SET_SYSCALL_USER_DISPATCH => return dispatch(call),
        _ => {}
    }
    Ok(Reply::Pass)
}

pub fn seccomp(process: &'static Process, call: &Call) -> Served {
    match call.args[0] & 0xffff_ffff {
        SET_MODE_STRICT => restrict(process, true),
        SET_MODE_FILTER => restrict(process, false),
        _ => {}
    }
    Ok(Reply::Pass)
}

/// As on a kernel without it: a served call makes others, from where the program would have them blocked. To turn off what is not on changes nothing, and
/// ours stays as it is.
fn dispatch(call: &Call) -> Served {
    const OFF: u64 = 0;
    let [_, mode, rest @ .., _] = call.args;
    if mode == OFF && rest == [0; 3] { super::DONE } else { Err(Errno::INVAL) }
}

fn restrict(process: &'static Process, strict: bool) {
    if interpose::in_vfork_child() {
        return;
    }
    load(process);
    if strict {
        give_away(process);
    }
    process.restricted.store(true, Ordering::Relaxed);
    interpose::make_no_calls_of_our_own();
}

/// Loads what serving needs once, which may be forbidden later.
pub fn load(process: &'static Process) {
    thread::id();
    file_size::limit();
    load_plugins(process);
    // An FD that nothing is known of would be looked at when it is used.
    let _ = start::for_each_open_fd(|fd| drop(file::owner(process, fd)));
}

/// Loads the plugins, and what else is found by paths that may lead nowhere in a new root.
pub fn load_plugins(process: &'static Process) {
    for mount in &process.mounts {
        // One that cannot be loaded says so when it is used.
        let _ = mount.instance();
    }
    if interpose::in_vfork_child() {
        return; // It has descriptors of its own, but what is known of them is its parent's.
    }
    for mount in &process.mounts {
        if let ShadowProvider::Module(module) = &mount.shadows {
            module.prepare(mount.point());
        }
    }
    let _ = shadow::placeholder(process);
}

/// Gives the program the files behind its FDs: no plugin can work with the four calls that strict mode leaves.
fn give_away(process: &'static Process) {
    let mut served = Vec::new();
    process.files.for_each(|fd, _, _| served.push(fd));
    for fd in served {
        let _together = process.descriptors.lock();
        let Some(file) = process.files.get(fd) else { continue };
        let Ok(behind) = reopen(&file) else { continue };
        let moved = shadow::vacate(process, &file, fd, false, true)
            .and_then(|()| native::checked(sys::__NR_dup2, [behind as u64, fd as u64, 0, 0, 0, 0]));
        locked_inodes::close(behind);
        if moved.is_ok() {
            drop(process.files.remove(fd));
            common::mark_foreign(process, fd);
        }
    }
}

/// A descriptor of the file behind, with the same position and flags.
fn reopen(file: &OpenFile) -> Result<RawFd, Errno> {
    let backing =
        file.with_handle(|instance, handle| Ok(instance.backing_fd(handle, Purpose::Map)?.as_raw_fd()))?;
    let shared = file.shared()?;
    let flags = file.open_flags & sys::O_ACCMODE | shared.status_flags() & STATUS | sys::O_CLOEXEC;
    let name = format!("/proc/self/fd/{backing}\0");
    let fd = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags.into(), 0, 0, 0, 0])?;
    native::raw_call(sys::__NR_lseek, [fd as u64, shared.offset() as u64, u64::from(sys::SEEK_SET), 0, 0, 0]);
    Ok(fd)
}
