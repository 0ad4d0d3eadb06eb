//! fork, vfork, clone, exec and exit.
//!
//! Own memory: hooks around the system call, both sides return through here. Shared memory with the caller suspended:
//! the child goes on below the caller's frames on the same handler stack and leaves by a signal frame. A child beside the
//! caller: the call is made with the program's registers; the child jumps straight back to the program.

use core::mem::MaybeUninit;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Release};

use crate::entry::frame::{Frame, LEAVE_AGAIN, LEAVE_CLONE, LEAVE_DONE, LEAVE_PASS};
use crate::entry::stack;
use crate::entry::tls::{
    self, INTERNAL_THREAD, PENDING_MASK, PENDING_NONE, PENDING_SIGNAL, PHASE_AFTER_CLONE, PHASE_CALL, Tls,
};
use crate::handler::{CLONE_CLEAR_SIGHAND, CLONE_SETTLS};
use crate::signals::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, VIRTUAL, actions, mask, parking, ticks};
use crate::{ForkCall, ForkKind, RESTART, dispatch, hosted, lodger, raw, serve, site, usercopy};

const SYS_CLONE: u32 = 56;
const SYS_FORK: u32 = 57;
const SYS_VFORK: u32 = 58;
const CSIGNAL: u64 = 0xff;
const SIGCHLD: u64 = 17;
const EAGAIN: i64 = -11;
const EINVAL: i64 = -22;

unsafe extern "C" {
    fn interpose_fork(nr: u64, args: *const [u64; 6]) -> i64;
    fn interpose_vfork(nr: u64, args: *const [u64; 6], child: *mut VforkChild) -> i64;
    fn interpose_leave_frame(frame: *mut Frame, how: u64) -> !;
    fn interpose_thread_exit(status: u64, top: u64) -> !;
}

/// What a fork-like call asks for.
pub struct Request {
    pub fork: ForkCall,
    /// The child's stack pointer, 0 for the caller's.
    pub stack: u64,
    /// The child's thread pointer, with `CLONE_SETTLS`.
    tls: u64,
    /// Where its number is to be written: see clone(2).
    pub parent_tid: u64,
    pub child_tid: u64,
    /// The signal that tells its end.
    pub exit_signal: u64,
}

impl Request {
    /// The thread pointer that the child is to have, if it is not the caller's.
    pub fn own_pointer(&self) -> Option<u64> {
        (self.fork.flags & CLONE_SETTLS != 0).then_some(self.tls)
    }
}

/// `None` where the kernel will refuse it.
fn request(nr: u32, args: &[u64; 6]) -> Option<Request> {
    let of = |flags, stack, tls, [parent_tid, child_tid]: [u64; 2], exit_signal| {
        let fork = ForkCall { kind: ForkKind::from_flags(flags), flags };
        Request { fork, stack, tls, parent_tid, child_tid, exit_signal }
    };
    Some(match nr {
        SYS_FORK => of(0, 0, 0, [0; 2], SIGCHLD),
        SYS_VFORK => of(crate::handler::CLONE_VM | crate::handler::CLONE_VFORK, 0, 0, [0; 2], SIGCHLD),
        SYS_CLONE => {
            let flags = args[0] & 0xffff_ffff;
            of(flags & !CSIGNAL, args[1], args[4], [args[2], args[3]], flags & CSIGNAL)
        }
        _ => {
            // struct clone_args: flags pidfd child_tid parent_tid exit_signal stack stack_size tls.
            let [flags, _, child_tid, parent_tid, signal, stack, size, tls] =
                usercopy::read::<[u64; 8]>(args[0]).ok()?;
            let top = if stack == 0 { 0 } else { stack.wrapping_add(size) };
            of(flags, top, tls, [parent_tid, child_tid], signal)
        }
    })
}

/// The program's fork, vfork, clone or clone3.
pub fn serve_fork(frame: &mut Frame, nr: u32, tls: &mut Tls) -> u64 {
    let Some(mut request) = request(nr, &frame.args()) else { return LEAVE_PASS };
    let guest = hosted::is_guest_call(frame.resume);
    if guest {
        if !is_for_guest(&request) {
            frame.rax = EINVAL as u64;
            return LEAVE_DONE;
        }
        if request.fork.kind == ForkKind::Thread && request.own_pointer().is_none() {
            // As all threads have a thread pointer of ours, it is one like any other.
            request.tls = tls.guest_pointer;
            request.fork.flags |= CLONE_SETTLS;
        }
        if let Some(result) = hosted::threads::fork_by_library(&request) {
            if result == 0 && request.stack != 0 {
                frame.rsp = request.stack;
            }
            frame.rax = result as u64;
            return LEAVE_DONE;
        }
    }
    serve_request(frame, nr, tls, &request, guest)
}

