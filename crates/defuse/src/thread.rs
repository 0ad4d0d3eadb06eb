//! What is known of the calling thread, without a system call and without libc.
//!
//! A thread-local of the initial-exec model, in assembly since rustc has no stable switch for it: the general
//! model may call `malloc` (after a dlopen, at a thread's first access), under which we may be.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::io::Errno;
use uffd_pager::Kept;

use crate::native;

global_asm!(
    ".section .tbss,\"awT\",@nobits",
    ".hidden defuse_thread",
    ".globl defuse_thread",
    ".type defuse_thread,@object",
    ".size defuse_thread, 32",
    ".balign 8",
    "defuse_thread:",
    ".zero 32",
    ".previous",
);

#[repr(C)]
struct Thread {
    /// gettid(2), 0 until asked for.
    id: AtomicU32,
    /// Not 0 while a plugin opens a file whose descriptor may become the program's own; 2 if exec is not to close that.
    adopting: AtomicU32,
    /// What a signal does to a call of a plugin that waits.
    waiting: AtomicU32,
    /// Not 0 while a plugin opens descriptors that it closes before its operation returns.
    brief: AtomicU32,
    /// Not 0 while a plugin sets a record lock of the program.
    locking: AtomicU32,
    /// Not 0 from before a fork takes the lock of the list of streams until it has given it back.
    listing: AtomicU32,
    /// Mapped memory that a call of the program uses which the kernel was given last.
    kept: AtomicPtr<Vec<Kept>>,
}

/// The thread's id. In a vfork child that of the parent's suspended thread, whose memory it runs on.
pub fn id() -> u32 {
    let known = current().id.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let id = native::thread_id();
    current().id.store(id, Ordering::Relaxed);
    id
}

/// In the child of a fork: the thread has another id now.
pub fn after_fork_in_child() {
    current().id.store(0, Ordering::Relaxed);
}

/// Whether descriptors that a plugin opens now may stay where the kernel put them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Adopting {
    /// They are moved to private numbers.
    No,
    /// They stay as they are.
    AsOpened,
    /// They stay, and exec does not close them.
    ThroughExec,
}

/// Sets what [`adopting`] says.
pub fn set_adopting(adopting: Adopting) {
    current().adopting.store(adopting as u32, Ordering::Relaxed);
}

/// What becomes of a descriptor that a plugin opens now.
pub fn adopting() -> Adopting {
    match current().adopting.load(Ordering::Relaxed) {
        0 => Adopting::No,
        1 => Adopting::AsOpened,
        _ => Adopting::ThroughExec,
    }
}

/// Says whether descriptors that a plugin opens now are closed before its operation returns.
pub fn set_brief(brief: bool) {
    current().brief.store(brief.into(), Ordering::Relaxed);
}

/// What [`set_brief`] said last.
pub fn is_brief() -> bool {
    current().brief.load(Ordering::Relaxed) != 0
}

/// Runs `set`, a plugin's operation that sets a record lock of the program.
pub fn locking<R>(set: impl FnOnce() -> R) -> R {
    let locking = &current().locking;
    locking.store(1, Ordering::Relaxed);
    let result = set();
    locking.store(0, Ordering::Relaxed);
    result
}

/// Notes whether this thread has the lock of the list of streams for a fork, or is about to take it. Returns what was noted before.
pub fn set_listing(listing: bool) -> bool {
    current().listing.swap(listing.into(), Ordering::Relaxed) != 0
}

/// The vfork child of this thread, which had its thread-locals, has ended or has its own memory. It may have been killed in [`locking`].
pub fn vfork_child_gone() {
    current().locking.store(0, Ordering::Relaxed);
}

/// Whether [`locking`] runs.
pub fn is_locking() -> bool {
    current().locking.load(Ordering::Relaxed) != 0
}

/// Holds memory for a call that the program makes itself, until its next one ([`let_go`]).
pub fn keep(memory: Vec<Kept>) {
    let_go();
    current().kept.store(Box::into_raw(Box::new(memory)), Ordering::Relaxed);
}

/// The last call of this thread has returned, or was given up.
pub fn let_go() {
    let kept = &current().kept;
    if !kept.load(Ordering::Relaxed).is_null() {
        // SAFETY: `keep` made it of a box, and it is taken here alone.
        drop(unsafe { Box::from_raw(kept.swap(std::ptr::null_mut(), Ordering::Relaxed)) });
    }
}

/// A signal must not end the calls that plugins make.
const KEEPS_WAITING: u32 = 0;
/// A signal ends a call of the plugin that waits, once.
const MAY_WAIT: u32 = 1;
/// A signal has ended one, and the program's call is to begin anew.
const BEGINS_ANEW: u32 = 2;

/// Runs `serve`, a call of the program that may wait in the plugin: a signal ends it.
pub fn waiting<R>(serve: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
    let waiting = &current().waiting;
    waiting.store(MAY_WAIT, Ordering::Relaxed);
    let result = serve();
    match (result, waiting.swap(KEEPS_WAITING, Ordering::Relaxed)) {
        (Err(Errno::INTR), BEGINS_ANEW) => Err(Errno::from_raw_os_error(-interpose::RESTART as i32)),
        (result, _) => result,
    }
}

/// Whether a signal may end the call that a plugin is about to make. It may do so once: many an author begins anew at `EINTR`.
pub fn may_wait() -> bool {
    current().waiting.load(Ordering::Relaxed) == MAY_WAIT
}

/// A signal has ended a call of the plugin, with [`interpose::RESTART`] if `anew`.
pub fn interrupted(anew: bool) {
    current().waiting.store(if anew { BEGINS_ANEW } else { KEEPS_WAITING }, Ordering::Relaxed);
}

fn current() -> &'static Thread {
    let address: *const Thread;
    // SAFETY: the symbol is the thread-local above; its offset from the thread pointer is fixed at load time (this library is
    // loaded at start-up or fits the static TLS reserve, or ld.so would have refused it), and `fs:0` holds the thread pointer.
    unsafe {
        asm!(
            "mov {address}, qword ptr [rip + defuse_thread@GOTTPOFF]",
            "add {address}, qword ptr fs:[0]",
            address = out(reg) address,
            options(nostack, readonly),
        );
        &*address
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_thread_knows_its_own_id() {
        let ask = || (super::id(), super::id(), rustix::thread::gettid().as_raw_pid() as u32);
        let here = ask();
        let there = std::thread::spawn(ask).join().unwrap();
        assert_eq!((here.0, here.1), (here.2, here.2));
        assert_eq!((there.0, there.1), (there.2, there.2));
        assert_ne!(here.0, there.0);
    }
}
