//! Tidying up after a session whose runner is gone, but not all of its processes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use defuse::session::Session;
use nix::unistd::{ForkResult, fork, setsid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// How long to wait where processes cannot be waited for.
const PAUSE: Duration = Duration::from_secs(1);

/// Leaves a process behind that waits until `live` names no process any more, and then, after `before_removal`, removes the session's folder. It has no terminal, no FD but the session's,
/// and does not keep anybody waiting; the folder stays locked as long as it lives, and should it be killed, the next sweep does its work.
///
/// # Errors
///
/// When there can be no such process: then the folder is left to the next sweep.
pub fn leave_behind(
    session: Session,
    live: impl Fn() -> Vec<i32>,
    before_removal: impl FnOnce(&Path),
) -> Result<(), nix::errno::Errno> {
    // SAFETY: this process has one thread only, so its child may do whatever it could.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // The lock is shared with the child, which keeps it.
        drop(session);
        return Ok(());
    }
    detach(&session.fds());
    loop {
        let pids = live();
        if pids.is_empty() {
            break;
        }
        wait_for_one(&pids);
    }
    before_removal(session.path());
    let _ = session.remove();
    std::process::exit(0)
}

/// Lets go of everything but `kept`: terminal, working directory, FDs.
fn detach(kept: &[rustix::fd::BorrowedFd<'_>]) {
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if first < fd {
            // SAFETY: what owns the FDs in between is either inherited and unknown to this program, or not used any more by
            // this process, which ends without running destructors.
            unsafe { libc::close_range(first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// Returns when one of the processes has ended, or after a pause if that cannot be known.
fn wait_for_one(pids: &[i32]) {
    let mut opened: Vec<OwnedFd> = Vec::new();
    for &pid in pids {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => opened.push(pidfd),
            // It has ended already.
            Err(rustix::io::Errno::SRCH) => return,
            // Too many FDs: those that we have will do.
            Err(_) => break,
        }
    }
    if opened.is_empty() {
        std::thread::sleep(PAUSE);
        return;
    }
    let mut polled: Vec<_> =
        opened.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    let _ = poll(&mut polled, None);
}