/// Our C library's fork, which a guest has asked for: made inside, and the program's all the same.
pub fn serve_inner_fork(frame: &mut Frame, nr: u32, tls: &mut Tls) -> u64 {
    tls.forking = 0;
    match request(nr, &frame.args()) {
        Some(request) if request.fork.kind == ForkKind::Fork => {
            serve_request(frame, nr, tls, &request, false)
        }
        _ => LEAVE_PASS,
    }
}

fn serve_request(frame: &mut Frame, nr: u32, tls: &mut Tls, request: &Request, guest: bool) -> u64 {
    let fork = request.fork;
    let own_tls = fork.flags & CLONE_SETTLS != 0;
    match fork.kind {
        // Not made by the C library: a new thread pointer without a thread. There is no block of ours.
        ForkKind::Fork | ForkKind::Vfork if own_tls => return LEAVE_PASS,
        // Two threads on one stack: whatever that is, it is not for us to make it work.
        ForkKind::Thread | ForkKind::SharedVm if request.stack == 0 => return LEAVE_PASS,
        ForkKind::Thread | ForkKind::SharedVm if fork.is_lodger() && !lodger::supported() => {
            return LEAVE_PASS;
        }
        _ if guest => {}
        // From a signal handler on the alternate stack.
        ForkKind::Thread | ForkKind::SharedVm if tls.alt_disabled != 0 => {
            if own_tls {
                // Where the child, too, looks when dispatch makes it come by our text.
                let _ = usercopy::write(block_of(request) + tls::RESUME as u64, &frame.resume);
            }
            return LEAVE_PASS;
        }
        _ => {}
    }
    if let Err(errno) = serve::handler().before_fork(&fork) {
        frame.rax = i64::from(-errno) as u64;
        return LEAVE_DONE;
    }
    match fork.kind {
        ForkKind::Fork => own_memory(frame, nr, tls, request),
        ForkKind::Vfork => suspended(frame, nr, tls, request),
        ForkKind::Thread if guest => {
            let result = hosted::threads::spawn(frame, tls, request);
            serve::handler().after_fork_parent(&fork, result);
            frame.rax = result as u64;
            LEAVE_DONE
        }
        ForkKind::Thread | ForkKind::SharedVm => beside(frame, tls, request),
    }
}

/// Whether a child like that can be made for a guest. What no C library asks for is not: a process beside its caller on the same
/// memory, a process that begins with another thread pointer, a thread with FDs or a working directory of its own.
fn is_for_guest(request: &Request) -> bool {
    const SHARED: u64 = crate::handler::CLONE_FILES | crate::handler::CLONE_FS;
    match request.fork.kind {
        ForkKind::Fork | ForkKind::Vfork => request.own_pointer().is_none(),
        ForkKind::Thread => request.stack != 0 && request.fork.flags & SHARED == SHARED,
        ForkKind::SharedVm => false,
    }
}

fn own_memory(frame: &mut Frame, nr: u32, tls: &mut Tls, request: &Request) -> u64 {
    let args = frame.args();
    let guard = (actions::lock(), crate::objects::lock(), hosted::lock_program_break());
    // Another thread that loads an object allocates under the lock of those.
    serve::handler().at_fork(&request.fork);
    // What has been noted so far is the parent's, and what comes to the child from its first instruction on its own: the kernel keeps that until the call is
    // left. (Not where a filter may forbid it.)
    if !is_restrained() {
        mask::block_all(tls);
    }
    // SAFETY: what the program asked; the child has a copy of this stack.
    let result = unsafe { interpose_fork(u64::from(nr), &raw const args) };
    drop(guard);
    if result == 0 && hosted::active() {
        hosted::threads::in_child(tls);
    }
    frame.rax = result as u64;
    if result == 0 {
        forget_signal(tls);
        ticks::in_forked_child();
        if request.fork.flags & CLONE_CLEAR_SIGHAND != 0 {
            actions::cleared();
        }
        if request.stack != 0 {
            frame.rsp = request.stack;
        }
        dispatch::arm_again();
        serve::handler().after_fork_child(&request.fork);
    } else {
        serve::handler().after_fork_parent(&request.fork, result);
    }
    LEAVE_DONE
}

