//! Faults: the host is asked first, on a stack of ours.
//!
//! Which stack each piece runs on:
//!
//! | piece | stack | needs |
//! |---|---|---|
//! | the kernel's frame, the wrapper, [`fault`] and [`Handler::considers`](crate::Handler::considers) | what the kernel chose: the program's alternate one if it has one, else the interrupted one | the frame (3.4 KiB with AVX-512) and less than 1 KiB |
//! | [`Handler::fault`](crate::Handler::fault), what it calls (a plugin's read), the calls made inside there, faults in all that and their frames | the thread's handler stack: below what is in use of it | up to 256 KiB |
//! | the program's handler of a fault that was not mended | what the kernel chose | what it needs without us, and 100 bytes |
//!
//! While the host runs, the alternate stack is switched off if the wrapper is on it: as the stack pointer has left it, the kernel would put the next frame on top of
//! what lies there. Before that all signals are blocked ([`actions`](crate::signals::actions) asks for it), SIGSYS as well just before we leave the stack. It is on again when we are back on it, or by
//! the signal's frame if that is what is used next. Once the process may have a filter of system calls all that is left out, and the host runs on the
//! first stack.

use crate::entry::stack;
use crate::entry::tls::{INSIDE, INTERNAL_THREAD, OUTSIDE, PENDING_NONE, PENDING_SIGNAL, Tls};
use crate::signals::{Context, SS_AUTODISARM, StackDescription, VIRTUAL, alt, mask, parking};
use crate::{Fault, handler_stack, process, serve, usercopy};

/// Bytes below a stack pointer that the code there may use.
const RED_ZONE: u64 = 128;
/// Bytes of the handler stack that the entry uses while it is not on it.
const SCRATCH: u64 = crate::entry::OWN_BUFFER as u64;
/// What the host must find, or it runs where the signal came: a fault in a chain of faults.
const LEAST: u64 = 32 * 1024;

/// Asks the host about a fault. Returns whether it mended it.
#[inline(never)]
pub fn fault(signal: u32, context: &mut Context, tls: &mut Tls) -> bool {
    let fault = Fault::new(signal, context.fault_address, context.error);
    if !serve::handler().considers(&fault) {
        return false;
    }
    let before = tls.inside;
    if before == OUTSIDE {
        tls.set_inside(INSIDE);
        // As at a call: whose frames the host's work lies below.
        // SAFETY: a word of this thread, which the handler of a fault in there looks at.
        unsafe { (&raw mut tls.saved_rsp).write_volatile(context.rsp) };
    }
    // The signals that come from here on are held back, as in a call.
    let open = context.mask;
    let mended = match place(context, before, tls) {
        None => {
            if !process::is_restrained() {
                mask::set_native(open);
            }
            serve::handler().fault(&fault)
        }
        Some(top) => {
            let on_alternate = is_on_alternate(context);
            if on_alternate {
                mask::set_native(mask::everything());
            }
            let work = || {
                mask::set_native(open);
                let mended = serve::handler().fault(&fault);
                if on_alternate {
                    // (The way back may be by the program's own restorer, whose call is caught.)
                    mask::set_native(mask::everything() & !parking::indispensable());
                }
                mended
            };
            // SAFETY: `place` has found the room; all signals are blocked.
            let mended = unsafe { handler_stack::run_below(top, on_alternate.then_some(&mut *tls), work) };
            if on_alternate {
                if mended && parking::indispensable() == 0 {
                    // As the mask: by the frame, which nothing comes before.
                    tls.alt_disabled = 0;
                } else {
                    alt::switch_on(tls);
                }
            }
            mended
        }
    };
    if before == OUTSIDE {
        step_out(tls, context);
    }
    mended
}

/// Below which address of the handler stack the host is to run; `None`: where we are.
fn place(context: &Context, before: u8, tls: &mut Tls) -> Option<u64> {
    let here = (&raw const *context) as u64;
    // (A thread of a plugin's has what stack that gave it; and under a filter no call is ours.)
    if before == INTERNAL_THREAD || stack::holds(tls, here) || process::is_restrained() {
        return None;
    }
    let below = if stack::holds(tls, context.rsp) {
        context.rsp - RED_ZONE
    } else if before == OUTSIDE || usercopy::is_path_read(context.rip) {
        stack::provide(tls, &context.stack);
        tls.top.checked_sub(SCRATCH)?
    } else {
        // Somewhere between the two.
        return None;
    };
    let top = below & !63;
    (top > tls.stack + LEAST).then_some(top)
}

/// Whether the kernel has the thread on its alternate stack.
fn is_on_alternate(context: &Context) -> bool {
    let here = (&raw const *context) as u64;
    let alternate = &context.stack;
    // Otherwise it has forgotten the stack as it delivered the signal.
    alternate.flags & SS_AUTODISARM == 0 && here.wrapping_sub(alternate.base) < alternate.size
}

/// Leaves a stretch of being inside that a fault began. Signals that came meanwhile are pending again, and all are blocked until the fault's frame is left or
/// the program's handler of it entered.
fn step_out(tls: &mut Tls, context: &mut Context) {
    tls.set_inside(OUTSIDE);
    context.mask &= !VIRTUAL | tls.parked;
    if tls.pending() == PENDING_SIGNAL {
        parking::raise_all(tls, None);
    }
}

/// The program's handler of a fault of ours is about to run, perhaps for ever: the frames below the faulting one are
/// spared, and all is as the program has it: its calls are its own again, its alternate stack is on, its signals come. The call is not ours
/// any more, also where the handler returns to it. Returns whether all signals are blocked until the handler is entered: one that was noted waits.
pub fn abandon(context: &mut Context, tls: &mut Tls) -> bool {
    let here = (&raw const *context) as u64;
    if stack::holds(tls, context.rsp) {
        // Where there is no alternate stack it runs on ours, too, below its frame: half of what is left is for what it calls. Else what is
        // spared is for the call, which goes on if the handler returns.
        let below = if stack::holds(tls, here) {
            here - (here - tls.stack) / 2
        } else {
            context.rsp - LEAST.min((context.rsp - tls.stack) / 2)
        };
        if below > tls.stack + LEAST {
            tls.top = below & !63;
        } else if stack::holds(tls, tls.saved_rsp) {
            // The call was made by another such handler, whose frames are above: this stack is lost.
            tls.top = 0;
            stack::provide(tls, &StackDescription { base: tls.alt_base, flags: 0, size: tls.alt_size });
        } else {
            tls.top = tls.stack + stack::SIZE as u64;
        }
    }
    tls.inner_passes = 0;
    tls.set_inside(OUTSIDE);
    if tls.alt_disabled != 0 {
        context.stack = StackDescription::from_words(tls.alt);
        alt::switch_on(tls);
    }
    let held_back = tls.pending() != PENDING_NONE;
    if held_back {
        context.mask = tls.mask & !VIRTUAL | tls.parked;
        parking::raise_all(tls, None);
    }
    held_back
}
