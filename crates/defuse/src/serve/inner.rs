//! Calls of plugins, or of libc on their behalf, while a call of the program is served.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::{Call, Outcome, RESTART};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::namei::OpenHow;
use crate::process::Process;
use crate::thread::{self, Adopting};
use crate::{locked_inodes, native, private_fd, user};

/// Keeps the descriptors that plugins open out of the program's sight, and lets a signal end what waits.
pub fn call(process: &Process, call: &Call) -> Outcome {
    match call.nr {
        sys::__NR_close => Outcome::Return(locked_inodes::close_for_plugin(call.args[0] as RawFd)),
        sys::__NR_flock => Outcome::Return(waiting(call.nr, call.args)),
        sys::__NR_fcntl => match call.args[1] as u32 {
            sys::F_DUPFD | sys::F_DUPFD_CLOEXEC => new_fd(process, call),
            sys::F_SETLK => Outcome::Return(set_lock(call, native::raw_call)),
            sys::F_SETLKW => Outcome::Return(set_lock(call, waiting)),
            sys::F_OFD_SETLKW => Outcome::Return(waiting(call.nr, call.args)),
            _ => Outcome::PassThrough,
        },
        _ => new_fd(process, call),
    }
}

fn set_lock(call: &Call, make: fn(u32, [u64; 6]) -> i64) -> i64 {
    locked_inodes::set(call.args[0] as RawFd, call.args[2], || make(call.nr, call.args))
}

fn new_fd(process: &Process, call: &Call) -> Outcome {
    let adopting = thread::adopting();
    if adopting == Adopting::ThroughExec {
        return Outcome::Return(open_through_exec(call));
    }
    let result = waiting(call.nr, call.args);
    if adopting == Adopting::AsOpened {
        return Outcome::Return(result);
    }
    if thread::is_brief() && !process.threaded.load(Ordering::Relaxed) && result >= 0 {
        // Nobody is there who could see it, and it is gone when the program goes on.
        return Outcome::Return(result);
    }
    let opened = match result {
        fd if fd >= 0 => Ok(fd as RawFd),
        error if error == -i64::from(Errno::MFILE.raw_os_error()) => native::new_fd(call.nr, call.args),
        error => Err(Errno::from_raw_os_error(-error as i32)),
    };
    let kept = opened.and_then(|fd| match private_fd::take(fd) {
        // Another thread of the program has closed the number: it is not the plugin's to use, nor to close.
        Err(Errno::BADF) => Err(Errno::BADF),
        moved => Ok(moved.unwrap_or_else(|_| private_fd::out_of_numbers(fd))),
    });
    Outcome::Return(kept.map_or_else(|error| -i64::from(error.raw_os_error()), i64::from))
}

/// openat2(2) of a plugin, which has asked for it without a system call of its own: where the descriptor stays as it is. `ENOSYS`
/// where it does not.
pub fn open_adopted(directory: RawFd, path: *const c_char, mut how: OpenHow) -> Result<RawFd, Errno> {
    match thread::adopting() {
        Adopting::No => return Err(Errno::NOSYS),
        Adopting::AsOpened => {}
        Adopting::ThroughExec => how.flags &= !u64::from(sys::O_CLOEXEC),
    }
    let (path, how, size) = (path as u64, (&raw const how) as u64, size_of::<OpenHow>() as u64);
    let result = waiting(sys::__NR_openat2, [directory as u64, path, how, size, 0, 0]);
    if result < 0 { Err(Errno::from_raw_os_error(-result as i32)) } else { Ok(result as RawFd) }
}

/// A plugin's call that makes an FD, which exec is not to close.
fn open_through_exec(call: &Call) -> i64 {
    let mut args = call.args;
    let mut how: [u64; 3];
    match call.nr {
        sys::__NR_open => args[1] &= !u64::from(sys::O_CLOEXEC),
        sys::__NR_openat => args[2] &= !u64::from(sys::O_CLOEXEC),
        sys::__NR_openat2 => {
            let Ok(asked) = user::read::<[u64; 3]>(call.args[2]) else { return waiting(call.nr, args) };
            how = asked;
            how[0] &= !u64::from(sys::O_CLOEXEC);
            args[2] = how.as_ptr() as u64;
            args[3] = size_of_val(&how) as u64;
        }
        _ => {}
    }
    waiting(call.nr, args)
}

/// Makes the call. If the program's call may be interrupted, so may this one, which then is `EINTR` for the plugin.
fn waiting(nr: u32, args: [u64; 6]) -> i64 {
    if !thread::may_wait() {
        return native::raw_call(nr, args);
    }
    let result = native::interruptible(nr, args);
    let interrupted = -i64::from(Errno::INTR.raw_os_error());
    if result != RESTART && result != interrupted {
        return result;
    }
    if !waits(nr, args) {
        // The signal came before the call, which the author of a plugin does not expect to fail by it.
        return native::raw_call(nr, args);
    }
    thread::interrupted(result == RESTART);
    interrupted
}

/// Whether the call is of a kind that signals interrupt: locks, and opening what has another end.
fn waits(nr: u32, args: [u64; 6]) -> bool {
    let [first, second, ..] = args;
    let (directory, path) = match nr {
        sys::__NR_flock | sys::__NR_fcntl => return true,
        sys::__NR_open | sys::__NR_creat => (sys::AT_FDCWD as u64, first),
        sys::__NR_openat | sys::__NR_openat2 => (first, second),
        _ => return false,
    };
    native::stat_at(directory as RawFd, path)
        .is_ok_and(|stat| matches!(stat.st_mode & sys::S_IFMT, sys::S_IFIFO | sys::S_IFCHR))
}

/// The numbers of the calls that [`call`] is asked about: those that return a new FD, close, and locks, which may wait.
pub const INNER: &[u32] = &[
    sys::__NR_open,
    sys::__NR_openat,
    sys::__NR_openat2,
    sys::__NR_creat,
    sys::__NR_dup,
    sys::__NR_fcntl,
    sys::__NR_socket,
    sys::__NR_accept,
    sys::__NR_accept4,
    sys::__NR_memfd_create,
    sys::__NR_eventfd,
    sys::__NR_eventfd2,
    sys::__NR_epoll_create,
    sys::__NR_epoll_create1,
    sys::__NR_timerfd_create,
    sys::__NR_signalfd,
    sys::__NR_signalfd4,
    sys::__NR_inotify_init,
    sys::__NR_inotify_init1,
    sys::__NR_pidfd_open,
    sys::__NR_userfaultfd,
    sys::__NR_close,
    sys::__NR_flock,
];
