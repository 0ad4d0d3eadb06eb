//! Syscall User Dispatch: the kernel hands over calls from sites that could not be rewritten.
//!
//! While a thread has it armed every call from outside our text raises SIGSYS; so calls that pass are then made from
//! our text, too ([`table::DISPATCHING`]). The kernel clears it in children of fork and vfork and in new threads: each arms
//! itself, new threads in their first instructions, others at their next call that passes.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::entry::regions;
use crate::entry::tls::{self, Tls};
use crate::raw;
use crate::rewrite::AddressMap;
use crate::signals::{Context, SigInfo};
use crate::{DispatchPolicy, hosted, table};

const SYS_PRCTL: u32 = 157;
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const PR_SYS_DISPATCH_ON: u64 = 1;
const PR_SYS_DISPATCH_OFF: u64 = 0;
const SYS_RT_SIGRETURN: u64 = 15;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Bytes of `syscall`, and of `int $0x80`.
const INSTRUCTION: u64 = 2;

/// Whether threads are to have it armed.
pub fn armed() -> bool {
    table::DISPATCHING.load(Relaxed) != 0
}

/// Arms it in this thread, and in others as they come by, if the policy says so and there is reason to.
pub fn arm_if_needed(policy: DispatchPolicy, missed: u32) -> bool {
    let needed = match policy {
        DispatchPolicy::Never => false,
        DispatchPolicy::Auto => missed > 0,
        DispatchPolicy::Always => true,
    };
    if !needed || armed() {
        return armed();
    }
    let Ok(map) = AddressMap::read() else { return false };
    let entry = regions::entry();
    let Some(text) = map.mappings().iter().find(|mapping| mapping.range.contains(&entry)) else {
        return false;
    };
    table::DISPATCH_START.store(text.range.start, Relaxed);
    table::DISPATCH_LENGTH.store(text.range.end - text.range.start, Relaxed);
    if !arm() {
        return false;
    }
    table::DISPATCHING.store(1, Release);
    true
}

/// Whether this is where [`caught`] lets a call of a guest be decided about.
pub fn is_caught(address: u64) -> bool {
    address == regions::entry()
}

/// Whether this is an instruction from which dispatch lets calls through, once it is armed.
pub fn is_own_text(address: u64) -> bool {
    address.wrapping_sub(table::DISPATCH_START.load(Relaxed)) < table::DISPATCH_LENGTH.load(Relaxed)
}

/// Whether the kernel knows dispatch. Must not be asked in a thread that has it armed, where the answer is known.
pub fn is_possible() -> bool {
    // SAFETY: switches off what is not on.
    armed()
        || unsafe { raw::syscall5(SYS_PRCTL, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) }
            == 0
}

/// Arms it in a new process, where the kernel has cleared it.
pub fn arm_again() {
    if armed() {
        arm();
    }
}

fn arm() -> bool {
    // SAFETY: our handler of SIGSYS is installed, and SIGSYS is never blocked.
    let result = unsafe {
        raw::syscall5(
            SYS_PRCTL,
            PR_SET_SYSCALL_USER_DISPATCH,
            PR_SYS_DISPATCH_ON,
            table::DISPATCH_START.load(Relaxed),
            table::DISPATCH_LENGTH.load(Relaxed),
            0,
        )
    };
    // SAFETY: the block is this thread's.
    unsafe { (*tls::current()).armed = 1 };
    result == 0
}

/// What a stub holds before its `resume` label, for a site without a stub.
#[repr(C)]
struct Record {
    /// The instruction after the site.
    after: AtomicU64,
    /// Rewind plainly, number unknown.
    rewind_and_number: AtomicU64,
    site: AtomicU64,
    done: AtomicU64,
}

const NUMBER_UNKNOWN: u64 = 0xffff_ffff << 32;
const RECORDS: usize = 1024;
static TABLE: [Record; RECORDS] = [const {
    Record {
        after: AtomicU64::new(0),
        rewind_and_number: AtomicU64::new(NUMBER_UNKNOWN),
        site: AtomicU64::new(0),
        done: AtomicU64::new(0),
    }
}; RECORDS];