/// In the child: a signal that was noted before is the parent's.
fn forget_signal(tls: &mut Tls) {
    if !is_restrained() {
        // The mask is set as the call is left.
        tls.pending = PENDING_MASK;
    } else if tls.pending == PENDING_SIGNAL {
        mask::set_native(tls.mask & !VIRTUAL);
        tls.pending = PENDING_NONE;
    } else if tls.parked != 0 {
        mask::set_native(mask::native() & !VIRTUAL);
    }
    tls.virtual_pending = 0;
    tls.parked = 0;
}

/// What a vfork child finds at its stack pointer.
#[repr(C, align(64))]
pub struct VforkChild {
    frame: MaybeUninit<Frame>,
    fork: ForkCall,
}

/// Bytes of the handler stack left to the caller's frames beneath [`suspended`].
const CALLER_FRAMES: u64 = 4096;
/// Least bytes of it that a vfork child must find.
const CHILD_FRAMES: u64 = 64 * 1024;

fn suspended(frame: &mut Frame, nr: u32, tls: &mut Tls, request: &Request) -> u64 {
    let args = frame.args();
    let below = (&raw const args) as u64 - CALLER_FRAMES - size_of::<VforkChild>() as u64;
    let child = (below & !63) as *mut VforkChild;
    if (child as u64) < tls.stack + CHILD_FRAMES {
        serve::handler().after_fork_parent(&request.fork, EAGAIN);
        frame.rax = EAGAIN as u64;
        return LEAVE_DONE;
    }
    // The child starts with all signals blocked, and leaves with the program's mask.
    mask::block_all(tls);
    // SAFETY: the frame is copied bytewise; the place is free: below all frames of this thread, with room checked.
    let saved = unsafe {
        (&raw mut (*child).frame).cast::<Frame>().copy_from_nonoverlapping(frame, 1);
        (&raw mut (*child).fork).write(request.fork);
        let copy = (&raw mut (*child).frame).cast::<Frame>();
        (*copy).rax = 0;
        if request.stack != 0 {
            (*copy).rsp = request.stack;
        }
        tls::current().read_volatile()
    };
    // SAFETY: what the program asked; this thread's frames are untouched until it returns.
    let result = unsafe { interpose_vfork(u64::from(nr), &raw const args, child) };
    // What the child did to the block was its own. (Not by way of `tls`: who has that may be thought to know what is there already.)
    // SAFETY: the block is this thread's, and all signals are blocked.
    unsafe { tls::current().write_volatile(saved) };
    serve::handler().after_fork_parent(&request.fork, result);
    frame.rax = result as u64;
    LEAVE_DONE
}

/// The vfork child, on the stack below its caller's frames, all signals blocked.
pub extern "C" fn vfork_child(child: *mut VforkChild) -> ! {
    // SAFETY: the block is the caller's, which is suspended; `suspended` wrote the child's part.
    unsafe {
        let tls = &mut *tls::current();
        tls.top = child as u64;
        tls.vfork_depth += 1;
        tls.pending = PENDING_MASK;
        // What is pending is the parent's; the frame unblocks it here.
        tls.virtual_pending = 0;
        tls.parked = 0;
        if (*child).fork.flags & CLONE_CLEAR_SIGHAND != 0 {
            actions::cleared_in_vfork_child(tls);
        }
        dispatch::arm_again();
        serve::handler().after_fork_child(&(*child).fork);
        interpose_leave_frame((&raw mut (*child).frame).cast(), LEAVE_DONE)
    }
}

fn beside(frame: &mut Frame, tls: &mut Tls, request: &Request) -> u64 {
    // SAFETY: the frame's `resume` is a live stub's.
    let done = unsafe { site::done(frame.resume) };
    let lodger = u64::from(request.fork.is_lodger());
    if lodger != 0 {
        lodger::expect();
    }
    // In the child's red zone, which a new stack does not use: what its first instructions look at.
    if usercopy::write(request.stack - 16, &[lodger, done]).is_err() {
        serve::handler().after_fork_parent(&request.fork, EFAULT);
        frame.rax = EFAULT as u64;
        return LEAVE_DONE;
    }
    if lodger == 0 {
        let block = block_of(request);
        let _ = usercopy::write(block + tls::VIRTUAL_MASK as u64, &tls.virtual_mask);
        let _ = usercopy::write(block + tls::PARKED as u64, &tls.parked);
    }
    if tls.pending == PENDING_SIGNAL {
        // The child would inherit that all is blocked: first the signal, then the clone.
        serve::handler().after_fork_parent(&request.fork, RESTART);
        return LEAVE_AGAIN;
    }
    tls.phase = PHASE_AFTER_CLONE;
    tls.number = frame.rax as u32;
    tls.resume = frame.resume;
    LEAVE_CLONE
}

