//! The stack on which all signals of a guest's thread arrive, and so all its calls: its own may be too small for a signal's frame (a child
//! of `posix_spawn`), or be gone already (musl's detached threads unmap theirs and then exit).
//!
//! It is the kernel's alternate stack of the thread, always; nothing of the guest's runs on it. The guest's alternate stack is kept by
//! [`super::alternate`].

use crate::entry::tls::Tls;
use crate::raw;
use crate::signals::{NO_ALT, SYS_SIGALTSTACK, StackDescription};

/// Usable bytes: a few signals' frames and wrappers. (What serves a fault is on the handler stack.)
pub const SIZE: u64 = 64 * 1024;
/// Above them: what the guest has set ([`kept`]).
const KEPT: u64 = 64;
const GUARD: u64 = 4096;
const SYS_MMAP: u32 = 9;
const SYS_MPROTECT: u32 = 10;
const SYS_MUNMAP: u32 = 11;
/// `PROT_READ | PROT_WRITE`, `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`.
const READ_WRITE: u64 = 3;
const PRIVATE: u64 = 0x4022;

/// The thread's, for sigaltstack.
pub fn own(tls: &Tls) -> StackDescription {
    StackDescription { base: tls.own_alt, flags: 0, size: SIZE }
}

/// Whether it has this address.
pub fn holds(tls: &Tls, address: u64) -> bool {
    (tls.own_alt..tls.own_alt + SIZE).contains(&address)
}

/// The guest's alternate stack, as it has set it: all zero at first, which is none.
pub fn kept(tls: &Tls) -> *mut StackDescription {
    (tls.own_alt + SIZE) as *mut StackDescription
}

/// Gives this thread one. A positive errno when that fails.
pub fn provide(tls: &mut Tls) -> Result<(), i32> {
    let checked = |result: i64| if result < 0 { Err(-result as i32) } else { Ok(result as u64) };
    // SAFETY: new memory of ours; the description is ours, and nobody is on an alternate stack.
    unsafe {
        let args = [0, SIZE + KEPT + GUARD, READ_WRITE, PRIVATE, u64::MAX, 0];
        let memory = checked(raw::syscall6(SYS_MMAP, args))?;
        tls.own_alt = memory + GUARD;
        let stack = own(tls);
        let guarded = checked(raw::syscall3(SYS_MPROTECT, memory, GUARD, 0));
        let set = guarded.and_then(|_| checked(raw::syscall2(SYS_SIGALTSTACK, (&raw const stack) as u64, 0)));
        if let Err(errno) = set {
            raw::syscall2(SYS_MUNMAP, memory, SIZE + KEPT + GUARD);
            tls.own_alt = 0;
            return Err(errno);
        }
    }
    tls.alt_base = tls.own_alt;
    tls.alt_size = SIZE;
    Ok(())
}

/// Takes it away from this thread, which ends and has all signals blocked.
pub fn disable(tls: &mut Tls) {
    tls.alt_size = 0;
    tls.alt_disabled = 0;
    // SAFETY: the thread is on its handler stack and does not come back to the other.
    unsafe {
        raw::syscall2(SYS_SIGALTSTACK, (&raw const NO_ALT) as u64, 0);
        if tls.own_alt != 0 {
            raw::syscall2(SYS_MUNMAP, tls.own_alt - GUARD, SIZE + KEPT + GUARD);
        }
    }
    tls.own_alt = 0;
}
