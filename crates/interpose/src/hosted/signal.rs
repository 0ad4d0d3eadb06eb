//! Signals in a process with a guest.

use crate::entry::tls::{self, Tls};
use crate::signals::actions::{self, SA_NODEFER};
use crate::signals::{Context, SigInfo, VIRTUAL, bit, deliver, mask};
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
    /// The mask for the handler, or [`AS_IT_IS`].
    mask: u64,
    _handler: u64,
    context: *mut Context,
    info: *mut SigInfo,
    signal: u64,
    /// FS as it was, and as it is to be when the signal's frame is left.
    pointer: u64,
}

const AS_IT_IS: u64 = u64::MAX;

/// Sets the kernel's mask.
pub extern "C" fn set_mask(mask: u64) {
    mask::set_native(mask);
}

/// Called by the wrapper with our FS in place. The result is as that of [`deliver::on_signal`].
pub extern "C" fn on_signal(
    signal: u32,
    info: *mut SigInfo,
    context: *mut Context,
    interrupted: *mut Context,
    entered: *mut Entered,
) -> u64 {
    // SAFETY: this thread's block, and a place on the wrapper's stack.
    let (tls, entered) = unsafe { (&mut *tls::current(), &mut *entered) };
    (entered.moved, entered.mask) = (0, AS_IT_IS);
    let pointer = &mut entered.pointer;
    let own = tls::thread_pointer();
    let from_guest = *pointer != own;
    if from_guest {
        tls.guest_pointer = *pointer;
    }
    let handler = deliver::deliver_to(signal, info, context, interrupted, from_guest);
    // SAFETY: as above.
    let context = unsafe { &mut *context };
    let settled = hosted::take_mark(context);
    if from_guest && dispatch::is_caught(context.rip) {
        // It goes on in our text. (Where that was interrupted, in the last instructions of a signal, it goes on as it was.)
        *pointer = own;
    } else if !from_guest && settled {
        *pointer = tls.guest_pointer;
    }
    if handler == 0 {
        return handler;
    }
    let action = actions::disposition(tls, signal);
    if actions::blocks_all(signal, &action) {
        let itself = if action.flags & SA_NODEFER == 0 { bit(signal) } else { 0 };
        entered.mask = (context.mask | action.mask | itself) & !VIRTUAL | tls.parked;
    }
    if let Some(frame) = move_away(context, tls) {
        entered.moved = frame;
        entered.context = (frame + CONTEXT) as *mut Context;
        entered.info = (frame + INFO) as *mut SigInfo;
    }
    handler
}

/// The kernel's frame: return address, context, siginfo; and the vector state above them.
const CONTEXT: u64 = 8;
const INFO: u64 = CONTEXT + size_of::<Context>() as u64;
const FRAME: u64 = INFO + size_of::<SigInfo>() as u64;
const _: () = assert!(FRAME == 440);
const RED_ZONE: u64 = 128;
/// In [`Context::flags`]: the vector state is in the extended format, whose size it says itself (`leave`).
const UC_FP_XSTATE: u64 = 1;
const LEGACY: u64 = 512;
const EXTENDED_SIZE: u64 = 464 + 4;

/// A handler that asked for an alternate stack runs on the stack it interrupted if the guest has set none: the kernel has put its frame on ours, where it
/// would be in the way of calls. Where the frame is now; `None` if it stays.
fn move_away(context: &Context, tls: &Tls) -> Option<u64> {
    let own = tls.own_alt..tls.own_alt + super::stack::SIZE;
    // A fault of ours that the guest's handler is told of.
    let serving = tls.stack..tls.stack + crate::entry::stack::SIZE as u64;
    let here = (&raw const *context) as u64;
    if tls.own_alt == 0
        || !own.contains(&here)
        || own.contains(&context.rsp)
        || serving.contains(&context.rsp)
    {
        return None;
    }
    let vector = context.fpstate;
    let size = match context.flags & UC_FP_XSTATE {
        _ if vector == 0 => 0,
        0 => LEGACY,
        // SAFETY: the kernel's own frame.
        _ => u64::from(unsafe { ((vector + EXTENDED_SIZE) as *const u32).read() }),
    };
    let new_vector = (context.rsp - RED_ZONE - size) & !63;
    let frame = ((new_vector - FRAME) & !15) - CONTEXT;
    // SAFETY: both parts of the kernel's frame; the stack of the guest is the guest's, and what is copied there is for it.
    unsafe {
        let part =
            |address: u64, length: u64| core::slice::from_raw_parts(address as *const u8, length as usize);
        // A stack that cannot be written stays as it is: the handler runs where it is.
        usercopy::copy_to(frame, part(here - CONTEXT, FRAME)).ok()?;
        if size != 0 {
            usercopy::copy_to(new_vector, part(vector, size)).ok()?;
        }
    }
    if vector != 0 {
        let place = frame + CONTEXT + core::mem::offset_of!(Context, fpstate) as u64;
        usercopy::write(place, &new_vector).ok()?;
    }
    Some(frame)
}
