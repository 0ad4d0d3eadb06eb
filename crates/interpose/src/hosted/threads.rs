//! Threads and processes that the guest makes.
//!
//! A thread of the guest runs on a thread of our C library, made for it by `pthread_create`: so that library, and what is loaded into it
//! by then and later, has its thread-local memory there, and knows that there are several threads. Its stack is the handler stack.
//! fork is made by the C library's function, which leaves that library's locks free in the child.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Release};

use super::{ended, hold_own_pointer, keep_signals_from_own_thread, stack, tid};
use crate::entry::frame::{Frame, LEAVE_DONE};
use crate::entry::stack as handler_stack;
use crate::entry::tls::{self, INSIDE, INTERNAL_THREAD, OUTSIDE, PENDING_MASK, PENDING_NONE, Tls};
use crate::process::Request;
use crate::signals::{VIRTUAL, mask};
use crate::{ForkKind, dispatch};
use crate::{raw, usercopy};

const EAGAIN: i64 = -11;
const SYS_FUTEX: u32 = 202;
const SYS_SET_TID_ADDRESS: u32 = 218;
const SYS_SET_ROBUST_LIST: u32 = 273;
const SYS_GET_ROBUST_LIST: u32 = 274;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const SIGCHLD: u64 = 17;
/// Bytes of a made thread's stack above and below the handler stack: what the C library keeps there, thread-local memory among it.
const MARGIN: usize = 128 * 1024;
/// In [`Start::tid`]: it could not begin.
const FAILED: u32 = u32::MAX;

/// glibc's `pthread_attr_t`.
#[repr(C, align(8))]
struct Attributes([u8; 56]);

