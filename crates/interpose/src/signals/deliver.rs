//! What becomes of a signal the kernel delivered.

use core::sync::atomic::{AtomicU8, Ordering, compiler_fence};

use super::actions::{self, Action, SA_RESETHAND, SIG_DFL, SIG_IGN};
use super::call_made::CallMade;
use super::{ALL, Context, SIGBUS, SIGSEGV, SIGSYS, SYNCHRONOUS, SigInfo, VIRTUAL, bit, queue_to_self};
use super::{ending, mask, parking, unsettled};
use crate::entry::regions::{self, Place};
use crate::entry::tls::{self, INSIDE, OUTSIDE, PENDING_NONE, PENDING_SIGNAL, Tls, WAITING};
use crate::{RESTART, dispatch, fault, hosted, lodger, objects, process, raw, site, table, usercopy};

/// `si_code` of a SIGSYS by Syscall User Dispatch.
const SYS_USER_DISPATCH: i32 = 2;

/// Nothing to call: return to what was interrupted.
const RETURN: Option<Action> = None;

/// Called by the wrapper on whatever stack the kernel chose. The result is the program's handler to go on at, with the
/// same frame, or 0 to return.
pub extern "C" fn on_signal(signal: u32, info: *mut SigInfo, context: *mut Context) -> u64 {
    deliver_to(signal, info, context, false).map_or(0, |action| action.handler)
}

/// As [`on_signal`]; the result is the action whose handler is to be called. `from_guest`: the guest's own code was interrupted, see [`hosted`].
pub fn deliver_to(
    signal: u32,
    info: *mut SigInfo,
    context: *mut Context,
    from_guest: bool,
) -> Option<Action> {
    // SAFETY: the kernel passes its frame; the block is this thread's.
    let (info, context, tls) = unsafe { (&mut *info, &mut *context, &mut *tls::current()) };
    // SAFETY: plain memory that a signal may change at any instruction.
    let pc = unsafe { (&raw const context.rip).read_volatile() };
    let faulted = info.code > 0 && (signal == SIGSEGV || signal == SIGBUS);
    if faulted && !lodger::is_current() && fault::fault(signal, context, tls) {
        // With as little as possible on this stack.
        unsettled::forget(context, tls);
        return RETURN;
    }
    delivered(signal, info, context, pc, tls, from_guest)
}

/// As [`deliver_to`], of what is not a fault that the host has mended; `pc` is the context's at first.
#[inline(never)]
fn delivered(
    signal: u32,
    info: &mut SigInfo,
    context: &mut Context,
    faulted_at: u64,
    tls: &mut Tls,
    from_guest: bool,
) -> Option<Action> {
    // In this order: see `CallMade`.
    // SAFETY: plain memory that a signal may change at any instruction.
    let (wait_mask, pc) =
        unsafe { ((&raw const tls.wait_mask).read_volatile(), (&raw const context.rip).read_volatile()) };
    let place = regions::place(pc);
    if place == Place::AfterClone && context.rax == 0 {
        settle_child(context, tls);
    }
    // A call that waits with a mask of its own.
    let waiting = matches!(place, Place::BackEdited | Place::ForwardEdited) && wait_mask & WAITING != 0;
    if lodger::is_current() {
        // The block is its parent's.
        if ending::came_by_default(context) {
            ending::strike(signal, info, context, tls, false);
            return RETURN;
        }
        return for_lodger(signal, info, context, tls);
    }
    if ending::came_by_default(context) {
        // Another signal's handler may come before this frame is left.
        let cut_short = ending::was_cut_short(context);
        settle(context, tls);
        ending::strike(signal, info, context, tls, cut_short);
        return RETURN;
    }
    if info.code > 0 && bit(signal) & SYNCHRONOUS != 0 {
        return synchronous(signal, info, context, faulted_at, tls, from_guest);
    }
    if inside(tls) == INSIDE && !settle_inside(context, tls) {
        hold_back(info, context, tls);
        unsettled::forget(context, tls);
        return RETURN;
    }
    settle(context, tls);
    if tls.pending() != PENDING_NONE {
        // Another signal was noted while this one looked around: all are blocked, queue both.
        requeue(info, context, tls);
        return RETURN;
    }
    let blocked = tls.virtual_mask & if waiting { wait_mask } else { VIRTUAL };
    deliver(signal, info, context, tls, blocked)
}

/// As the kernel does for a process that is none of ours.
fn for_lodger(signal: u32, info: &SigInfo, context: &Context, tls: &Tls) -> Option<Action> {
    let action = actions::disposition(tls, signal);
    if action.handler > SIG_IGN {
        if bit(signal) & VIRTUAL != 0 && !process::is_restrained() {
            mask::set_native(context.mask | parking::blocked_by(signal, &action));
        }
        return Some(action);
    }
    if info.code > 0 && bit(signal) & SYNCHRONOUS != 0 {
        // It happens again, and ends the process.
        actions::set_default(signal);
    }
    RETURN
}

