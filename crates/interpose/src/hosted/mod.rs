//! A *guest*: a program with a C library, and so a thread pointer, of its own, in a process whose dynamic linker and libraries are ours.
//!
//! While the guest's code runs, FS is its own; while any other code runs, FS is our C library's. GS, which 64-bit programs leave alone, always holds
//! the latter, so "FS is GS" tells whose code was interrupted. The guest's calls are caught by dispatch, never by rewritten sites:
//! a signal comes first, and [`signal`] changes FS on the way into the entry. `docs/decisions/hosted-programs.md` has the whole contract.

mod alternate;
mod asm;
pub mod calls;
mod ended;
mod program_break;
pub mod signal;
mod stack;
pub mod threads;

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Acquire, Ordering::Release};

use crate::entry::tls::{self, Tls};
use crate::signals::{self, Context, actions};
use crate::{dispatch, lodger, raw, site, table};

pub use alternate::serve as serve_alternate;
pub use ended::guest_thread_has_ended;
pub use program_break::lock as lock_program_break;

/// Not 0 from the moment on in which this process has a guest.
static ACTIVE: AtomicU8 = AtomicU8::new(0);

unsafe extern "C" {
    fn interpose_start_guest(entry: u64, stack: u64) -> !;
    fn interpose_guest_done();
    fn interpose_guest_done_known();
    fn interpose_guest_done_end();
}

/// Whether this process has a guest.
#[inline]
pub fn active() -> bool {
    ACTIVE.load(Acquire) != 0
}

/// Where calls of the guest are left to: restores its thread pointer, and goes on behind the call.
pub fn done() -> u64 {
    interpose_guest_done as *const () as u64
}

/// Whether the call whose site this `resume` stands for is the guest's.
pub fn is_guest_call(resume: u64) -> bool {
    // SAFETY: callers take `resume` from where the entry keeps it.
    active() && unsafe { site::leads_to(resume) } == done()
}

/// Whether processes of this machine can have a guest: it must be possible to change FS and GS without a system call.
pub fn is_possible() -> bool {
    lodger::supported()
}

/// Why there is no guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestError {
    /// Calls are not dispatched in this process, or the CPU cannot change FS.
    NotPossible,
    /// A system call that is needed failed (positive errno).
    System(i32),
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPossible => f.write_str("system calls are not dispatched here"),
            Self::System(errno) => write!(f, "errno {errno}"),
        }
    }
}

impl std::error::Error for GuestError {}

/// Starts the guest that was loaded, in this thread: at `entry`, with the stack pointer `stack`. Comes back only when it cannot.
///
/// # Safety
/// [`crate::install`] has been called, by this thread, which is the only one; `entry` and `stack` are what the kernel would start the guest
/// with, and nothing above `stack` is needed by anybody but the guest.
pub unsafe fn start_guest(entry: u64, stack: u64) -> GuestError {
    if !is_possible() || !dispatch::armed() {
        return GuestError::NotPossible;
    }
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    hold_own_pointer();
    if let Err(errno) = stack::provide(tls) {
        return GuestError::System(errno);
    }
    ACTIVE.store(1, Release);
    // SAFETY: from here on handlers are the guest's, which has none yet.
    if let Err(errno) = unsafe { actions::begin_anew() } {
        return GuestError::System(errno);
    }
    program_break::reserve();
    table::watch_guest();
    tls.inside = tls::OUTSIDE;
    // SAFETY: the caller's promise.
    unsafe { interpose_start_guest(entry, stack) }
}

/// Makes GS what FS is now, which is our C library's thread pointer.
pub fn hold_own_pointer() {
    // SAFETY: `is_possible` was asked before there was a guest; nothing else uses GS.
    unsafe {
        asm!("wrgsbase {}", in(reg) tls::thread_pointer(), options(nomem, nostack, preserves_flags));
    }
}

/// A thread of the handler or a plugin has been made and is asking for signals: those of the guest are not for it, as it has no
/// thread pointer of the guest's.
pub fn keep_signals_from_own_thread() {
    hold_own_pointer();
    signals::mask::set_native(!signals::VIRTUAL);
}

/// In a signal frame, in the unused place of a segment register: FS is to be the guest's when the frame is left.
const MARK: u64 = 1 << 16;
/// In the same place: it is to be ours, whoever was interrupted.
const OURS: u64 = 1 << 17;

/// A context that was interrupted at `before` is now one that the guest could have without us.
pub fn settled(context: &mut Context, before: u64) {
    if active() && context.rip != before && !dispatch::is_own_text(context.rip) {
        context.segments |= MARK;
    }
}

/// This context goes on in our C library from here on, though the guest's code was interrupted or the context settled to it.
pub fn stays_ours(context: &mut Context) {
    if active() {
        context.segments = context.segments & !MARK | OURS;
    }
}

fn take_mark(context: &mut Context, mark: u64) -> bool {
    let marked = context.segments & mark != 0;
    context.segments &= !mark;
    marked
}

/// If the context's PC `pc` is on the way out of a call of the guest, shows the end of that way. Returns whether it was.
pub fn settle(context: &mut Context, pc: u64) -> bool {
    let at = |label: unsafe extern "C" fn()| label as *const () as u64;
    if !(at(interpose_guest_done)..at(interpose_guest_done_end)).contains(&pc) {
        return false;
    }
    context.rip = if pc < at(interpose_guest_done_known) {
        // SAFETY: rcx is `resume` there.
        unsafe { site::done(context.rcx) }
    } else {
        context.rcx
    };
    true
}

/// The program's calls to the kernel about itself go by this thread's block from now on.
pub fn tid() -> i64 {
    const SYS_GETTID: u32 = 186;
    // SAFETY: no arguments.
    unsafe { raw::syscall1(SYS_GETTID, 0) }
}

/// Whether this thread is a C library's thread of ours that a thread of the guest runs on.
pub fn is_made_thread(tls: &Tls) -> bool {
    tls.host_frame != 0
}
