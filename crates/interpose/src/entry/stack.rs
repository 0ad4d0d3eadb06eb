//! Handler stacks: mapped at a thread's first served call, given back when it exits.
//!
//! The list of free ones is a stack linked through their topmost words, its head tagged against reuse. It is only
//! pushed and popped by the entry's assembly, which has no stack of its own at that time. Stacks are never unmapped,
//! so reading a link that somebody else just popped is harmless.

use core::sync::atomic::AtomicU64;

/// Usable bytes of a handler stack.
pub const SIZE: usize = 256 * 1024;
/// Bytes below it that nothing may touch.
pub const GUARD: usize = 4096;

/// Head of the free list: address of a stack's top in the low 48 bits, a tag above.
pub static FREE: AtomicU64 = AtomicU64::new(0);