/// A signal may change it at any instruction.
fn inside(tls: &Tls) -> u8 {
    // SAFETY: a plain byte of this thread.
    unsafe { (&raw const tls.inside).read_volatile() }
}

/// In the last instructions of a call all is restored already: completes them. Returns whether that was so.
fn settle_inside(context: &mut Context, tls: &mut Tls) -> bool {
    if tls.pending() != PENDING_NONE {
        return false;
    }
    let before = context.rip;
    match regions::place(context.rip) {
        // SAFETY: there rcx is `resume`.
        Place::Forward => context.rip = unsafe { site::done(context.rcx) },
        Place::Back if regions::is_tail(context.rip) => site::again(context, context.rcx),
        Place::BackEdited => {
            context.set_args(tls.original);
            site::again(context, tls.resume);
        }
        Place::BackQuick => CallMade::of(tls, context).begin_again(context),
        _ => return false,
    }
    hosted::settled(context, before);
    tls.inside = OUTSIDE;
    compiler_fence(Ordering::SeqCst);
    true
}

/// Before a handler is called: makes this context, and those of signals in whose wrappers this one struck, independent of the block.
fn settle(context: &mut Context, tls: &mut Tls) {
    if inside(tls) == OUTSIDE {
        unsettled::settle_all(tls, settle_outside);
    } else {
        unsettled::forget(context, tls);
    }
}

/// Outside, but in our text or a stub: shows the program's handler a context that it could have without us.
fn settle_outside(context: &mut Context, tls: &mut Tls) {
    let call = CallMade::of(tls, context);
    match regions::place(call.rip) {
        Place::Elsewhere if hosted::active() && hosted::settle(context, call.rip) => {}
        Place::Elsewhere | Place::BeforeClone => objects::settle(context),
        // SAFETY: there rcx is `resume`.
        Place::Forward => context.rip = unsafe { site::done(context.rcx) },
        Place::Back => {
            let resume = context.rcx;
            site::rewind(context, resume);
        }
        Place::BackEdited => {
            context.set_args(call.original);
            site::again(context, call.resume);
        }
        Place::ForwardEdited => {
            context.set_args(call.original);
            // SAFETY: the block held the `resume` of the call being made.
            context.rip = unsafe { site::done(call.resume) };
        }
        Place::BackPassed => site::again(context, call.resume),
        // SAFETY: as above.
        Place::ForwardPassed => context.rip = unsafe { site::done(call.resume) },
        Place::Back32 => dispatch::unmake_32_bit(context, call.rsp),
        Place::Forward32 => dispatch::complete_32_bit(context, call.rsp),
        Place::BackQuick => call.begin_again(context),
        Place::AfterQuick if table::to_be_offered(call.path_class, call.result) => {
            call.begin_again(context);
        }
        Place::AfterQuick => {
            context.set_args(call.original);
            // SAFETY: as above.
            context.rip = unsafe { site::done(call.resume) };
        }
        Place::AfterClone => {}
    }
    hosted::settled(context, call.rip);
}

/// In the first instructions of a new thread or process: `serve` put what they need below its stack pointer.
fn settle_child(context: &mut Context, tls: &mut Tls) {
    // SAFETY: the signal's frame leaves the red zone alone.
    let [lodger, done] = unsafe { ((context.rsp - 16) as *const [u64; 2]).read() };
    if lodger != 0 && !lodger::is_current() {
        lodger::mark_current();
        // The wrapper could not know it: the block is the parent's.
        unsettled::forget(context, tls);
    }
    if !dispatch::armed() {
        context.rip = done;
    }
}

