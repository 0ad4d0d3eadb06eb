//! Code of ours on the handler stack that was not led there by the entry.

use core::arch::asm;
use core::ffi::c_void;

use crate::raw;
use crate::signals::{NO_ALT, SYS_SIGALTSTACK};

struct Job<W, T> {
    work: Option<W>,
    result: Option<T>,
    /// The caller is on the program's alternate stack.
    on_alternate: bool,
}

/// Runs `work` below `top`. `on_alternate`: the caller is on the thread's alternate signal stack. The kernel would take that for unused meanwhile, and put
/// the next signal's frame on top of what lies there: it is switched off.
///
/// # Safety
/// `top` is aligned to 64 bytes and has room below that nobody uses. While `work` does not run, no signal comes whose action has `SA_ONSTACK`, if
/// `on_alternate`. `work` does not unwind.
pub unsafe fn run_below<T, W: FnOnce() -> T>(top: u64, on_alternate: bool, work: W) -> T {
    let mut job = Job { work: Some(work), result: None, on_alternate };
    let run: unsafe extern "C" fn(*mut c_void) = run::<T, W>;
    // SAFETY: the caller's promise; r12 is kept by what is called. `job` lives in this frame, which nobody else touches meanwhile.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {run}",
            "mov rsp, r12",
            top = in(reg) top,
            run = in(reg) run,
            in("rdi") (&raw mut job).cast::<c_void>(),
            out("r12") _,
            clobber_abi("C"),
        );
    }
    match job.result {
        Some(result) => result,
        None => unreachable!("`run` has filled it in"),
    }
}

unsafe extern "C" fn run<T, W: FnOnce() -> T>(job: *mut c_void) {
    // SAFETY: `run_below` passes its own.
    let job = unsafe { &mut *job.cast::<Job<W, T>>() };
    let mut before = NO_ALT;
    if job.on_alternate {
        // SAFETY: the descriptions are ours, and we are not on the alternate stack.
        unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const NO_ALT) as u64, (&raw mut before) as u64) };
    }
    job.result = job.work.take().map(|work| work());
    if job.on_alternate {
        // SAFETY: as above; what was set before.
        unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const before) as u64, 0) };
    }
}
