//! Syscall User Dispatch: the kernel hands over calls from sites that could not be rewritten.

use crate::entry::tls::Tls;
use crate::signals::{Context, SigInfo};
use crate::table;
use core::sync::atomic::Ordering::Relaxed;

/// Whether threads have it armed.
pub fn armed() -> bool {
    table::DISPATCHING.load(Relaxed) != 0
}

/// Arms it at install, if the policy says so.
pub fn arm_at_install(_policy: crate::DispatchPolicy, _missed: u32) -> bool {
    false
}

/// Arms it in a new process, where the kernel has cleared it.
pub fn arm_again() {}

/// A call was caught.
pub fn caught(_info: &SigInfo, _context: &mut Context, _tls: &mut Tls) {}
