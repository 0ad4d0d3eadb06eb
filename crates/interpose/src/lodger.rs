//! A child of clone that is a process of its own, runs beside its caller on the same memory, and does not have all in common that
//! is kept there: thread pointer, FDs, working directory ([`ForkCall::is_lodger`](crate::ForkCall::is_lodger)).
//!
//! With one thread pointer both would use one block and one handler stack at the same time; with an FD table of its own it would
//! find its caller's files in ours. The C library makes no such child; some tracers do (LeakSanitizer's). It
//! is marked in its GS base, which 64-bit programs leave alone, and its calls go straight to the kernel.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Not zero once there was such a child.
pub static EXPECTED: AtomicU8 = AtomicU8::new(0);
/// Its address is the mark.
pub static MARK: AtomicU8 = AtomicU8::new(0);

const AT_HWCAP2: u64 = 26;
const HWCAP2_FSGSBASE: u64 = 2;

/// Whether user code may read and write its GS base.
pub fn supported() -> bool {
    unsafe extern "C" {
        fn getauxval(kind: u64) -> u64;
    }
    // SAFETY: reads what the kernel passed at exec.
    unsafe { getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// From now on calls look for the mark.
pub fn expect() {
    EXPECTED.store(1, Relaxed);
}

/// Whether the calling thread is one.
pub fn is_current() -> bool {
    if EXPECTED.load(Relaxed) == 0 {
        return false;
    }
    let base: u64;
    // SAFETY: `expect` follows `supported`.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base == (&raw const MARK) as u64
}

/// Marks the calling thread.
pub fn mark_current() {
    // SAFETY: as above; nothing uses GS.
    unsafe {
        asm!("wrgsbase {}", in(reg) (&raw const MARK) as u64, options(nomem, nostack, preserves_flags));
    };
}