const EFAULT: i64 = -14;

/// Back in the caller of a clone.
pub fn after_clone(frame: &mut Frame, tls: &mut Tls) -> u64 {
    tls.phase = PHASE_CALL;
    let result = frame.rax as i64;
    // The number is gone from the registers, but not from the arguments: clone3's second is the size of a structure.
    let args = frame.args();
    let nr = tls.number;
    if let Some(request) = request(nr, &args) {
        serve::handler().after_fork_parent(&request.fork, result);
    }
    if result == RESTART {
        frame.rax = u64::from(nr);
        return LEAVE_AGAIN;
    }
    LEAVE_DONE
}

/// A thread made inside is the handler's or a plugin's: marks it before it runs.
pub fn mark_internal(nr: u32, args: &[u64; 6], resume: u64) {
    let Some(request) = request(nr, args) else { return };
    if request.fork.kind == ForkKind::Thread && request.fork.flags & CLONE_SETTLS != 0 {
        let block = block_of(&request);
        let _ = usercopy::write(block, &INTERNAL_THREAD);
        let _ = usercopy::write(block + tls::RESUME as u64, &resume);
    }
}

/// The block of the thread that is to be made, which has its thread pointer already.
fn block_of(request: &Request) -> u64 {
    (tls::current() as u64).wrapping_sub(tls::thread_pointer()).wrapping_add(request.tls)
}

pub(crate) static RESTRAINED: AtomicBool = AtomicBool::new(false);

/// From now on the program may be allowed few system calls. A thread that ends leaves its stack mapped, and faults are served where they come.
pub fn make_no_calls_of_our_own() {
    // First the actions: who sees the mark relies on what they let through, and who does not see it yet makes a call more than needed.
    actions::renew_faults();
    mask::leave_out_sigsys();
    RESTRAINED.store(true, Release);
}

/// Whether [`make_no_calls_of_our_own`] was called.
pub fn is_restrained() -> bool {
    RESTRAINED.load(Acquire)
}

/// The program's exit of one thread.
pub fn serve_exit(frame: &mut Frame, tls: &mut Tls) -> u64 {
    let made = hosted::is_made_thread(tls);
    if tls.vfork_depth > 0 || is_restrained() {
        if made && tls.vfork_depth == 0 {
            hosted::threads::clear(tls.clear_tid);
        }
        return LEAVE_PASS;
    }
    serve::handler().thread_exit();
    // Really all: what strikes from here on would use a stack that another thread has by then, and is for another thread if it was sent to the process.
    mask::block_everything(tls);
    if parking::has_held_back(tls) {
        // It came before: the program is told of it first, and then ends the thread once more.
        return LEAVE_AGAIN;
    }
    if made {
        hosted::threads::end(tls);
    }
    let top = tls.stack + stack::SIZE as u64;
    tls.top = 0;
    tls.stack = 0;
    // SAFETY: the thread ends here; nothing of the stack is used once it is given back, not by a signal either.
    unsafe { interpose_thread_exit(frame.rdi, top) }
}

/// Makes an exec, the new image inheriting the mask and the ignored signals that the program believes it has.
///
/// # Safety
/// As for [`raw::syscall6`]; called inside.
pub unsafe fn exec(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    let blocked = tls.pending == PENDING_MASK;
    let mut found = 0;
    if blocked {
        found = mask::change_native(SIG_SETMASK, tls.mask & !VIRTUAL | tls.virtual_mask);
    } else if tls.virtual_mask != 0 {
        found = mask::change_native(SIG_BLOCK, tls.virtual_mask);
    }
    actions::ignore_for_exec(tls);
    // SAFETY: the caller's promise. A signal that comes first is delivered first, and the call made again.
    let result = unsafe { raw::interruptible(nr, args) };
    actions::restore_after_exec(tls);
    // What it was, and what a signal that came has blocked since.
    if tls.virtual_mask != 0 {
        mask::change_native(SIG_UNBLOCK, tls.virtual_mask & !found);
    }
    if blocked {
        mask::change_native(SIG_BLOCK, found);
    }
    result
}

/// Whether this thread is a child of vfork (or of `posix_spawn`) that still shares memory with its suspended parent.
pub fn in_vfork_child() -> bool {
    // SAFETY: the block is this thread's.
    unsafe { (*tls::current()).vfork_depth > 0 }
}
