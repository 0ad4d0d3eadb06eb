//! What the entry keeps for each thread.
//!
//! One block in static TLS, reached by the initial-exec model: no call, no allocation, no destructor, so it can be
//! used under the program's malloc lock, in a signal handler and in a child of vfork (which shares it with its
//! suspended parent). A new thread finds it zeroed by the C library.

use core::arch::{asm, global_asm};
use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::compiler_fence;

use crate::signals::SigInfo;

/// Not inside: calls are offered, signals are delivered.
pub const OUTSIDE: u8 = 0;
/// Serving a call of the program: calls go to the kernel, signals are held back.
pub const INSIDE: u8 = 1;
/// A thread that the handler or a plugin started: its calls are never the program's.
pub const INTERNAL_THREAD: u8 = 2;

/// Nothing to do when leaving.
pub const PENDING_NONE: u8 = 0;
/// A signal was held back: [`Tls::info`] is it, [`Tls::mask`] is the program's mask.
pub const PENDING_SIGNAL: u8 = 1;
/// All signals are blocked; leave by a signal frame that restores [`Tls::mask`].
pub const PENDING_MASK: u8 = 2;

/// A call arrives.
pub const PHASE_CALL: u8 = 0;
/// The caller of a clone comes back.
pub const PHASE_AFTER_CLONE: u8 = 1;

/// In [`Tls::wait_mask`]: there is such a call.
pub const WAITING: u64 = 1 << 63;

/// The block. All zero is a thread that never made a call of interest.
#[repr(C)]
pub struct Tls {
    /// [`OUTSIDE`], [`INSIDE`] or [`INTERNAL_THREAD`].
    pub inside: u8,
    /// One of the `PENDING_` values; not [`PENDING_NONE`] means all signals are blocked.
    pub pending: u8,
    /// This is a child of vfork on its parent's memory, how many deep.
    pub vfork_depth: u8,
    /// What [`super::frame::Frame::kind`] of the next entry is.
    pub phase: u8,
    /// Signals (bits as in [`crate::signals::VIRTUAL`]) whose native disposition in this vfork child is the default.
    pub vfork_default: u8,
    /// The thread has to leave by a signal frame as its alternate stack was switched off.
    pub alt_disabled: u8,
    /// How to leave the call, a `LEAVE_` value of [`super::frame`].
    pub leave: u8,
    /// Syscall User Dispatch was armed in this thread.
    pub armed: u8,
    /// Where the next served call's frame goes: 64-byte aligned, 0 before the thread's first.
    pub top: u64,
    /// Lowest usable byte of the handler stack.
    pub stack: u64,
    /// The program's stack pointer, between commit and the frame.
    pub saved_rsp: u64,
    /// The stub's `resume`, between commit and the frame.
    pub resume: u64,
    /// Where a signal frame leads.
    pub target: u64,
    /// Registers saved while the stack is being made.
    pub scratch: [u64; 8],
    /// The program's alternate signal stack.
    pub alt_base: u64,
    /// Its size; 0 when there is none.
    pub alt_size: u64,
    /// The program's alternate stack as the kernel describes it, while switched off.
    pub alt: [u64; 3],
    /// The program's signal mask while [`Tls::pending`] is set.
    pub mask: u64,
    /// Signals of [`crate::signals::VIRTUAL`] that the program believes it has blocked.
    pub virtual_mask: u64,
    /// Signals sent by a process that came while another was held back.
    pub virtual_pending: u64,
    /// Virtual signals that are really blocked, as one was sent while the program had it blocked: see [`crate::signals::parking`].
    pub parked: u64,
    /// The virtual signals in the mask of a wait that is being made as an edited call, and [`WAITING`].
    pub wait_mask: u64,
    /// The program's arguments while an edited call, or one that the entry decides about, is made.
    pub original: [u64; 6],
    /// Filtered masks of an edited call.
    pub mask_copy: [u64; 4],
    /// The number of a clone that is being made, or of a call that the entry makes.
    pub number: u32,
    /// Calls made inside are not offered to the handler, see [`crate::pass_inner_calls`].
    pub inner_passes: u8,
    /// The class of the call that the entry makes, one of the `PATH_` values of [`crate::table`].
    pub path_class: u8,
    /// See `entry::asm::one_name`.
    pub one_name: u8,
    /// A fork that our C library makes is a guest's.
    pub forking: u8,
    /// What came out of a call that is offered although it was made, or [`crate::call::GUESSED`]; 0 when it was not.
    pub tried: i32,
    /// Where the path of the call that the entry makes begins: 0 if it is absolute, the mark that the working directory had (odd), or how often
    /// an FD had been given to something else, for what the first argument says (even).
    pub begins: u32,
    /// `openat2`'s argument: flags, mode, resolve.
    pub open_how: [u64; 3],
    /// The newest context of a signal whose wrapper has not yet settled it: see [`crate::signals`]' list of them.
    pub unsettled: u64,
    /// Stands for a dispatched site, see [`crate::dispatch`].
    pub record: [u64; 4],
    /// The thread pointer of the guest, while ours is in place: see [`crate::hosted`].
    pub guest_pointer: u64,
    /// Where the kernel is to write that the thread has ended, if it runs on a thread made for it.
    pub clear_tid: u64,
    /// Stack pointer in the first function of the thread that was made for it; else 0.
    pub host_frame: u64,
    /// The alternate stack that we have given it, or 0.
    pub own_alt: u64,
    /// The signal that was held back.
    pub info: SigInfo,
}

