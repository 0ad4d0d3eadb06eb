//! Receiving with hardly a number left.
//!
//! A parcel takes a number behind those of the program's descriptors. Where the limit of open files leaves none for it the kernel would drop it, and say that
//! the message was cut (`MSG_CTRUNC`). So there the message is only waited for at first, and then received with the limit raised; which
//! descriptors are above the program's is seen by their numbers.

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::together;
use crate::process::Process;
use crate::{native, nofile};

/// More than messages bring. One that brings more, and exactly as many as there are numbers, is left out of account: looking costs each call.
const LOOKED_AT: usize = 16;
const POLLNVAL: u64 = 0x20;
/// linux/socket.h
pub const MSG_OOB: u64 = 0x1;
/// See [`MSG_OOB`].
pub const MSG_PEEK: u64 = 0x2;
/// See [`MSG_OOB`].
pub const MSG_DONTWAIT: u64 = 0x40;
/// See [`MSG_OOB`].
pub const MSG_WAITALL: u64 = 0x100;
/// See [`MSG_OOB`].
pub const MSG_ERRQUEUE: u64 = 0x2000;

/// Whether there may be fewer than `wanted` numbers for what is received. Those right below the limit tell: if all of them are free there are enough.
pub fn may_be_too_few(process: &Process, wanted: usize) -> bool {
    let wanted = wanted.min(LOOKED_AT);
    let limit = process.fd_limit().min(i32::MAX as u64);
    let Some(first) = limit.checked_sub(wanted as u64) else { return true };
    // As `struct pollfd`, for no event: of a number that is not open that is told all the same.
    let mut numbers: Vec<u64> = (first..limit).collect();
    native::raw_call(sys::__NR_poll, [numbers.as_mut_ptr() as u64, wanted as u64, 0, 0, 0, 0]);
    numbers.iter().any(|number| number >> 48 != POLLNVAL)
}

/// Makes the call `nr` (recvmsg or recvmmsg), which is to receive one message. The result is the kernel's, and where the program's numbers
/// end; nothing if it asks for what cannot be waited for like this.
pub fn receive(process: &Process, nr: u32, args: [u64; 6]) -> Option<(i64, u64)> {
    let at = if nr == sys::__NR_recvmsg { 2 } else { 3 };
    let flags = args[at];
    let waits = flags & MSG_DONTWAIT == 0;
    if together::asks_for_more_than_a_message(args[0], flags) || waits && together::looks_further_on(args[0])
    {
        return None;
    }
    if !interpose::in_vfork_child() {
        // Somebody else may have changed it.
        nofile::refresh(process);
    }
    let mut nothing = [0_u64; 7];
    let mut without_waiting = args;
    without_waiting[at] |= MSG_DONTWAIT;
    if nr == sys::__NR_recvmmsg {
        // The kernel looks at the time when it has received a message.
        (without_waiting[2], without_waiting[4]) = (1, 0);
    }
    for _ in 0..together::ROUNDS {
        // No data and no descriptors: all that is left of it is waiting, as the program would.
        let look = [args[0], nothing.as_mut_ptr() as u64, flags | MSG_PEEK, 0, 0, 0];
        let waited = native::interruptible(sys::__NR_recvmsg, look);
        if waited < 0 {
            return Some((waited, u64::MAX));
        }
        let received = nofile::with_room(|| native::raw_call(nr, without_waiting));
        if received != -i64::from(Errno::AGAIN.raw_os_error()) || !waits {
            return Some((received, process.fd_limit()));
        }
        // Another thread was quicker.
    }
    None
}
