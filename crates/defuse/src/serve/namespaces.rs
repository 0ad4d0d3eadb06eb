//! unshare(2) and setns(2): what of a process a thread or process stops sharing, and whose name spaces it joins.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{Reply, Served, places, sandbox};
use crate::listing::for_each_name;
use crate::namei::{self, OpenHow};
use crate::process::Process;
use crate::{common, native};

/// FDs and the working directory of our tables are those of the process, so no thread may get its own. A process of one
/// thread shares them with nobody here, and may.
///
/// Name spaces are the kernel's. The session is found by paths: in a new mount name space in which its folder is hidden, opening
/// on a mount may fail, and what is open stays so. So may be what the plugins need: they are loaded before.
pub fn unshare(process: &'static Process, call: &Call) -> Served {
    let own = sys::CLONE_FILES | sys::CLONE_FS;
    if call.args[0] as u32 & own != 0 && !interpose::in_vfork_child() && has_threads() {
        return Err(Errno::INVAL);
    }
    if call.args[0] as u32 & sys::CLONE_NEWNS != 0 {
        sandbox::load_plugins(process);
    }
    let result = native::call(call);
    if result >= 0 && !interpose::in_vfork_child() {
        common::unshared(process, call.args[0] as u32);
    }
    Ok(Reply::Value(result))
}

/// With another mount name space come its root as root and as working directory, which so is on no mount any more.
pub fn setns(process: &'static Process, call: &Call) -> Served {
    places::check(process, call.args[0] as RawFd)?;
    // 0: whatever the FD is.
    let kinds = call.args[1] as u32;
    if kinds == 0 || kinds & sys::CLONE_NEWNS != 0 {
        sandbox::load_plugins(process);
    }
    let result = native::call(call);
    if result >= 0 {
        process.root_changed();
    }
    Ok(Reply::Value(result))
}

/// Whether another thread may run the program's code. unshare(2): `CLONE_THREAD` changes nothing in a process of one thread, and is EINVAL
/// in others; but also for a while after `pthread_join`, until the thread that is joined is gone.
pub fn has_threads() -> bool {
    native::raw_call(sys::__NR_unshare, [sys::CLONE_THREAD.into(), 0, 0, 0, 0, 0]) < 0
        && !others_end().unwrap_or(false)
}

/// Whether all threads but this one are on their way out, after their last instruction.
fn others_end() -> Result<bool, Errno> {
    let me = native::raw_call(sys::__NR_gettid, [0; 6]);
    let how =
        OpenHow { flags: (sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC).into(), mode: 0, resolve: 0 };
    let tasks = namei::look_how(sys::AT_FDCWD, b"/proc/self/task", &how)?;
    let mut all = true;
    let listed = for_each_name(tasks, |name| {
        let other = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok());
        let over = |other| i64::from(other) == me || interpose::guest_thread_has_ended(other);
        all &= other.is_some_and(over) || ends(tasks, name)?;
        Ok(())
    });
    native::close(tasks);
    listed.map(|()| all)
}

/// Whether the thread `name` of those in `tasks` is ending or gone. proc_pid_stat(5): the ninth field has the kernel's flags.
fn ends(tasks: RawFd, name: &[u8]) -> Result<bool, Errno> {
    /// `PF_EXITING` of the kernel's `include/linux/sched.h`.
    const EXITING: u32 = 4;
    let how = OpenHow { flags: (sys::O_RDONLY | sys::O_CLOEXEC).into(), mode: 0, resolve: 0 };
    let stat = match namei::look_how(tasks, &[name, b"/stat"].concat(), &how) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error),
    };
    // Numbers, and a name of at most 64 bytes.
    let mut text = [0_u8; 512];
    let args = [stat as u64, text.as_mut_ptr() as u64, text.len() as u64, 0, 0, 0];
    let read = native::checked(sys::__NR_read, args);
    native::close(stat);
    match read {
        Ok(length) => Ok(flags_of(&text[..length as usize]).is_some_and(|flags| flags & EXITING != 0)),
        Err(Errno::SRCH) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The flags in a line of proc_pid_stat(5). The name before them may have spaces and parentheses.
fn flags_of(stat: &[u8]) -> Option<u32> {
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    let flags = after_name.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(6)?;
    std::str::from_utf8(flags).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_behind_any_name() {
        assert_eq!(flags_of(b"7 (a b) c) R 1 2 3 4 5 4194564 6 7"), Some(4_194_564));
        assert_eq!(flags_of(b"7 (a"), None);
    }

    #[test]
    fn a_thread_that_waits_does_not_end() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(!others_end().unwrap());
        drop(go);
        let _ = thread.join();
    }
}
