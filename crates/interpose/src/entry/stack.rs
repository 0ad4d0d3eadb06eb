//! Handler stacks: mapped at a thread's first served call or fault, given back when it exits.
//!
//! The list of free ones is a stack linked through their topmost words, its head tagged against reuse. The entry pushes and pops
//! in assembly, as it has no stack of its own at that time. Stacks are never unmapped,
//! so reading a link that somebody else just popped is harmless.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::tls::Tls;
use crate::raw;
use crate::signals::StackDescription;

/// Usable bytes of a handler stack.
pub const SIZE: usize = 256 * 1024;
/// Bytes below it that nothing may touch.
pub const GUARD: usize = 4096;

const SYS_MMAP: u32 = 9;
const SYS_MPROTECT: u32 = 10;
/// `PROT_READ | PROT_WRITE`, `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK`.
const READ_WRITE: u64 = 3;
const PRIVATE: u64 = 0x2_4022;

/// Head of the free list: address of a stack's top in the low 48 bits, a tag above.
pub static FREE: AtomicU64 = AtomicU64::new(0);

/// Whether this stack pointer is on the thread's handler stack.
pub fn holds(tls: &Tls, pointer: u64) -> bool {
    tls.stack != 0 && pointer.wrapping_sub(tls.stack) <= SIZE as u64
}

/// Gives this thread, which is inside, a handler stack if it has none: as `interpose_no_stack` does. `alternate` is its alternate signal
/// stack. Nothing where there is no memory.
pub fn provide(tls: &mut Tls, alternate: &StackDescription) {
    if tls.top != 0 {
        return;
    }
    let Some(top) = take_free().or_else(map) else { return };
    tls.top = top;
    tls.stack = top - SIZE as u64;
    // It may have been set before anybody watched.
    tls.alt_base = alternate.base;
    tls.alt_size = alternate.size;
}

fn take_free() -> Option<u64> {
    let mut head = FREE.load(Acquire);
    loop {
        let top = head << 16 >> 16;
        if top == 0 {
            return None;
        }
        // SAFETY: mapped for ever; whoever has taken it since may write there, and then the tag has changed.
        let next = unsafe { AtomicU64::from_ptr((top - 8) as *mut u64) }.load(Relaxed);
        let tagged = ((head >> 48) + 1) << 48 | next;
        match FREE.compare_exchange(head, tagged, AcqRel, Acquire) {
            Ok(_) => return Some(top),
            Err(now) => head = now,
        }
    }
}

fn map() -> Option<u64> {
    // SAFETY: new memory of ours.
    unsafe {
        let memory =
            raw::syscall6(SYS_MMAP, [0, (SIZE + GUARD) as u64, READ_WRITE, PRIVATE, u64::MAX, 0]) as u64;
        if memory > u64::MAX - 4096 {
            return None;
        }
        raw::syscall3(SYS_MPROTECT, memory, GUARD as u64, 0);
        Some(memory + (SIZE + GUARD) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::MaybeUninit;

    #[test]
    fn a_thread_gets_one_stack_with_a_guard() {
        let mut block = MaybeUninit::<Tls>::zeroed();
        // SAFETY: all zero is a thread that never made a call.
        let tls = unsafe { block.assume_init_mut() };
        let alternate = StackDescription { base: 4096, flags: 0, size: 8192 };
        assert!(!holds(tls, 4096));
        provide(tls, &alternate);
        let top = tls.top;
        assert_eq!((tls.top - tls.stack, tls.alt_base, tls.alt_size), (SIZE as u64, 4096, 8192));
        assert!(holds(tls, top) && holds(tls, tls.stack) && !holds(tls, tls.stack - 1));
        // SAFETY: ours, all of it.
        unsafe {
            (tls.stack as *mut u8).write_volatile(1);
            ((top - 1) as *mut u8).write_volatile(1);
        }
        provide(tls, &alternate);
        assert_eq!(tls.top, top);
    }
}