impl Tls {
    /// Sets [`Tls::inside`]. What is called next may not know of the block, but a signal's handler does: the compiler is not to think that nobody looks.
    pub fn set_inside(&mut self, inside: u8) {
        compiler_fence(SeqCst);
        // SAFETY: a byte of this thread.
        unsafe { (&raw mut self.inside).write_volatile(inside) };
        compiler_fence(SeqCst);
    }

    /// [`Tls::pending`], which a signal may change at any instruction.
    pub fn pending(&self) -> u8 {
        // SAFETY: a byte of this thread.
        unsafe { (&raw const self.pending).read_volatile() }
    }
}

pub const SIZE: usize = size_of::<Tls>();
const _: () = assert!(SIZE <= 512, "static TLS is scarce");

pub const PENDING: usize = offset_of!(Tls, pending);
pub const ARMED: usize = offset_of!(Tls, armed);
pub const LEAVE: usize = offset_of!(Tls, leave);
pub const PHASE: usize = offset_of!(Tls, phase);
pub const TOP: usize = offset_of!(Tls, top);
pub const STACK: usize = offset_of!(Tls, stack);
pub const SAVED_RSP: usize = offset_of!(Tls, saved_rsp);
pub const RESUME: usize = offset_of!(Tls, resume);
pub const TARGET: usize = offset_of!(Tls, target);
pub const SCRATCH: usize = offset_of!(Tls, scratch);
pub const ALT_BASE: usize = offset_of!(Tls, alt_base);
pub const ALT_SIZE: usize = offset_of!(Tls, alt_size);
pub const ALT: usize = offset_of!(Tls, alt);
pub const ALT_DISABLED: usize = offset_of!(Tls, alt_disabled);
pub const MASK: usize = offset_of!(Tls, mask);
pub const UNSETTLED: usize = offset_of!(Tls, unsettled);
pub const VIRTUAL_MASK: usize = offset_of!(Tls, virtual_mask);
pub const PARKED: usize = offset_of!(Tls, parked);
pub const ORIGINAL: usize = offset_of!(Tls, original);
pub const NUMBER: usize = offset_of!(Tls, number);
pub const PATH_CLASS: usize = offset_of!(Tls, path_class);
pub const ONE_NAME: usize = offset_of!(Tls, one_name);
pub const BEGINS: usize = offset_of!(Tls, begins);
pub const OPEN_HOW: usize = offset_of!(Tls, open_how);
pub const TRIED: usize = offset_of!(Tls, tried);
pub const VFORK_DEPTH: usize = offset_of!(Tls, vfork_depth);
pub const GUEST_POINTER: usize = offset_of!(Tls, guest_pointer);
pub const INNER_PASSES: usize = offset_of!(Tls, inner_passes);

global_asm!(
    ".pushsection .tbss.interpose_tls,\"awT\",@nobits",
    ".p2align 6",
    ".hidden interpose_tls",
    ".globl interpose_tls",
    ".type interpose_tls,@object",
    ".size interpose_tls,{size}",
    "interpose_tls:",
    ".zero {size}",
    ".popsection",
    size = const SIZE,
);

/// This thread's block. Valid as long as the thread lives; other threads never touch it.
#[inline]
pub fn current() -> *mut Tls {
    let block: *mut Tls;
    // SAFETY: reads the block's offset from the GOT and the thread pointer from fs:0, which the psABI defines.
    unsafe {
        asm!(
            "mov {block}, qword ptr [rip + interpose_tls@gottpoff]",
            "add {block}, qword ptr fs:[0]",
            block = out(reg) block,
            options(pure, readonly, nostack)
        );
    }
    block
}

/// What fs:0 holds.
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: the psABI puts the thread pointer's own address there.
    unsafe { asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(pure, readonly, nostack)) };
    pointer
}
