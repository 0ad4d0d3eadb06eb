//! Signals of the calling thread blocked for a while, without libc (whose `pthread_sigmask` may be a
//! patched call site).

use std::arch::asm;
use std::sync::OnceLock;

const SIG_BLOCK: u32 = 0;
const SIG_SETMASK: u32 = 2;
/// Size of the kernel's `sigset_t`.
const SET_SIZE: usize = 8;

static CHANGE: OnceLock<fn(u32, u64) -> u64> = OnceLock::new();

/// Has `change` called where the pager blocks signals of the calling thread for a moment, instead of `rt_sigprocmask(2)`, whose first argument and whose set it gets; it returns
/// the mask before. For a host that holds signals back, so that the kernel's mask is not the program's. Once, before anything else of this crate is used: the first
/// one stays.
///
/// It is called in handlers of signals, too.
pub fn change_masks_by(change: fn(how: u32, set: u64) -> u64) {
    let _ = CHANGE.set(change);
}

/// All signals of this thread that others send are blocked while this lives. Not to be sent to another thread.
pub(crate) struct Blocked {
    previous: u64,
    _stay: std::marker::PhantomData<*const ()>,
}

/// Those that the thread's own instructions raise: SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS. A fault while they are
/// blocked ends the process.
const SYNCHRONOUS: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;

pub(crate) fn block_all() -> Blocked {
    // What else was blocked stays so: one of `SYNCHRONOUS` that was sent may be waiting.
    Blocked { previous: change_mask(SIG_BLOCK, !SYNCHRONOUS), _stay: std::marker::PhantomData }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        change_mask(SIG_SETMASK, self.previous);
    }
}

fn change_mask(how: u32, mask: u64) -> u64 {
    CHANGE.get().map_or_else(|| change_native(how, mask), |change| change(how, mask))
}

/// `rt_sigprocmask(2)`; cannot fail with these arguments. Returns the mask before.
fn change_native(how: u32, mask: u64) -> u64 {
    let mut previous = 0_u64;
    // SAFETY: rt_sigprocmask reads 8 bytes at `&mask` and writes 8 at `&mut previous`, both live here;
    // the kernel clobbers rcx and r11, and nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") linux_raw_sys::general::__NR_rt_sigprocmask as usize => _,
            in("rdi") u64::from(how),
            in("rsi") &raw const mask,
            in("rdx") &raw mut previous,
            in("r10") SET_SIZE,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    previous
}