unsafe extern "C" {
    fn pthread_attr_init(attributes: *mut Attributes) -> i32;
    fn pthread_attr_setstacksize(attributes: *mut Attributes, size: usize) -> i32;
    fn pthread_attr_setdetachstate(attributes: *mut Attributes, state: i32) -> i32;
    fn pthread_attr_destroy(attributes: *mut Attributes) -> i32;
    fn pthread_create(
        thread: *mut u64,
        attributes: *const Attributes,
        start: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> i32;
    fn fork() -> i32;
    fn __errno_location() -> *mut i32;
    fn interpose_host_thread(argument: *mut c_void) -> *mut c_void;
    fn interpose_end_host_thread(frame: u64) -> !;
    fn interpose_leave_frame(frame: *mut Frame, how: u64) -> !;
}

const PTHREAD_CREATE_DETACHED: i32 = 1;

/// What a new thread gets from the one that makes it.
pub struct Start {
    frame: MaybeUninit<Frame>,
    record: [u64; 4],
    pointer: u64,
    mask: u64,
    virtual_mask: u64,
    /// Where the thread's number goes: see clone(2). 0 for nowhere.
    parent_tid: u64,
    child_tid: u64,
    clear_tid: u64,
    tid: AtomicU32,
}

/// The guest's clone of a thread. The result is the new thread's number.
pub fn spawn(frame: &Frame, tls: &mut Tls, request: &Request) -> i64 {
    // The thread begins with all signals blocked, and leaves to the guest with the guest's mask.
    mask::block_all(tls);
    let flags = request.fork.flags;
    let asked = |flag: u64, address: u64| if flags & flag != 0 { address } else { 0 };
    let mut start = Box::new(Start {
        frame: MaybeUninit::uninit(),
        record: tls.record,
        pointer: request.own_pointer().unwrap_or(tls.guest_pointer),
        mask: tls.mask,
        virtual_mask: tls.virtual_mask,
        parent_tid: asked(CLONE_PARENT_SETTID, request.parent_tid),
        child_tid: asked(CLONE_CHILD_SETTID, request.child_tid),
        clear_tid: asked(CLONE_CHILD_CLEARTID, request.child_tid),
        tid: AtomicU32::new(0),
    });
    // SAFETY: a frame is plain memory, and `start` has room for one.
    let copy = unsafe {
        start.frame.as_mut_ptr().copy_from_nonoverlapping(frame, 1);
        start.frame.assume_init_mut()
    };
    copy.rax = 0;
    if request.stack != 0 {
        copy.rsp = request.stack;
    }
    if !make(&start) {
        return EAGAIN;
    }
    loop {
        match start.tid.load(Acquire) {
            0 => futex((&raw const start.tid) as u64, FUTEX_WAIT, 0),
            FAILED => return EAGAIN,
            tid => return i64::from(tid),
        }
    }
}

fn make(start: &Start) -> bool {
    let mut attributes = Attributes([0; 56]);
    let mut thread = 0_u64;
    let argument = (&raw const *start).cast_mut().cast();
    // SAFETY: the attributes are initialized before they are used; `start` lives until the thread has taken what is in it.
    unsafe {
        if pthread_attr_init(&raw mut attributes) != 0 {
            return false;
        }
        let made = pthread_attr_setstacksize(&raw mut attributes, handler_stack::SIZE + 2 * MARGIN) == 0
            && pthread_attr_setdetachstate(&raw mut attributes, PTHREAD_CREATE_DETACHED) == 0
            && pthread_create(&raw mut thread, &raw const attributes, interpose_host_thread, argument) == 0;
        pthread_attr_destroy(&raw mut attributes);
        made
    }
}

/// In the new thread. Returns only if it cannot become one of the guest's.
pub extern "C" fn become_guest(start: *mut Start, host_frame: u64) {
    // SAFETY: the block is this thread's; `spawn` waits until `tid` is set.
    let (tls, given) = unsafe { (&mut *tls::current(), &*start) };
    keep_signals_from_own_thread();
    let number = if stack::provide(tls).is_ok() { tid() as u32 } else { FAILED };
    if number == FAILED {
        announce(given, FAILED);
        return;
    }
    ended::begins(number);
    let mut frame = MaybeUninit::<Frame>::uninit();
    // SAFETY: a frame is plain memory, and `spawn` has filled this one.
    let mine = unsafe {
        frame.as_mut_ptr().copy_from_nonoverlapping(given.frame.as_ptr(), 1);
        frame.assume_init_mut()
    };
    tls.record = given.record;
    // A site that has no record of its own is in that of the thread that made us.
    if dispatch::is_threads_own(mine.resume) {
        mine.resume = dispatch::own_record(tls);
    }
    tls.guest_pointer = given.pointer;
    tls.clear_tid = given.clear_tid;
    tls.host_frame = host_frame;
    tls.mask = given.mask;
    tls.virtual_mask = given.virtual_mask;
    tls.pending = PENDING_MASK;
    // What is served goes below this function's frame, which is not come back to.
    tls.top = (&raw const *mine) as u64;
    tls.stack = tls.top - handler_stack::SIZE as u64;
    tls.inside = INSIDE;
    dispatch::arm_again();
    for address in [given.parent_tid, given.child_tid] {
        if address != 0 {
            let _ = usercopy::write(address, &number);
        }
    }
    announce(given, number);
    // SAFETY: a complete frame, on this stack.
    unsafe { interpose_leave_frame(mine, LEAVE_DONE) }
}

fn announce(start: &Start, tid: u32) {
    let address = (&raw const start.tid) as u64;
    start.tid.store(tid, Release);
    // From here on `start` may be gone.
    futex(address, FUTEX_WAKE, 1);
}

fn futex(address: u64, operation: u64, value: u64) {
    // SAFETY: an address that is gone is EFAULT, and to wake somebody needlessly is harmless.
    unsafe { raw::syscall4(SYS_FUTEX, address, operation, value, 0) };
}

/// The end of a thread of the guest that runs on one of ours: what the kernel does as a thread ends, as far as it concerns the guest's
/// memory, and then the end of our thread. All signals are blocked, really, until what is the guest's is done.
pub fn end(tls: &mut Tls) -> ! {
    let (frame, clear_tid) = (tls.host_frame, tls.clear_tid);
    // Those in `VIRTUAL`, too: the guest's memory is made sure of before it is used.
    tls.parked = VIRTUAL;
    tls.virtual_mask = VIRTUAL;
    tls.pending = PENDING_NONE;
    stack::disable(tls);
    release_robust();
    tls.top = 0;
    tls.stack = 0;
    tls.host_frame = 0;
    tls.inside = INTERNAL_THREAD;
    ended::ends(tid() as u32);
    clear(clear_tid);
    // From here on the guest's memory is of no concern, but the C library and the plugins end their parts of the thread: what dispatch catches of that must come through, and
    // a signal for the guest is parked as it comes.
    tls.parked = 0;
    keep_signals_from_own_thread();
    // SAFETY: what `become_guest` was called with; nobody returns to the frames below.
    unsafe { interpose_end_host_thread(frame) }
}

/// Whoever waits for the thread's end goes on.
pub fn clear(clear_tid: u64) {
    if clear_tid != 0 && usercopy::write(clear_tid, &0_u32).is_ok() {
        futex(clear_tid, FUTEX_WAKE, 1);
    }
}

/// Locks that end with the thread (`set_robust_list`): their words say so, as the kernel would write them. The kernel finds none any more when our own
/// thread has ended, as by then the list may be gone.
fn release_robust() {
    let (mut head, mut length) = (0_u64, 0_u64);
    // SAFETY: the kernel fills in our variables; no list is always right.
    unsafe {
        let args = [0, (&raw mut head) as u64, (&raw mut length) as u64];
        if raw::syscall3(SYS_GET_ROBUST_LIST, args[0], args[1], args[2]) < 0 || head == 0 {
            return;
        }
        raw::syscall2(SYS_SET_ROBUST_LIST, 0, length);
    }
    // The list's first entry, what lies between an entry and its word, and the entry that is being worked on.
    let Ok([first, offset, pending]) = usercopy::read::<[u64; 3]>(head) else { return };
    let me = tid() as u32;
    let mut entry = first;
    for _ in 0..2048 {
        if entry & !1 == head {
            break;
        }
        // The next first: the word may let somebody free the entry.
        let next = usercopy::read::<u64>(entry & !1);
        if entry & !1 != pending & !1 {
            die((entry & !1).wrapping_add(offset), me);
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if pending & !1 != 0 {
        die((pending & !1).wrapping_add(offset), me);
    }
}

fn die(word: u64, me: u32) {
    const WAITERS: u32 = 0x8000_0000;
    const OWNER_DIED: u32 = 0x4000_0000;
    const OWNER: u32 = 0x3fff_ffff;
    if !word.is_multiple_of(4) || usercopy::probe_write(word, 4).is_err() {
        return;
    }
    // SAFETY: aligned, and writable a moment ago; other threads use it as an atomic, too.
    let word = unsafe { &*(word as *const AtomicU32) };
    let found = word.fetch_update(core::sync::atomic::Ordering::AcqRel, Acquire, |value| {
        (value & OWNER == me).then_some(value & WAITERS | OWNER_DIED)
    });
    if found.is_ok_and(|value| value & WAITERS != 0) {
        futex((&raw const *word) as u64, FUTEX_WAKE, 1);
    }
}

/// The guest's fork, if it asks for nothing that the C library's does not do. On both sides; `None` when it asks for more.
pub fn fork_by_library(request: &Request) -> Option<i64> {
    let known = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    let plain = request.fork.flags & !known == 0 && request.exit_signal == SIGCHLD;
    if request.fork.kind != ForkKind::Fork || !plain {
        return None;
    }
    let asked = |flag: u64, address: u64| if request.fork.flags & flag != 0 { address } else { 0 };
    // Its call comes back here as one made inside: `process::serve_inner_fork`. The C library has taken its own locks by then, as always.
    // What is called looks at the byte by another way than `tls`.
    // SAFETY: the block is this thread's.
    let set_forking = |value| unsafe { (&raw mut (*tls::current()).forking).write_volatile(value) };
    set_forking(1);
    // SAFETY: a thread of the C library's own, and no lock of ours is held.
    let result = unsafe { fork() };
    set_forking(0);
    let result = match result {
        // SAFETY: the C library has set it.
        ..0 => return Some(-i64::from(unsafe { *__errno_location() })),
        result => result,
    };
    if result == 0 {
        let child_tid = asked(CLONE_CHILD_SETTID, request.child_tid);
        if child_tid != 0 {
            let _ = usercopy::write(child_tid, &(tid() as u32));
        }
        // SAFETY: the kernel checks the address when the thread ends.
        unsafe { raw::syscall1(SYS_SET_TID_ADDRESS, asked(CLONE_CHILD_CLEARTID, request.child_tid)) };
    } else {
        let parent_tid = asked(CLONE_PARENT_SETTID, request.parent_tid);
        if parent_tid != 0 {
            let _ = usercopy::write(parent_tid, &(result as u32));
        }
    }
    Some(i64::from(result))
}

/// The only thread of a new process is its first, and ends as such.
pub fn in_child(tls: &mut Tls) {
    tls.host_frame = 0;
    tls.clear_tid = 0;
    hold_own_pointer();
    debug_assert!(tls.inside != OUTSIDE);
}
