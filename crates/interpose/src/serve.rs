//! From the entry to the handler: our own numbers first, then the host's.

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::AcqRel;

use crate::entry::frame::{
    Frame, KIND_AFTER_CLONE, KIND_CALL, LEAVE_AGAIN, LEAVE_DONE, LEAVE_EDITED, LEAVE_PASS,
};
use crate::entry::tls::{self, INTERNAL_THREAD, Tls};
use crate::signals::{self, actions, mask};
use crate::table::{self, Own};
use crate::{Call, Handler, InstallError, Outcome, RESTART, hosted, objects, process, raw, site};

struct Installed(UnsafeCell<Option<&'static dyn Handler>>);
// SAFETY: written once by `set_handler`, before any site leads here.
unsafe impl Sync for Installed {}
static HANDLER: Installed = Installed(UnsafeCell::new(None));
static SET: AtomicBool = AtomicBool::new(false);

struct NoHandler;
impl Handler for NoHandler {
    fn call(&self, _call: &mut Call) -> Outcome {
        Outcome::PassThrough
    }
}

/// Sets the handler, once.
pub fn set_handler(handler: &'static dyn Handler) -> Result<(), InstallError> {
    if SET.swap(true, AcqRel) {
        return Err(InstallError::Twice);
    }
    // SAFETY: the swap lets one caller through, and sites are rewritten after this.
    unsafe { *HANDLER.0.get() = Some(handler) };
    Ok(())
}

/// The handler that was installed.
#[inline]
pub fn handler() -> &'static dyn Handler {
    // SAFETY: not written once calls arrive.
    unsafe { (*HANDLER.0.get()).unwrap_or(&NoHandler) }
}

/// Called by the entry with the program's registers; the result is a `LEAVE_` value.
pub extern "C" fn serve(frame: &mut Frame) -> u64 {
    let nr = frame.rax as u32;
    if frame.kind == KIND_CALL {
        match table::own(nr) {
            None => offer(frame, nr),
            Some(own) => serve_own(frame, nr, own),
        }
    } else {
        serve_rare(frame, nr)
    }
}

#[cold]
fn serve_rare(frame: &mut Frame, nr: u32) -> u64 {
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    if frame.kind == KIND_AFTER_CLONE {
        return process::after_clone(frame, tls);
    }
    // SAFETY: an inner call's frame.
    unsafe { inner(frame, nr, tls) }
}

fn call_of(frame: &Frame, nr: u32) -> Call {
    // SAFETY: the entry's frames hold the `resume` of a live stub.
    let start = unsafe { site::start(frame.resume) };
    Call::from_site(nr, frame.args(), start, frame.rsp)
}

fn offer(frame: &mut Frame, nr: u32) -> u64 {
    let mut call = call_of(frame, nr);
    // SAFETY: the block is this thread's.
    let tried = core::mem::take(unsafe { &mut (*tls::current()).tried });
    call.set_tried(tried);
    match handler().call(&mut call) {
        Outcome::Return(RESTART) => LEAVE_AGAIN,
        Outcome::Return(value) => {
            frame.rax = value as u64;
            LEAVE_DONE
        }
        Outcome::PassThrough => pass(frame, &call, 0),
    }
}

/// Makes the call from the program's own instruction, or from ours when it was edited.
fn pass(frame: &mut Frame, call: &Call, wait_mask: u64) -> u64 {
    if !call.is_edited() && call.nr == frame.rax as u32 {
        return LEAVE_PASS;
    }
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    tls.original = *call.original_args();
    tls.resume = frame.resume;
    tls.wait_mask = wait_mask;
    frame.set_args(call.args);
    frame.rax = u64::from(call.nr);
    LEAVE_EDITED
}

