//! Receiving beside threads that close.
//!
//! Between the kernel's making descriptors and our having them in the table another thread must not close them, nor get the same number by another
//! message: so they are made under `Process::descriptors`, without waiting, and what is waited for is only that there is a message.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::last_numbers::{MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_WAITALL};
use crate::native;
use crate::process::Process;
use crate::sync::Guard;

const MSG_WAITFORONE: u64 = 0x10000;
/// asm-generic/socket.h
const SO_RCVLOWAT: u32 = 18;
/// See [`SO_RCVLOWAT`].
const SO_PEEK_OFF: u32 = 42;
/// Others may be quicker as often, but that there is something to be received, and nothing is, may also be so for ever: a datagram socket that is shut down for
/// receiving says to who waits that this is the end, and to who does not that there is nothing yet.
pub const ROUNDS: usize = 16;

/// Whether a call on `socket` with `flags` asks for what cannot be waited for by a look at whether there is a message: more data than come in one, or
/// messages of other kinds.
pub fn asks_for_more_than_a_message(socket: u64, flags: u64) -> bool {
    let waits_for_more = || native::socket_option(socket as RawFd, SO_RCVLOWAT).is_ok_and(|bytes| bytes > 1);
    flags & (MSG_OOB | MSG_WAITALL | MSG_ERRQUEUE) != 0 || flags & MSG_DONTWAIT == 0 && waits_for_more()
}

/// Whether a look (`MSG_PEEK`) at `socket` is not at the next message, but at what comes after bytes that were looked at before.
pub fn looks_further_on(socket: u64) -> bool {
    native::socket_option(socket as RawFd, SO_PEEK_OFF).is_ok_and(|offset| offset as i32 >= 0)
}

/// Makes the call `nr` (recvmsg or recvmmsg). With the lock, unless it asks for what cannot be waited for like this.
pub fn receive(process: &'static Process, nr: u32, args: [u64; 6]) -> (i64, Option<Guard<'static, ()>>) {
    let single = nr == sys::__NR_recvmsg;
    let at = if single { 2 } else { 3 };
    let flags = args[at];
    let waits = flags & MSG_DONTWAIT == 0;
    // To wait for all messages of a vector is the kernel's to do.
    let is_simple = single || !waits || flags & MSG_WAITFORONE != 0 && args[4] == 0;
    if !is_simple || interpose::in_vfork_child() || asks_for_more_than_a_message(args[0], flags) {
        return (native::interruptible(nr, args), None);
    }
    let mut without_waiting = args;
    without_waiting[at] |= MSG_DONTWAIT;
    for _ in 0..ROUNDS {
        let together = process.descriptors.lock();
        let received = native::raw_call(nr, without_waiting);
        if received != -i64::from(Errno::AGAIN.raw_os_error()) || !waits {
            return (received, Some(together));
        }
        drop(together);
        if looks_further_on(args[0]) {
            break;
        }
        // No data and no descriptors: all that is left of it is waiting, as the program would.
        let mut nothing = [0_u64; 7];
        let look = [args[0], nothing.as_mut_ptr() as u64, flags & !MSG_WAITFORONE | MSG_PEEK, 0, 0, 0];
        let waited = native::interruptible(sys::__NR_recvmsg, look);
        if waited < 0 {
            return (waited, None);
        }
    }
    (native::interruptible(nr, args), None)
}
