//! fork(3) of a process with several threads: our locks are taken before libc takes malloc's.
//!
//! At the system call it has these already. If we only then waited for a thread that is in a plugin, and the plugin for `malloc`, neither would ever
//! go on. So a handler of pthread_atfork(3) takes what [`hold_still`](super::hold_still) takes. Ours was registered first and so runs last: locks that
//! the program's handlers take come before ours. Of those that libc takes between our handler and the system call one may be held by threads that
//! come to us (`fflush(NULL)` writes under the lock of the list of streams), and waited for by threads in a plugin (`fopen` takes it): it is tried
//! when we have all of ours, and if another thread has it, we give ours back until it has not. The other ones are held at most
//! around reading a file that is not ours, which needs no lock of ours then ([`while_held`]).
//!
//! A vfork child that forks does so with its parent's libc and so takes the same locks; if it is killed meanwhile, its parent forgets
//! what stands here of it ([`vfork_child_gone`]).
//!
//! A guest's fork is our C library's, made inside ([`interpose::is_guest_fork`]): malloc's locks there are the plugins' own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use interpose::{ForkCall, ForkKind};
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::process::Process;
use crate::{atfork, native, stream_list, thread};

static PROCESS: OnceLock<&'static Process> = OnceLock::new();
/// The thread that is between the handlers; 0 if none is.
static BETWEEN: AtomicU32 = AtomicU32::new(0);
/// The signals that it has blocked meanwhile.
static MASK: AtomicU64 = AtomicU64::new(0);
/// The thread that holds our locks already, its fork being still to come; 0 if none does.
static HOLDER: AtomicU32 = AtomicU32::new(0);
/// How often a thread began to keep all FDs as they are, for a fork; in the lower half which thread does, 0 if none.
static TURNS: AtomicU64 = AtomicU64::new(0);
const TURN: u64 = 1 << 32;
const KEEPER: u64 = TURN - 1;

/// All but what a thread's own instructions raise.
const BLOCKED: u64 = {
    let raised = [sys::SIGILL, sys::SIGTRAP, sys::SIGBUS, sys::SIGFPE, sys::SIGSEGV, sys::SIGSYS];
    let (mut mask, mut at) = (!0, 0);
    while at < raised.len() {
        mask &= !(1 << (raised[at] - 1));
        at += 1;
    }
    mask
};

/// Registers the handlers, at the start of the process.
pub fn register(process: &'static Process) {
    // Without them a fork takes its locks later.
    if PROCESS.set(process).is_ok() {
        atfork::register(prepare, in_parent, in_forked_child);
    }
}

extern "C" fn prepare() {
    let Some(&process) = PROCESS.get() else { return };
    let alone = !process.threaded.load(Ordering::Acquire);
    if alone || process.restricted.load(Ordering::Relaxed) {
        return;
    }
    let fork = ForkCall { kind: ForkKind::Fork, flags: 0 };
    // If it fails, it fails once more at the system call, which says so.
    let hold = || interpose::inside(|| super::hold_still(process, &fork)) == Some(Ok(()));
    // The streams of a guest's are its own libc's, and its signals are held back.
    let held = if interpose::is_guest_fork() {
        hold()
    } else {
        // A handler of the program's that opens a file would wait for its own thread.
        let mask = BLOCKED & !set_mask(sys::SIG_BLOCK, BLOCKED);
        thread::set_listing(true);
        let held = hold_with_streams(process, hold);
        MASK.store(mask, Ordering::Relaxed);
        BETWEEN.store(thread::id(), Ordering::Release);
        held
    };
    if held {
        HOLDER.store(thread::id(), Ordering::Release);
    }
}

/// Takes our locks by `hold`, which says whether it could, and in any case that of the list of streams.
fn hold_with_streams(process: &'static Process, hold: impl Fn() -> bool) -> bool {
    if !stream_list::can_be_tried() {
        stream_list::lock();
        return hold();
    }
    while hold() {
        if stream_list::try_lock() {
            return true;
        }
        // Who has it may need one of ours before giving it back, and who has been waiting for it in a plugin is first then.
        interpose::inside(|| super::go_on(process));
        stream_list::lock();
        stream_list::unlock();
    }
    stream_list::lock();
    false
}

