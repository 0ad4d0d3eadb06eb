//! Virtual signals that are sent while the program has them blocked.
//!
//! The kernel does not know that they are blocked, and delivers. Then such a signal is really blocked from here on in this thread,
//! and sent once more: now it is pending as the program expects it to be, for `sigpending`, `sigwait`, signalfd and
//! the next image. One for the process goes to the next thread, until it meets one that takes it or none is left.
//!
//! While it is blocked a fault would be fatal, so `usercopy` makes sure of its pages beforehand. Dispatch cannot do
//! without SIGSYS; where that is armed, a SIGSYS from elsewhere waits unseen.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, compiler_fence};

use super::actions::{Action, SA_NODEFER};
use super::{
    Context, SIG_BLOCK, SIGSYS, SYS_RT_SIGPROCMASK, SigInfo, VIRTUAL, bit, mask, queue_to_self, raise,
};
use crate::entry::tls::{PENDING_NONE, PENDING_SIGNAL, Tls};
use crate::{dispatch, hosted, process, raw};

const SYS_GETPID: u32 = 39;
const SYS_KILL: u32 = 62;
const SYS_RT_SIGQUEUEINFO: u32 = 129;
/// `si_code` of kill(2) and sigqueue(3): for the process, not for one thread.
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;

/// Virtual signals that can never be blocked.
pub fn indispensable() -> u64 {
    if dispatch::armed() { bit(SIGSYS) } else { 0 }
}

/// Makes a signal pending that the kernel has just delivered.
pub fn park(info: &SigInfo, context: &mut Context, tls: &mut Tls) {
    let signal = bit(info.signal());
    if signal & indispensable() != 0 {
        wait(signal, tls);
        return;
    }
    tls.parked |= signal;
    context.mask |= signal;
    // SAFETY: the mask is ours; the signal is blocked before it is sent.
    unsafe {
        raw::syscall4(SYS_RT_SIGPROCMASK, SIG_BLOCK, (&raw const signal) as u64, 0, 8);
        if matches!(info.code, SI_USER | SI_QUEUE) {
            queue_to_process(info);
        } else {
            queue_to_self(info);
        }
    }
}

/// As [`queue_to_self`], for whichever thread takes it.
unsafe fn queue_to_process(info: &SigInfo) {
    // SAFETY: the caller's promise.
    unsafe {
        let process = raw::syscall1(SYS_GETPID, 0) as u64;
        let number = u64::from(info.signal());
        if raw::syscall3(SYS_RT_SIGQUEUEINFO, process, number, (&raw const *info) as u64) < 0 {
            // Only the first thread may say that kill(2) sent it: better without its sender than for this thread alone, and better that than not at all.
            if raw::syscall2(SYS_KILL, process, number) < 0 {
                queue_to_self(info);
            }
        }
    }
}

fn waiting(tls: &mut Tls) -> &AtomicU64 {
    // SAFETY: a word of this thread, which signals change at any instruction.
    unsafe { AtomicU64::from_ptr(&raw mut tls.virtual_pending) }
}

/// Notes this signal, a bit, until [`raise_waiting`].
pub fn wait(signal: u64, tls: &mut Tls) {
    waiting(tls).fetch_or(signal, Relaxed);
}

/// Those of `which` that were noted, and are not any more.
pub fn take_waiting(tls: &mut Tls, which: u64) -> u64 {
    waiting(tls).fetch_and(!which, Relaxed) & which
}

/// Whether signals are held back that the program is to be told of as the call is left.
pub fn has_held_back(tls: &mut Tls) -> bool {
    let blocked = tls.virtual_mask & indispensable();
    tls.pending() == PENDING_SIGNAL || waiting(tls).load(Relaxed) & !blocked != 0
}

/// Sends those once more that came while another signal was held back.
///
/// # Safety
/// All signals are blocked.
pub unsafe fn raise_waiting(tls: &mut Tls) {
    // Those that the program has blocked are parked as they come.
    let waiting = take_waiting(tls, !(tls.virtual_mask & indispensable()));
    for signal in (1..=64).filter(|signal| waiting & bit(*signal) != 0) {
        // SAFETY: the caller's promise.
        unsafe { raise(signal) };
    }
}

