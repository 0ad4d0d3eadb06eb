//! Leaving by a signal frame: one system call restores every register, the mask and the alternate stack, so that a
//! signal that was held back arrives as if it had struck just after the program's own `syscall` instruction.

use core::sync::atomic::Ordering::Relaxed;

use super::tls::{self, PENDING_NONE, PENDING_SIGNAL, Tls};
use super::{regions, vector};
use crate::hosted;
use crate::raw;
use crate::signals::{self, Context, StackDescription, VIRTUAL, mask, parking};
use crate::site;

/// Bytes of the frame: the kernel's `ucontext` without siginfo, then vector state in the standard format.
pub const SIGNAL_FRAME: usize = SIGNAL_VECTOR + 4096;
/// Where in it the vector state is.
pub const SIGNAL_VECTOR: usize = 320;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// User code and stack segments of 64-bit programs.
const SEGMENTS: u64 = 0x33 | 0x2b << 48;
/// Where the kernel looks for its description of the vector state in the legacy area, and the magic numbers around it.
const SOFTWARE_RESERVED: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

/// Completes the frame whose general registers and vector state the assembly has stored, and queues the held signal.
pub extern "C" fn make_signal_frame(context: *mut Context) {
    // SAFETY: the assembly passes its frame, which has room for all that is written here, on this thread's handler stack; all signals
    // are blocked, so nobody else uses the thread's block.
    unsafe { complete(&mut *context, &mut *tls::current()) }
}

unsafe fn complete(context: &mut Context, tls: &mut Tls) {
    // Until the frame is used, also those that nothing else blocks: the handler of one that came when nothing is pending any more would overwrite it.
    mask::set_native(mask::everything());
    context.link = 0;
    context.rsp = tls.saved_rsp;
    context.rcx = tls.resume;
    context.r11 = 0;
    context.segments = SEGMENTS;
    context.error = 0;
    context.trap = 0;
    context.old_mask = 0;
    context.fault_address = 0;
    context.reserved = [0; 8];
    context.mask = tls.mask & !VIRTUAL | tls.parked;
    if tls.target != 0 {
        context.rip = tls.target;
    } else if hosted::is_guest_call(tls.resume) || !site::rewind(context, tls.resume) {
        context.rip = regions::entry();
    }
    if tls.alt_disabled != 0 {
        context.stack = StackDescription::from_words(tls.alt);
        tls.alt_disabled = 0;
    } else {
        // SAFETY: the description is ours to fill.
        unsafe { raw::syscall2(signals::SYS_SIGALTSTACK, 0, (&raw mut context.stack) as u64) };
    }
    let vector = (&raw mut *context).cast::<u8>().wrapping_add(SIGNAL_VECTOR);
    context.fpstate = vector as u64;
    context.flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    // SAFETY: the vector area is 4096 bytes, of which `vector::detect` uses fewer.
    unsafe {
        let software = vector.add(SOFTWARE_RESERVED);
        software.write_bytes(0, 48);
        if vector::KIND.load(Relaxed) != vector::FXSAVE {
            let size = vector::signal_size();
            context.flags |= UC_FP_XSTATE;
            software.cast::<u32>().write_unaligned(MAGIC1);
            software.add(4).cast::<u32>().write_unaligned(size + 4);
            software.add(8).cast::<u64>().write_unaligned(u64::from(vector::SIGNAL_MASK.load(Relaxed)));
            software.add(16).cast::<u32>().write_unaligned(size);
            vector.add(size as usize).cast::<u32>().write_unaligned(MAGIC2);
        }
    }
    // SAFETY: all signals are blocked until the frame is used.
    unsafe {
        if tls.pending == PENDING_SIGNAL {
            signals::queue_to_self(&tls.info);
        }
        parking::raise_waiting(tls);
    }
    tls.pending = PENDING_NONE;
}
