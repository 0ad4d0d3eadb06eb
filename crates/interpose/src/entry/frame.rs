//! The registers of the program while a call of it is served.

use core::mem::offset_of;

/// Room for 32 registers of 64 bytes.
const VECTOR_SIZE: usize = 2048;

/// As the entry's assembly lays it out on the handler stack.
#[repr(C, align(64))]
pub struct Frame {
    /// System call number on arrival, result when left by [`LEAVE_DONE`].
    pub rax: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub r10: u64,
    pub r8: u64,
    pub r9: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rsp: u64,
    /// The site's `resume` address.
    pub resume: u64,
    pub flags: u64,
    pub errno: u32,
    /// [`KIND_CALL`], [`KIND_INNER`] or [`KIND_AFTER_CLONE`].
    pub kind: u32,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Vector components in use on arrival, as bits of XCR0.
    pub in_use: u32,
    /// Whether `fx` has to be put back.
    pub x87: u32,
    _pad: u32,
    _spare: [u64; 5],
    pub vector: [u8; VECTOR_SIZE],
    pub vector_masks: [u64; 8],
    /// Written when the x87 unit is in use.
    pub fx: [u8; 512],
}

/// A call of the program.
pub const KIND_CALL: u32 = 0;
/// The program's clone was made; `rax` is its result.
pub const KIND_AFTER_CLONE: u32 = 1;
/// A call made while inside.
pub const KIND_INNER: u32 = 2;

/// Leave to `done` with the result.
pub const LEAVE_DONE: u64 = 0;
/// Leave to `resume` with the registers as they came.
pub const LEAVE_PASS: u64 = 1;
/// Make the call from our text with the arguments in the frame; the program's own are in the TLS block.
pub const LEAVE_EDITED: u64 = 2;
/// Make the clone from our text; the child goes to `done`, the caller comes back as [`KIND_AFTER_CLONE`].
pub const LEAVE_CLONE: u64 = 3;
/// Leave to the site's first instruction, so that the call is made again.
pub const LEAVE_AGAIN: u64 = 4;

pub const SIZE: usize = size_of::<Frame>();
pub const RSP: usize = offset_of!(Frame, rsp);
pub const FRAME_RESUME: usize = offset_of!(Frame, resume);
pub const FLAGS: usize = offset_of!(Frame, flags);
pub const ERRNO: usize = offset_of!(Frame, errno);
pub const KIND: usize = offset_of!(Frame, kind);
pub const VECTOR: usize = offset_of!(Frame, vector);
pub const VECTOR_MASKS: usize = offset_of!(Frame, vector_masks);
pub const FX: usize = offset_of!(Frame, fx);
pub const MXCSR: usize = offset_of!(Frame, mxcsr);
pub const IN_USE: usize = offset_of!(Frame, in_use);
pub const X87: usize = offset_of!(Frame, x87);

const _: () = assert!(VECTOR.is_multiple_of(64) && FX.is_multiple_of(16) && SIZE.is_multiple_of(64));

impl Frame {
    /// The six arguments as the kernel would read them.
    pub fn args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Sets the argument registers.
    pub fn set_args(&mut self, args: [u64; 6]) {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9] = args;
    }
}
