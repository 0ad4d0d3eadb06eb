//! Code of ours on the handler stack that was not led there by the entry.

use core::arch::asm;
use core::ffi::c_void;

use crate::entry::tls::Tls;
use crate::signals::alt;

struct Job<'a, W, T> {
    work: Option<W>,
    result: Option<T>,
    alternate: Option<&'a mut Tls>,
}

/// Runs `work` below `top`. `alternate`, the thread's block, if the caller is on the thread's alternate signal stack. The kernel would take that for unused meanwhile, and put
/// the next signal's frame on top of what lies there: it is switched off, and left so. The caller, who is on it again, switches it on or leaves by
/// a signal frame that says what it was.
///
/// # Safety
/// `top` is aligned to 64 bytes and has room below that nobody uses. With `alternate`, no signal at all comes before `work` runs, and the alternate stack
/// is on. `work` does not unwind.
pub unsafe fn run_below<T, W: FnOnce() -> T>(top: u64, alternate: Option<&mut Tls>, work: W) -> T {
    let mut job = Job { work: Some(work), result: None, alternate };
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
    let job = unsafe { &mut *job.cast::<Job<'_, W, T>>() };
    if let Some(tls) = job.alternate.take() {
        alt::switch_off(tls);
    }
    job.result = job.work.take().map(|work| work());
}