/// Notes the signal and blocks all until the call is left.
fn hold_back(info: &SigInfo, context: &mut Context, tls: &mut Tls) {
    // A second signal may come between any two of these instructions, until the kernel takes the mask over from the
    // frame. It finds `pending` set, queues itself and returns with all blocked. The program's mask is the smaller one.
    // In one step: of two that both found none, one would be lost.
    // SAFETY: a byte of this thread.
    let slot = unsafe { AtomicU8::from_ptr(&raw mut tls.pending) };
    let noted = slot.compare_exchange(PENDING_NONE, PENDING_SIGNAL, Ordering::SeqCst, Ordering::SeqCst);
    let first = noted.is_ok();
    compiler_fence(Ordering::SeqCst);
    // Those of them that wait already, blocked, also by the program.
    let mut waiting = context.mask & SYNCHRONOUS & !VIRTUAL;
    if first {
        tls.mask = context.mask;
        tls.info = *info;
    } else {
        if tls.pending() == PENDING_SIGNAL {
            tls.mask &= context.mask;
        }
        let signal = bit(info.signal());
        if signal & VIRTUAL != 0 {
            // Not blocked, as nothing blocks it: wait for the call's end here.
            parking::wait(signal, tls);
        } else {
            // One that does not block itself (`SA_NODEFER`), or is not of `ALL` (a SIGTRAP that is sent), would come again and again.
            waiting |= signal;
            mask::set_native(ALL | tls.parked | waiting);
            // SAFETY: it is blocked.
            unsafe { queue_to_self(info) };
        }
    }
    context.mask = ALL | tls.parked | waiting;
    if let Some(after) = raw::interrupted(context.rip) {
        context.rip = after;
        context.rax = RESTART as u64;
    } else if regions::place(context.rip) == Place::BeforeClone {
        context.rip = regions::clone_back();
        context.rax = RESTART as u64;
    } else if let Some(start) = regions::tail_start(context.rip) {
        // It may have looked for signals already.
        context.rip = start;
    }
}

fn requeue(info: &SigInfo, context: &mut Context, tls: &mut Tls) {
    context.mask &= !VIRTUAL;
    parking::raise_all(tls, Some(info));
}

/// The program's handler, or what its action says. `blocked` are the virtual signals that the program has blocked.
fn deliver(
    signal: u32,
    info: &SigInfo,
    context: &mut Context,
    tls: &mut Tls,
    blocked: u64,
) -> Option<Action> {
    let virtually = bit(signal) & VIRTUAL;
    if virtually & blocked != 0 {
        parking::park(info, context, tls);
        return RETURN;
    }
    // A wait has let it through.
    parking::still_parked(tls, !virtually);
    context.mask &= !virtually;
    let action = actions::disposition(tls, signal);
    match action.handler {
        SIG_IGN => RETURN,
        SIG_DFL => {
            default_action(signal, info);
            RETURN
        }
        _ if action.flags & SA_RESETHAND != 0 && !actions::reset(signal, &action) => {
            default_action(signal, info);
            RETURN
        }
        _ => {
            parking::enter_handler(signal, &action, context, tls);
            Some(action)
        }
    }
}

/// Makes the signal pending again with its default action.
fn default_action(signal: u32, info: &SigInfo) {
    actions::set_default(signal);
    // SAFETY: as the program's action asks.
    unsafe { queue_to_self(info) };
}

/// The thread's own instructions raised it.
fn synchronous(
    signal: u32,
    info: &mut SigInfo,
    context: &mut Context,
    pc: u64,
    tls: &mut Tls,
    from_guest: bool,
) -> Option<Action> {
    if signal == SIGSYS && info.code == SYS_USER_DISPATCH {
        dispatch::caught(info, context, tls, from_guest);
        unsettled::forget(context, tls);
        return RETURN;
    }
    if let Some(recovery) = usercopy::recovery(pc)
        && (signal == SIGSEGV || signal == SIGBUS)
    {
        // Another signal that has settled the context meanwhile makes it fault again.
        if context.rip == pc {
            context.rip = recovery;
        }
        unsettled::forget(context, tls);
        return RETURN;
    }
    let action = actions::disposition(tls, signal);
    if action.handler <= SIG_IGN || bit(signal) & VIRTUAL & tls.virtual_mask != 0 {
        // As in the kernel: it cannot be ignored or blocked. A fault happens again as we return; seccomp's SIGSYS does not.
        actions::set_default(signal);
        if signal == SIGSYS {
            // SAFETY: as the program's action asks.
            unsafe { queue_to_self(info) };
        }
        unsettled::forget(context, tls);
        return RETURN;
    }
    let mut all_blocked = false;
    if inside(tls) == INSIDE && signal != SIGSYS {
        // (A seccomp filter's SIGSYS is answered by the program's handler, and we go on.) The handler or a plugin faulted. The program's handler may report, return or jump away; what it calls must
        // not land on the frames below.
        unsettled::forget(context, tls);
        all_blocked = fault::abandon(context, tls);
        // The handler may have been asked about a fault of the program's, whose frame is left behind, too.
        unsettled::settle_all(tls, settle_outside);
    } else {
        settle(context, tls);
    }
    if action.flags & SA_RESETHAND != 0 {
        actions::reset(signal, &action);
    }
    parking::enter_handler(signal, &action, context, tls);
    if all_blocked && !hosted::active() {
        mask::set_native(parking::mask_in_handler(signal, &action, context, tls));
    }
    Some(action)
}
