//! The kernel's structures of a signal frame on x86-64 (asm/sigcontext.h, asm/ucontext.h).

use core::mem::{offset_of, size_of};

/// `stack_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackDescription {
    pub base: u64,
    /// An `int`; the upper half is padding.
    pub flags: u64,
    pub size: u64,
}

impl StackDescription {
    pub fn from_words([base, flags, size]: [u64; 3]) -> Self {
        Self { base, flags: flags & 0xffff_ffff, size }
    }
}

/// `struct ucontext` with the kernel's one-word mask.
#[repr(C)]
#[derive(Debug)]
pub struct Context {
    pub flags: u64,
    pub link: u64,
    pub stack: StackDescription,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub segments: u64,
    pub error: u64,
    pub trap: u64,
    pub old_mask: u64,
    pub fault_address: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
    pub mask: u64,
}

const _: () = {
    assert!(offset_of!(Context, r8) == 40);
    assert!(offset_of!(Context, rax) == 144);
    assert!(offset_of!(Context, eflags) == 176);
    assert!(offset_of!(Context, mask) == 296);
    assert!(size_of::<Context>() <= crate::entry::leave::SIGNAL_VECTOR);
    assert!(size_of::<SigInfo>() == 128);
};

impl Context {
    pub fn set_args(&mut self, args: [u64; 6]) {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9] = args;
    }
}

/// `siginfo_t`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    /// Above 0: from the kernel. 0 and below: sent by a process.
    pub code: i32,
    pad: i32,
    rest: [u64; 14],
}

impl SigInfo {
    pub fn signal(&self) -> u32 {
        self.signo as u32
    }

    /// Puts `value` here, as the kernel has no more use for what it says in a frame. Returns the address.
    pub fn leave<T: Copy>(&mut self, value: T) -> u64 {
        const { assert!(size_of::<T>() <= size_of::<[u64; 14]>() && align_of::<T>() <= align_of::<u64>()) };
        let place = (&raw mut self.rest).cast::<T>();
        // SAFETY: the size and alignment were checked above.
        unsafe { place.write(value) };
        place as u64
    }

    /// For a timer's: the value that it was made with.
    pub fn timer_value(&self) -> u64 {
        self.rest[1]
    }

    /// For SIGSYS: the call's architecture, an `AUDIT_ARCH_` value.
    pub fn architecture(&self) -> u32 {
        (self.rest[1] >> 32) as u32
    }
}
