//! A handler of SIGBUS for programs that have none of their own to call [`Pager::handle_fault`] from.

use crate::error::{Error, Result};
use crate::fault::Handled;
use crate::pager::Pager;
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bit of a page fault's error code, in the signal's context: the access was a store.
const STORE: i64 = 1 << 1;

static PAGER: AtomicPtr<Pager> = AtomicPtr::new(std::ptr::null_mut());
/// What SIGBUS did before; never freed, as a handler may be looking at it.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// Serves SIGBUS by `pager` in every thread, for the rest of the process's life. Signals that are not
/// the pager's go on to the handler installed before, or end the process. EBUSY: done already.
///
/// A thread that has no room for a signal handler on its stack needs sigaltstack(2).
pub fn install(pager: &'static Pager) -> Result<()> {
    const ACTION: &str = "installing a handler of SIGBUS";
    let pager = std::ptr::from_ref(pager).cast_mut();
    if PAGER.compare_exchange(std::ptr::null_mut(), pager, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Err(Error::new(ACTION, Errno::BUSY));
    }
    let previous = Box::into_raw(Box::new(MaybeUninit::<libc::sigaction>::zeroed()));
    // SAFETY: `previous` is a sigaction to be written to; zeroed is one too, with SIG_DFL.
    let got = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.cast()) };
    PREVIOUS.store(previous.cast(), Ordering::Release);
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the mask is ours; `on_sigbus` has the signature that SA_SIGINFO asks for and is
    // async-signal-safe.
    let set = unsafe {
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
    };
    if got != 0 || set != 0 {
        return Err(Error::new(
            ACTION,
            Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL),
        ));
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and ucontext for a SIGBUS of its own making; of somebody
    // else's (`si_code` <= 0) no more than the code is looked at. `PAGER` was set from a `&'static`.
    let handled = unsafe {
        match PAGER.load(Ordering::Acquire).as_ref() {
            Some(pager) if (*info).si_code == libc::BUS_ADRERR => {
                let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
                let store = registers[libc::REG_ERR as usize] & STORE != 0;
                pager.handle_fault((*info).si_addr().addr(), store)
            }
            _ => Handled::NotServed,
        }
    };
    if handled != Handled::Retry {
        pass_on(signal, info, context);
    }
}

/// What would have happened without the pager.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: null, or a sigaction that is never freed.
    let previous = unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() };
    match previous.map(|previous| (previous.sa_sigaction, previous.sa_flags, previous)) {
        Some((libc::SIG_IGN | libc::SIG_DFL, ..)) | None => {
            // SAFETY: all zeros is SIG_DFL. The access is repeated after our return and ends the
            // process, as the kernel does not let a fault be ignored.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, std::ptr::null_mut());
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        Some((handler, flags, _)) if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: installed with SA_SIGINFO, so it has this signature.
            let handler = unsafe {
                std::mem::transmute::<
                    usize,
                    extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
                >(handler)
            };
            handler(signal, info, context);
        }
        Some((handler, ..)) => {
            // SAFETY: installed without SA_SIGINFO, so it has this signature.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}
