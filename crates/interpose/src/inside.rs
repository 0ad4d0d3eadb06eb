//! Work of the handler's that no call of the program asks for.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::compiler_fence;

use crate::entry::tls::{self, INSIDE, OUTSIDE};
use crate::signals::{SIG_BLOCK, alt, mask};
use crate::{handler_stack, lodger, process};

/// Runs `work` inside, though no call of the program is being served: what it calls is not the program's. `None` where that cannot be: inside
/// already (a [guest's fork](is_guest_fork) excepted), or in a child that is not served. It runs on the handler stack, if the thread
/// has one yet; the caller has blocked all signals that the program may handle, and faults excepted none comes.
pub fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    if lodger::is_current() {
        return None;
    }
    let tls = tls::current();
    // SAFETY: the block is this thread's; a handler of a fault reads the byte.
    let set = |value| unsafe { (&raw mut (*tls).inside).write_volatile(value) };
    // SAFETY: as above.
    let (before, top) = unsafe { ((*tls).inside, (*tls).top) };
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

/// Runs `work` below `top`, which is this thread's handler stack, in use by nobody: the program's may be too small.
fn on_stack<T, W: FnOnce() -> T>(top: u64, work: W) -> T {
    let here = (&raw const work) as u64;
    // SAFETY: the block is this thread's.
    let on_alternate = unsafe {
        let tls = tls::current();
        here.wrapping_sub((*tls).alt_base) < (*tls).alt_size
    };
    if !on_alternate {
        // SAFETY: `top` is aligned to 64 bytes, with the handler stack's room below it.
        return unsafe { handler_stack::run_below(top, None, work) };
    }
    // Also those that the caller cannot block, but where a filter may forbid it.
    let blocked = (!process::is_restrained()).then(|| mask::change_native(SIG_BLOCK, mask::everything()));
    let work = || {
        if let Some(before) = blocked {
            mask::set_native(before);
        }
        work()
    };
    // SAFETY: as above; all signals are blocked. The block is this thread's.
    unsafe {
        let result = handler_stack::run_below(top, Some(&mut *tls::current()), work);
        alt::switch_on(&mut *tls::current());
        result
    }
}