extern "C" fn in_parent() {
    if is_held_by_us()
        && let Some(&process) = PROCESS.get()
    {
        // The system call was never made, or did not come to us.
        interpose::inside(|| super::go_on(process));
    }
    if BETWEEN.load(Ordering::Acquire) != thread::id() {
        return;
    }
    let mask = MASK.load(Ordering::Relaxed);
    BETWEEN.store(0, Ordering::Release);
    stream_list::unlock();
    thread::set_listing(false);
    set_mask(sys::SIG_UNBLOCK, mask);
}

extern "C" fn in_forked_child() {
    if BETWEEN.swap(0, Ordering::AcqRel) != 0 {
        stream_list::reset();
        thread::set_listing(false);
        // And no others: of those that a thread's own instructions raise the fork has unblocked what was parked for the parent.
        set_mask(sys::SIG_UNBLOCK, MASK.load(Ordering::Relaxed));
    }
}

fn set_mask(how: u32, mask: u64) -> u64 {
    let mut before = 0u64;
    let args = [how.into(), (&raw const mask) as u64, (&raw mut before) as u64, 8, 0, 0];
    native::raw_call(sys::__NR_rt_sigprocmask, args);
    before
}

fn is_held_by_us() -> bool {
    HOLDER.load(Ordering::Acquire) == thread::id()
}

/// At the system call: what this thread does not hold yet.
pub(super) fn hold_still(process: &'static Process, fork: &ForkCall) -> Result<(), Errno> {
    if is_held_by_us() {
        if fork.flags & u64::from(sys::CLONE_FILES | sys::CLONE_FS) == 0 {
            return Ok(());
        }
        // Not what was prepared for.
        super::go_on(process);
    }
    super::hold_still(process, fork)
}

/// The locks are about to be released.
pub(super) fn is_over() {
    if is_held_by_us() {
        HOLDER.store(0, Ordering::Release);
    }
}

/// This thread has the first of the locks: from now on nobody may wait for it under a lock that libc's fork takes.
pub(super) fn begin(process: &Process) {
    // Only who holds `Process::descriptors` writes there.
    let turn = (TURNS.load(Ordering::Relaxed) & !KEEPER).wrapping_add(TURN);
    TURNS.store(turn | u64::from(thread::id()), Ordering::Release);
    process.descriptors.tell_waiters();
}

/// It is about to release it.
pub(super) fn end() {
    TURNS.fetch_and(!KEEPER, Ordering::AcqRel);
}

/// In a forked child, whose thread has its parent's id yet.
pub(super) fn in_child() {
    is_over();
    if BETWEEN.load(Ordering::Acquire) != thread::id() {
        BETWEEN.store(0, Ordering::Release);
    }
}

/// The vfork child of this thread, whose id it had, has ended or has its own memory; its locks have not been released yet. It may have been killed
/// while it made a fork.
pub(super) fn vfork_child_gone() {
    let me = thread::id();
    if thread::set_listing(false) && stream_list::is_ours() == Some(true) {
        // The child had this thread's pointer, by which the library knows who has it.
        stream_list::unlock();
    }
    for of_child in [&HOLDER, &BETWEEN] {
        let _ = of_child.compare_exchange(me, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
    if TURNS.load(Ordering::Acquire) & KEEPER == u64::from(me) {
        end();
    }
}

/// What `look` finds, if a thread that makes a fork kept all FDs as they are all the time.
pub fn while_held<T>(look: impl FnOnce() -> T) -> Option<T> {
    let turn = TURNS.load(Ordering::Acquire);
    if turn & KEEPER == 0 {
        return None;
    }
    let found = look();
    (TURNS.load(Ordering::Acquire) == turn).then_some(found)
}
