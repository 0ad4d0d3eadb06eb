//! Work of the handler's that no call of the program asks for.

use core::arch::asm;
use core::ffi::c_void;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::compiler_fence;

use crate::entry::tls::{self, INSIDE, OUTSIDE};
use crate::signals::{NO_ALT, SYS_SIGALTSTACK};
use crate::{lodger, raw};

/// Runs `work` inside, though no call of the program is being served: what it calls is not the program's. `None` where that cannot be: inside
/// already (a [guest's fork](is_guest_fork) excepted), in a vfork child, or in one that is not served. It runs on the handler stack, if the thread
/// has one yet; the caller has blocked all signals that the program may handle, and faults excepted none comes.
pub fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    if lodger::is_current() {
        return None;
    }
    let tls = tls::current();
    // SAFETY: the block is this thread's; a handler of a fault reads the byte.
    let set = |value| unsafe { (&raw mut (*tls).inside).write_volatile(value) };
    // SAFETY: as above.
    let (before, depth, top) = unsafe { ((*tls).inside, (*tls).vfork_depth, (*tls).top) };
    if depth > 0 {
        return None;
    }
    if is_guest_fork() {
        // On the handler stack, with signals held back.
        return Some(work());
    }
    if before != OUTSIDE {
        return None;
    }
    set(INSIDE);
    compiler_fence(SeqCst);
    let result = if top == 0 { work() } else { on_stack(top, work) };
    compiler_fence(SeqCst);
    set(OUTSIDE);
    Some(result)
}

/// Whether this thread is in our C library's fork, which a guest has asked for.
pub fn is_guest_fork() -> bool {
    // SAFETY: the block is this thread's.
    unsafe { (*tls::current()).forking != 0 }
}

struct Job<W, T> {
    work: Option<W>,
    result: Option<T>,
    /// The caller is on the program's alternate stack.
    on_alternate: bool,
}

/// Runs `work` below `top`, which is this thread's handler stack, in use by nobody: the program's may be too small.
fn on_stack<T, W: FnOnce() -> T>(top: u64, work: W) -> T {
    let mut job = Job { work: Some(work), result: None, on_alternate: false };
    let here = (&raw const job) as u64;
    // SAFETY: the block is this thread's.
    job.on_alternate = unsafe {
        let tls = tls::current();
        here.wrapping_sub((*tls).alt_base) < (*tls).alt_size
    };
    let run: unsafe extern "C" fn(*mut c_void) = run::<T, W>;
    // SAFETY: `top` is aligned to 64 bytes, with the handler stack's room below it; r12 is kept by what is called, which does not unwind. `job` lives
    // in this frame, which nobody else touches meanwhile.
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
    // SAFETY: `on_stack` passes its own.
    let job = unsafe { &mut *job.cast::<Job<W, T>>() };
    let mut before = NO_ALT;
    if job.on_alternate {
        // The kernel takes it for unused now, and would put a fault's frame on top of the program's frames.
        // SAFETY: the descriptions are ours, and we are not on the alternate stack.
        unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const NO_ALT) as u64, (&raw mut before) as u64) };
    }
    job.result = job.work.take().map(|work| work());
    if job.on_alternate {
        // SAFETY: as above; what was set before.
        unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const before) as u64, 0) };
    }
}