/// The `resume` address that stands for `site`; its data lie before it as the contract says. It is never jumped to, as
/// [`armed`] calls pass another way. `done` is what such calls are left to.
fn resume(site: u64, done: u64, tls: &mut Tls) -> u64 {
    let begin = (site.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize;
    for step in 0..16 {
        let record = &TABLE[(begin + step) % RECORDS];
        let found = match record.site.compare_exchange(0, site, AcqRel, Acquire) {
            Ok(_) => site,
            Err(found) => found,
        };
        if found == site {
            record.after.store(site + INSTRUCTION, Release);
            record.done.store(done, Release);
            return (&raw const *record) as u64 + size_of::<Record>() as u64;
        }
    }
    // Code that makes thousands of sites: the thread's own record, good for one call.
    tls.record = [site + INSTRUCTION, NUMBER_UNKNOWN, site, done];
    own_record(tls)
}

/// The `resume` address that [`Tls::record`] stands for.
pub fn own_record(tls: &Tls) -> u64 {
    (&raw const tls.record) as u64 + size_of::<Record>() as u64
}

/// Whether `resume` is the end of a thread's own record and not of one that all threads use.
pub fn is_threads_own(resume: u64) -> bool {
    let table = (&raw const TABLE) as u64;
    !(table..=table + size_of_val(&TABLE) as u64).contains(&resume)
}

/// What `iretq` takes from the stack to go on behind a 32-bit call, which leaves no register free to name the place.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WayBack {
    done: u64,
    code_segment: u64,
    flags: u64,
    rsp: u64,
    stack_segment: u64,
}

impl WayBack {
    fn new(context: &Context) -> Self {
        Self {
            done: context.rip,
            code_segment: context.segments & 0xffff,
            flags: context.eflags,
            rsp: context.rsp,
            stack_segment: context.segments >> 48,
        }
    }

    fn at(pointer: u64) -> Self {
        // SAFETY: callers know by the PC that the stack pointer leads to one.
        unsafe { (pointer as *const Self).read() }
    }
}

/// A 32-bit call that is about to be made in our text is the program's to make once more. `pointer` is the stack pointer that the context had with
/// its PC: another signal may have settled it since.
pub fn unmake_32_bit(context: &mut Context, pointer: u64) {
    let back = WayBack::at(pointer);
    context.rsp = back.rsp;
    context.rip = back.done - INSTRUCTION;
}

/// A 32-bit call was made in our text: goes back to the program. `pointer` as above.
pub fn complete_32_bit(context: &mut Context, pointer: u64) {
    WayBack { done: context.rip, rsp: context.rsp, .. } = WayBack::at(pointer);
}

/// A call was caught: the program goes on as if its site had been rewritten.
///
/// `from_guest`: it is a call of the guest, see [`hosted`].
pub fn caught(info: &mut SigInfo, context: &mut Context, tls: &mut Tls, from_guest: bool) {
    let after = context.rip;
    if context.rax == SYS_RT_SIGRETURN && info.architecture() == AUDIT_ARCH_X86_64 {
        if from_guest {
            hosted::signal::before_sigreturn(context);
        }
        context.rip = regions::sigreturn();
        return;
    }
    if info.architecture() != AUDIT_ARCH_X86_64 {
        // In the signal's frame, where nothing is read any more: what comes on this stack from now on lies below. (The thread's block would not do,
        // as another signal's handler may make such a call before this one is made.) A guest keeps its FS: nothing there asks for ours.
        context.rsp = info.leave(WayBack::new(context));
        context.rip = regions::pass_32_bit();
        return;
    }
    let done = if from_guest { hosted::done() } else { after };
    context.rcx = resume(after - INSTRUCTION, done, tls);
    context.rip = regions::entry();
}
