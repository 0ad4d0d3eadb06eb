//! Who is at the other end of a Unix socket.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::native;
use crate::process::Process;

/// Whether what goes along with a message on `socket` comes to a process of the session, or to one that could take it from us anyway.
///
/// The kernel says who made or connected the other end (`SO_PEERCRED`, unix(7)). That one may have ended, be of another pid namespace, or have
/// handed its end on: then the user has to do.
pub fn is_of_session(process: &Process, socket: RawFd) -> bool {
    let Ok([pid, user, _]) = native::peer_credentials(socket) else { return false };
    if pid == native::pid() {
        return true;
    }
    let Ok(here) = process.arena.process(process.me()) else { return false };
    let mut may_be = false;
    for known in process.arena.live_processes() {
        let is_near = known.pid_namespace == here.pid_namespace;
        if is_near && known.pid == pid && process.arena.process_is_alive(known.id) {
            return true;
        }
        // Its pid is another one here, or it has ended.
        may_be |= !is_near || known.pid == pid;
    }
    let is_our_user = || i64::from(user) == native::raw_call(sys::__NR_geteuid, [0; 6]);
    pid != 0 && (may_be || is_gone(pid)) && is_our_user()
}

fn is_gone(pid: u32) -> bool {
    native::checked(sys::__NR_kill, [pid.into(), 0, 0, 0, 0, 0]) == Err(Errno::SRCH)
}
