//! Signals of the program: whose handler runs, when, and with what context.
//!
//! The kernel's action for every signal that the program handles is [`wrapper`]. Outside, it passes control to the
//! program's handler with the same frame. Inside, it notes the signal, blocks all for the moment, and the signal is
//! delivered as the call is left. SIGBUS, SIGSEGV and SIGSYS stay deliverable, but for one that is pending ([`parking`]).

pub mod actions;
pub mod alt;
mod call_made;
pub mod context;
pub mod deliver;
pub mod ending;
pub mod mask;
pub mod parking;
pub mod ticks;
mod unsettled;
pub mod wrapper;

use crate::raw;
pub use context::{Context, SigInfo, StackDescription};
pub use ending::{begin_end, end_by, watch_endings};

pub const SIGILL: u32 = 4;
pub const SIGTRAP: u32 = 5;
pub const SIGBUS: u32 = 7;
pub const SIGFPE: u32 = 8;
pub const SIGSEGV: u32 = 11;
pub const SIGSYS: u32 = 31;
/// Signals are 1 to 64.
pub const SIGNALS: usize = 65;

pub const SYS_RT_SIGACTION: u32 = 13;
pub const SYS_RT_SIGPROCMASK: u32 = 14;
pub const SYS_SIGALTSTACK: u32 = 131;
const SYS_GETPID: u32 = 39;
const SYS_GETTID: u32 = 186;
const SYS_TGKILL: u32 = 234;
const SYS_RT_TGSIGQUEUEINFO: u32 = 297;

pub const SIG_BLOCK: u64 = 0;
pub const SIG_UNBLOCK: u64 = 1;
pub const SIG_SETMASK: u64 = 2;

/// The bit of a signal in a mask.
pub const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Signals that are never really blocked: a fault or a dispatch with its signal blocked kills the process.
pub const VIRTUAL: u64 = bit(SIGBUS) | bit(SIGSEGV) | bit(SIGSYS);

/// Signals that the thread's own instructions raise.
pub const SYNCHRONOUS: u64 = VIRTUAL | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE);

/// What is blocked for a moment.
pub static ALL: u64 = !SYNCHRONOUS;

/// No alternate stack, for sigaltstack.
pub static NO_ALT: StackDescription = StackDescription { base: 0, flags: SS_DISABLE, size: 0 };
pub const SS_ONSTACK: u64 = 1;
pub const SS_DISABLE: u64 = 2;
pub const SS_AUTODISARM: u64 = 1 << 31;

/// Makes a signal pending for this thread again, with what is known about it.
///
/// # Safety
/// The signal must be blocked, or the caller ready for it.
pub unsafe fn queue_to_self(info: &SigInfo) {
    // SAFETY: nothing but this thread is named.
    unsafe {
        let process = raw::syscall1(SYS_GETPID, 0) as u64;
        let thread = raw::syscall1(SYS_GETTID, 0) as u64;
        let signal = u64::from(info.signal());
        let queued = raw::syscall4(SYS_RT_TGSIGQUEUEINFO, process, thread, signal, (&raw const *info) as u64);
        if queued < 0 {
            // A seccomp filter, or the queue is full: better a signal without its details than none.
            raw::syscall3(SYS_TGKILL, process, thread, signal);
        }
    }
}

/// Sends a signal to this thread.
///
/// # Safety
/// As for [`queue_to_self`].
pub unsafe fn raise(signal: u32) {
    // SAFETY: nothing but this thread is named.
    unsafe {
        let process = raw::syscall1(SYS_GETPID, 0) as u64;
        let thread = raw::syscall1(SYS_GETTID, 0) as u64;
        raw::syscall3(SYS_TGKILL, process, thread, u64::from(signal));
    }
}
