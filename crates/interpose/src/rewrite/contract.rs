//! The contract between a stub and the entry it jumps to.
//!
//! **On arrival at the entry** every register holds what it held at the `syscall` instruction (`rax` the number,
//! `rdi rsi rdx r10 r8 r9` the arguments), `rsp` is untouched and nothing was pushed (the 128-byte red zone below it is
//! live), and `rcx` holds the address of the site's `resume` label. The flags may have been clobbered. The entry may
//! clobber `r11`.
//!
//! **Data before `resume`** ([`RESUME_ALIGN`]-aligned):
//!
//! | where | what |
//! |---|---|
//! | `[resume-8]` ([`DONE`]) | `u64`: where to jump with `rax` = result and every other register as on arrival, except `rcx` and `r11` |
//! | `[resume-16]` ([`SITE`]) | `u64`: start of the site in the original text; a PC inside the stub is rewound to it |
//! | `[resume-20]` ([`NUMBER`]) | `u32`: the system call number if known from the code, else [`NUMBER_UNKNOWN`] |
//! | `[resume-24]` ([`REWIND`]) | `u8`: what rewinding takes, a [`super::Rewind`] as its `u8` |
//!
//! **Jumping to `resume`** with the registers as on arrival performs the original system call and continues the
//! program. Where the pattern permits (all but [`super::Pattern::Overwrite`]) it does so by jumping to the untouched
//! `syscall` instruction in the original text, so unwinders and glibc's cancellation see a PC they know.
//!
//! **Before the entry**: a stub first runs the instructions the jump displaced, then loads `rcx`, then jumps.
//! An interrupted PC there, or in the entry before it did anything that counts, can be rewound to the site (subject to
//! [`super::Rewind`]) with `rax` = the number; `rcx` and `r11` are dead there unless `Rewind` says otherwise.

/// Offset from `resume` of the `u64` address of the instruction after the system call.
pub const DONE: isize = -8;
/// Offset from `resume` of the `u64` address of the site's first byte in the original text.
pub const SITE: isize = -16;
/// Offset from `resume` of the `u32` system call number.
pub const NUMBER: isize = -20;
/// Offset from `resume` of the `u8` form of [`super::Rewind`].
pub const REWIND: isize = -24;
/// What [`NUMBER`] holds where the number is computed at run time.
pub const NUMBER_UNKNOWN: u32 = u32::MAX;
/// `resume` is aligned to this many bytes.
pub const RESUME_ALIGN: u64 = 8;