/// Numbers this crate has its own business with.
#[cold]
fn serve_own(frame: &mut Frame, nr: u32, own: Own) -> u64 {
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    let result = match own {
        Own::Fork => return process::serve_fork(frame, nr, tls),
        Own::Exit => return process::serve_exit(frame, tls),
        Own::Action => actions::serve(tls, frame.args()),
        Own::Mask => mask::serve(tls, frame.args()),
        Own::AltStack => match signals::alt::serve(tls, frame) {
            Some(result) => result,
            None => return LEAVE_PASS,
        },
        Own::Wait { argument, pair } => {
            let mut call = call_of(frame, nr);
            if table::host_interested(nr, &call.args) {
                match handler().call(&mut call) {
                    Outcome::Return(RESTART) => return LEAVE_AGAIN,
                    Outcome::Return(value) => {
                        frame.rax = value as u64;
                        return LEAVE_DONE;
                    }
                    Outcome::PassThrough => {}
                }
            }
            let wait_mask = mask::filter(tls, &mut call, argument, pair);
            return pass(frame, &call, wait_mask);
        }
        Own::Executable => {
            let result = match consult(frame, nr) {
                Ok(value) => value,
                // SAFETY: what the program asked.
                Err(call) if call.args[2] & PROT_EXEC != 0 => unsafe { raw::syscall6(call.nr, call.args) },
                Err(call) => return pass(frame, &call, 0),
            };
            // What a guest loads is not rewritten.
            if !hosted::is_guest_call(frame.resume) {
                objects::changed(nr, &frame.args(), result);
            }
            result
        }
        Own::Guest => {
            let guest = hosted::is_guest_call(frame.resume);
            match if guest { hosted::calls::serve(tls, nr, frame.args()) } else { None } {
                Some(result) => result,
                None if table::host_interested(nr, &frame.args()) => return offer(frame, nr),
                None => return LEAVE_PASS,
            }
        }
        Own::Exec => match consult(frame, nr) {
            Ok(value) => value,
            // SAFETY: what the program asked.
            Err(call) => unsafe { process::exec(call.nr, call.args) },
        },
    };
    if result == RESTART {
        return LEAVE_AGAIN;
    }
    frame.rax = result as u64;
    LEAVE_DONE
}

const PROT_EXEC: u64 = 4;

/// Asks the host if it is interested: its value, or the call to make.
fn consult(frame: &Frame, nr: u32) -> Result<i64, Call> {
    let mut call = call_of(frame, nr);
    if table::host_interested(nr, &call.args)
        && let Outcome::Return(value) = handler().call(&mut call)
    {
        return Ok(value);
    }
    Err(call)
}

/// A call made while inside: by the handler, a plugin, or one of their threads.
unsafe fn inner(frame: &mut Frame, nr: u32, tls: &mut Tls) -> u64 {
    let result = match table::own(nr) {
        Some(Own::Action) => actions::serve(tls, frame.args()),
        Some(Own::Mask) => {
            let result = mask::serve(tls, frame.args());
            if hosted::active() && tls.inside == INTERNAL_THREAD {
                hosted::keep_signals_from_own_thread();
            }
            result
        }
        Some(Own::Fork) if tls.forking != 0 => return process::serve_inner_fork(frame, nr, tls),
        Some(Own::Fork) => {
            process::mark_internal(nr, &frame.args(), frame.resume);
            return LEAVE_PASS;
        }
        Some(Own::Executable) if !table::host_inner(nr) => {
            // SAFETY: what the caller asked.
            let result = unsafe { raw::syscall6(nr, frame.args()) };
            objects::changed(nr, &frame.args(), result);
            result
        }
        _ => {
            let mut call = call_of(frame, nr);
            match handler().inner_call(&mut call) {
                Outcome::Return(value) => value,
                Outcome::PassThrough if call.is_edited() || call.nr != nr => {
                    // SAFETY: what the handler asked.
                    unsafe { raw::syscall6(call.nr, call.args) }
                }
                Outcome::PassThrough => return LEAVE_PASS,
            }
        }
    };
    frame.rax = result as u64;
    LEAVE_DONE
}

/// Says whether calls that this thread makes inside, from now on, go to the kernel without [`Handler::inner_call`]. For a
/// handler that has nothing to say about them, around code that makes some: asking costs as much as serving a call.
pub fn pass_inner_calls(pass: bool) {
    // SAFETY: the block is this thread's.
    unsafe { (*tls::current()).inner_passes = pass.into() };
}
