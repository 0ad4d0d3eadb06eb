//! What a stub's data says about the site it stands for.

use crate::entry::regions;
use crate::hosted;
use crate::signals::Context;

/// Values of the byte at `resume - 24`, see `rewrite::contract`.
const PLAIN: u8 = 0;
const RELOAD_R11: u8 = 1;

/// Address of the instruction after the system call.
///
/// # Safety
/// `resume` is the label of a live stub.
pub unsafe fn done(resume: u64) -> u64 {
    // SAFETY: the caller's promise.
    let left_to = unsafe { leads_to(resume) };
    if left_to != hosted::done() {
        return left_to;
    }
    // SAFETY: only dispatch leaves calls there, and its records hold this.
    unsafe { ((resume - 32) as *const u64).read() }
}

/// Where a call is left to: there, or to what leads there.
///
/// # Safety
/// As for [`done`].
pub unsafe fn leads_to(resume: u64) -> u64 {
    // SAFETY: the contract puts it there; stubs live for ever.
    unsafe { ((resume - 8) as *const u64).read() }
}

/// Start of the site in the program's text.
///
/// # Safety
/// As for [`done`].
pub unsafe fn start(resume: u64) -> u64 {
    // SAFETY: as above.
    unsafe { ((resume - 16) as *const u64).read() }
}

/// Turns a context that has the registers of the system call into one at the start of its site. Returns whether the site allows it;
/// else the context is as it was.
pub fn rewind(context: &mut Context, resume: u64) -> bool {
    // SAFETY: callers take `resume` from where the entry keeps it.
    let (kind, start) = unsafe { (((resume - 24) as *const u8).read(), start(resume)) };
    match kind {
        PLAIN => {}
        // SAFETY: the displaced code just wrote there.
        RELOAD_R11 => context.r11 = unsafe { ((context.rsp + 8) as *const u64).read() },
        _ => return false,
    }
    context.rip = start;
    true
}

/// As [`rewind`]; where the site does not allow it, the program goes on at the entry, which is as good to return to
/// but not known to unwinders.
pub fn again(context: &mut Context, resume: u64) {
    if !rewind(context, resume) {
        context.rcx = resume;
        context.rip = regions::entry();
    }
}