/// Outside: makes the signal that was noted pending again, with all that waited for it, and this one. All are blocked from here on, until a frame is left
/// or a handler entered.
pub fn raise_all(tls: &mut Tls, info: Option<&SigInfo>) {
    // Those of `SYNCHRONOUS` may not be blocked yet: a handler of theirs that jumps away would leave the others behind. (One that struck before may
    // have done all this. What cannot be blocked is not: the way out may be by the program's own restorer, whose call is caught.)
    mask::set_native(mask::everything() & !indispensable());
    // SAFETY: plain memory of this thread, which such a signal may have changed.
    let noted = (tls.pending() == PENDING_SIGNAL).then(|| unsafe { (&raw const tls.info).read_volatile() });
    tls.pending = PENDING_NONE;
    // SAFETY: all are blocked.
    unsafe {
        if let Some(noted) = &noted {
            queue_to_self(noted);
        }
        if let Some(info) = info {
            queue_to_self(info);
        }
        raise_waiting(tls);
    }
}

/// The program's mask of virtual signals is now `mask`: what is to be blocked really.
pub fn still_parked(tls: &mut Tls, mask: u64) -> u64 {
    parked(tls).fetch_and(mask, Relaxed) & mask
}

fn parked(tls: &mut Tls) -> &AtomicU64 {
    // SAFETY: a word of this thread, which signals change at any instruction.
    unsafe { AtomicU64::from_ptr(&raw mut tls.parked) }
}

/// What the kernel blocks while a handler of this action runs.
pub fn blocked_by(signal: u32, action: &Action) -> u64 {
    action.mask | if action.flags & SA_NODEFER == 0 { bit(signal) } else { 0 }
}

/// The kernel's mask while such a handler runs that has this context.
pub fn mask_in_handler(signal: u32, action: &Action, context: &Context, tls: &Tls) -> u64 {
    (context.mask | blocked_by(signal, action)) & !VIRTUAL | tls.parked
}

/// The mask that a handler finds in its context, and the one it runs with.
pub fn enter_handler(signal: u32, action: &Action, context: &mut Context, tls: &mut Tls) {
    let mask = tls.virtual_mask;
    // This one struck in `leave_handler`: what is not blocked for the program any more is not to be for this handler either, where a fault would be fatal.
    let released = parked(tls).load(Relaxed) & !mask;
    still_parked(tls, mask);
    // What is really blocked does not count: it may be about to be let through, and would stay blocked for good.
    context.mask = context.mask & !VIRTUAL | mask;
    tls.virtual_mask = mask | blocked_by(signal, action) & VIRTUAL;
    // More is blocked so far (`actions`). In a guest that is the case for every signal, and ends elsewhere.
    let is_virtual = bit(signal) & VIRTUAL != 0 && !process::is_restrained();
    if (is_virtual || released != 0) && !hosted::active() {
        mask::set_native(mask_in_handler(signal, action, context, tls));
    }
}

/// The handler has returned: the mask in its context is the program's again, but for the virtual signals.
///
/// Other signals may strike at any instruction here. Until the frame is used the kernel still blocks what is parked: so from when the program's mask
/// says otherwise until everything is blocked, [`enter_handler`] of one that strikes lets it through in its place.
pub extern "C" fn leave_handler(context: &mut Context) {
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *crate::entry::tls::current() };
    if crate::lodger::is_current() {
        return; // The block is its parent's.
    }
    let mask = context.mask & VIRTUAL;
    // SAFETY: a word of this thread, which the wrapper of a signal reads.
    unsafe { (&raw mut tls.virtual_mask).write_volatile(mask) };
    compiler_fence(SeqCst);
    if parked(tls).load(Relaxed) & !mask != 0 {
        mask::set_native(mask::everything() & !indispensable());
    }
    context.mask = context.mask & !VIRTUAL | still_parked(tls, mask);
}
