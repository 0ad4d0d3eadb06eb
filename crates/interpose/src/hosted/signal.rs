//! Signals in a process with a guest.
//!
//! Each comes on the thread's own signal stack ([`super::stack`]) with all signals blocked, so that the wrapper is interrupted by none that somebody
//! sends, and needs nothing of the guest's. A handler of the guest's gets a copy of the frame on the stack where the kernel
//! would have put it, and is called there, when our stack is free again; only then are signals let through.

use super::{alternate, stack};
use crate::entry::tls::{self, Tls};
use crate::signals::actions::{self, Action, SA_ONSTACK};
use crate::signals::{Context, SIGSEGV, SigInfo, deliver, mask, parking, raise};
use crate::{dispatch, hosted, usercopy};

unsafe extern "C" {
    fn interpose_guest_signal();
    fn interpose_guest_signal_noted();
}

/// Where the kernel delivers.
pub fn address() -> u64 {
    interpose_guest_signal as *const () as u64
}

/// As [`crate::signals::wrapper::is_at_start`].
pub fn is_at_start(pc: u64) -> bool {
    (address()..interpose_guest_signal_noted as *const () as u64).contains(&pc)
}

/// What the wrapper has on its stack.
#[repr(C)]
pub struct Entered {
    /// The frame to go on with in place of the kernel's, or 0.
    moved: u64,
    /// The mask for the handler.
    mask: u64,
    _handler: u64,
    context: *mut Context,
    info: *mut SigInfo,
    signal: u64,
    /// FS as it was, and as it is to be when the signal's frame is left.
    pointer: u64,
}

/// Sets the kernel's mask.
pub extern "C" fn set_mask(mask: u64) {
    mask::set_native(mask);
}

/// Called by the wrapper with our FS in place. The result is as that of [`deliver::on_signal`].
pub extern "C" fn on_signal(
    signal: u32,
    info: *mut SigInfo,
    context: *mut Context,
    entered: *mut Entered,
) -> u64 {
    // SAFETY: this thread's block, and a place on the wrapper's stack.
    let (tls, entered) = unsafe { (&mut *tls::current(), &mut *entered) };
    entered.moved = 0;
    let pointer = &mut entered.pointer;
    let own = tls::thread_pointer();
    let from_guest = *pointer != own;
    if from_guest {
        tls.guest_pointer = *pointer;
    }
    let action = deliver::deliver_to(signal, info, context, from_guest);
    // SAFETY: as above.
    let context = unsafe { &mut *context };
    let settled = hosted::take_mark(context, hosted::MARK);
    if hosted::take_mark(context, hosted::OURS) || from_guest && dispatch::is_caught(context.rip) {
        // It goes on in our text. (Where that was interrupted, in the last instructions of a signal, it goes on as it was.)
        *pointer = own;
    } else if !from_guest && settled {
        *pointer = tls.guest_pointer;
    }
    let Some(action) = action else { return 0 };
    entered.mask = parking::mask_in_handler(signal, &action, context, tls);
    let Some(top) = place_of_frame(context, &action, tls) else { return action.handler };
    let Some(frame) = copy_frame(context, &top, tls) else {
        // As the kernel does where there is no stack for a handler.
        actions::set_default(SIGSEGV);
        // SAFETY: it is to end the process.
        unsafe { raise(SIGSEGV) };
        return 0;
    };
    entered.moved = frame;
    entered.context = (frame + CONTEXT) as *mut Context;
    entered.info = (frame + INFO) as *mut SigInfo;
    action.handler
}

/// The handler has returned, and its frame is about to be used: what [`parking::leave_handler`] does, and what the frame says about the alternate stack.
pub extern "C" fn leave(context: &mut Context) {
    parking::leave_handler(context);
    // SAFETY: the block is this thread's.
    unsafe { alternate::restore(&mut *tls::current(), context) };
}

/// The guest makes `rt_sigreturn` itself, with a frame that it has from a handler of its, or has made up.
pub fn before_sigreturn(context: &Context) {
    if usercopy::probe_write(context.rsp, size_of::<Context>()).is_ok() {
        // SAFETY: it can be written, and the guest says that it is a context.
        leave(unsafe { &mut *(context.rsp as *mut Context) });
    }
}

/// The kernel's frame: return address, context, siginfo; and the vector state above them.
const CONTEXT: u64 = 8;
const INFO: u64 = CONTEXT + size_of::<Context>() as u64;
const FRAME: u64 = INFO + size_of::<SigInfo>() as u64;
const _: () = assert!(FRAME == 440);
/// In the context.
const STACK: u64 = core::mem::offset_of!(Context, stack) as u64;
const VECTOR: u64 = core::mem::offset_of!(Context, fpstate) as u64;
const RED_ZONE: u64 = 128;
/// In [`Context::flags`]: the vector state is in the extended format, whose size it says itself (`leave`).
const UC_FP_XSTATE: u64 = 1;
const LEGACY: u64 = 512;
const EXTENDED_SIZE: u64 = 464 + 4;

/// Where the kernel would put the frame: below `top`, and not below `bottom`.
struct Place {
    top: u64,
    bottom: u64,
}

/// Where the handler's frame belongs; `None` if it stays where it is, as what was interrupted is not the guest's: a fault of ours that its handler
/// is told of, or a signal that the thread's instructions raised in the wrapper.
fn place_of_frame(context: &Context, action: &Action, tls: &Tls) -> Option<Place> {
    let serving = tls.stack..tls.stack + crate::entry::stack::SIZE as u64;
    if tls.own_alt == 0 || stack::holds(tls, context.rsp) || serving.contains(&context.rsp) {
        return None;
    }
    let alternate = alternate::of(tls);
    if action.flags & SA_ONSTACK != 0 && alternate.is_usable() && !alternate.holds(context.rsp) {
        return Some(Place { top: alternate.end(), bottom: alternate.base() });
    }
    let bottom = if alternate.holds(context.rsp) { alternate.base() } else { 0 };
    Some(Place { top: context.rsp - RED_ZONE, bottom })
}

/// Copies the kernel's frame to the guest's stack: where it is there, or `None` if there is no room.
fn copy_frame(context: &Context, place: &Place, tls: &mut Tls) -> Option<u64> {
    let here = (&raw const *context) as u64;
    let vector = context.fpstate;
    let size = match context.flags & UC_FP_XSTATE {
        _ if vector == 0 => 0,
        0 => LEGACY,
        // SAFETY: the kernel's own frame.
        _ => u64::from(unsafe { ((vector + EXTENDED_SIZE) as *const u32).read() }),
    };
    let new_vector = place.top.checked_sub(size)? & !63;
    let frame = (new_vector.checked_sub(FRAME)? & !15).checked_sub(CONTEXT)?;
    if frame < place.bottom {
        return None;
    }
    // SAFETY: both parts of the kernel's frame; the stack of the guest is the guest's, and what is copied there is for it.
    unsafe {
        let part =
            |address: u64, length: u64| core::slice::from_raw_parts(address as *const u8, length as usize);
        usercopy::copy_to(frame, part(here - CONTEXT, FRAME)).ok()?;
        if size != 0 {
            usercopy::copy_to(new_vector, part(vector, size)).ok()?;
        }
    }
    let place = frame + CONTEXT;
    if vector != 0 {
        usercopy::write(place + VECTOR, &new_vector).ok()?;
    }
    usercopy::write(place + STACK, &alternate::at_delivery(tls)).ok()?;
    Some(frame)
}
