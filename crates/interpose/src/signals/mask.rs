//! Signal masks: the program's, in which the virtual signals may be blocked, and the kernel's, in which they never are.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU64};

use super::{ALL, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGSYS, SYS_RT_SIGPROCMASK, VIRTUAL, bit, parking};
use crate::entry::tls::{self, INSIDE, PENDING_MASK, PENDING_NONE, PENDING_SIGNAL, Tls, WAITING};
use crate::{Call, RESTART, raw};
use crate::{lodger, usercopy};

const EFAULT: i64 = -14;
const EINVAL: i64 = -22;
const SET_SIZE: u64 = 8;

/// The program's `rt_sigprocmask`.
pub fn serve(tls: &mut Tls, args: [u64; 6]) -> i64 {
    let [how, set, old, size, ..] = args;
    if size != SET_SIZE {
        return EINVAL;
    }
    let how = how & 0xffff_ffff;
    let wanted = if set == 0 {
        None
    } else {
        let Ok(wanted) = usercopy::read::<u64>(set) else { return EFAULT };
        if how > SIG_SETMASK {
            return EINVAL;
        }
        Some(wanted)
    };
    let before = tls.virtual_mask;
    let mut real = None;
    if let Some(wanted) = wanted {
        tls.virtual_mask = combined(how, before, wanted) & VIRTUAL;
        let (parked, mask) = (tls.parked, tls.virtual_mask);
        let still = parking::still_parked(tls, mask);
        // Those that are unblocked and pending come now; we are inside, and they are delivered as we leave.
        real = Some(wanted & !VIRTUAL | if how == SIG_UNBLOCK { parked & !still } else { still });
    }
    let previous = match change(tls, how, real) {
        Ok(previous) => previous | before,
        Err(errno) => return errno,
    };
    if wanted.is_some() {
        raise_unblocked(tls);
    }
    if old != 0 && usercopy::write(old, &previous).is_err() {
        return EFAULT;
    }
    0
}

fn combined(how: u64, mask: u64, set: u64) -> u64 {
    match how {
        SIG_BLOCK => mask | set,
        SIG_UNBLOCK => mask & !set,
        _ => set,
    }
}

/// Changes the program's mask of real signals. While a signal is held back the kernel's mask is not the program's.
fn change(tls: &mut Tls, how: u64, set: Option<u64>) -> Result<u64, i64> {
    loop {
        if tls.pending() != PENDING_NONE {
            let previous = tls.mask;
            if let Some(set) = set {
                tls.mask = combined(how, previous, set);
            }
            return Ok(previous);
        }
        let set_pointer = set.as_ref().map_or(0, |set| (&raw const *set) as u64);
        let mut previous = 0_u64;
        // SAFETY: the masks are ours. A signal that comes before the kernel has begun ends this with `RESTART`, and
        // then the mask to change is the noted one.
        let result = unsafe {
            raw::interruptible(
                SYS_RT_SIGPROCMASK,
                [how, set_pointer, (&raw mut previous) as u64, SET_SIZE, 0, 0],
            )
        };
        match result {
            RESTART => {}
            0 => return Ok(previous),
            errno => return Err(errno),
        }
    }
}

/// `rt_sigprocmask(2)` of the host's own, for a moment in which no signal is to come; of real signals. Returns the mask before. What is noted in between keeps the program's mask: that of a call is
/// the one with which it began, whatever the kernel's was when the signal came. Any thread, in handlers of the host's.
pub fn change_signal_mask(how: u32, set: u64) -> u64 {
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    if tls.inside != INSIDE || lodger::is_current() {
        return change_native(how.into(), set);
    }
    change(tls, how.into(), Some(set)).unwrap_or_default()
}

/// Virtual signals that processes sent while they were blocked.
fn raise_unblocked(tls: &mut Tls) {
    let ready = parking::take_waiting(tls, !tls.virtual_mask);
    for signal in (1..=64).filter(|signal| ready & bit(*signal) != 0) {
        // SAFETY: our wrapper is the action; inside, it notes the signal.
        unsafe { super::raise(signal) };
    }
}

/// Blocks all signals; the call is then left by a signal frame that restores the program's mask.
pub fn block_all(tls: &mut Tls) {
    block(tls, ALL);
}

/// The same, also those that the thread's own instructions raise: they must not.
pub fn block_everything(tls: &mut Tls) {
    block(tls, everything());
}

fn block(tls: &mut Tls, signals: u64) {
    // What else the program has blocked stays so: one that waits would come.
    let previous = change_native(SIG_BLOCK, signals | tls.parked);
    // In one step, for those that are not in `ALL`. One that is noted found the program's mask if it came before, else what is blocked now; the
    // other is `previous`, and the program's is the smaller.
    // SAFETY: a byte of this thread.
    let pending = unsafe { AtomicU8::from_ptr(&raw mut tls.pending) };
    match pending.compare_exchange(PENDING_NONE, PENDING_MASK, Relaxed, Relaxed) {
        Ok(_) => tls.mask = previous,
        Err(PENDING_SIGNAL) => tls.mask &= previous,
        Err(_) => {}
    }
}

/// What is blocked where no signal at all may come.
pub static EVERYTHING: AtomicU64 = AtomicU64::new(u64::MAX);

/// All signals, for moments in which the thread's own instructions raise none.
pub fn everything() -> u64 {
    EVERYTHING.load(Relaxed)
}

/// A seccomp filter may answer our own calls by SIGSYS from now on, which ends the process where it is blocked.
pub fn leave_out_sigsys() {
    EVERYTHING.store(!bit(SIGSYS), Relaxed);
}

/// Sets the kernel's mask.
pub fn set_native(mask: u64) {
    change_native(SIG_SETMASK, mask);
}

/// Changes the kernel's mask as `rt_sigprocmask` does. Returns what it was.
pub fn change_native(how: u64, set: u64) -> u64 {
    let mut previous = 0_u64;
    // SAFETY: the masks are ours.
    unsafe {
        raw::syscall4(SYS_RT_SIGPROCMASK, how, (&raw const set) as u64, (&raw mut previous) as u64, SET_SIZE);
    }
    previous
}

/// The kernel's mask.
pub fn native() -> u64 {
    change_native(SIG_BLOCK, 0)
}

/// Takes over the mask this thread started with: what the image before it had blocked is blocked virtually.
pub fn adopt(tls: &mut Tls) {
    let inherited = native();
    if inherited & VIRTUAL != 0 {
        tls.virtual_mask = inherited & VIRTUAL;
        set_native(inherited & !VIRTUAL);
    }
}

/// A call that waits with a mask: puts a mask without the virtual signals in its place, but for those that are pending. Returns
/// what is to be [`Tls::wait_mask`].
pub fn filter(tls: &mut Tls, call: &mut Call, argument: usize, pair: bool) -> u64 {
    let pointer = call.args[argument];
    let copy = (&raw mut tls.mask_copy) as u64;
    // What cannot be read is left to the kernel to complain about.
    let found = match pair {
        _ if pointer == 0 => None,
        false => usercopy::read::<u64>(pointer).ok().map(|mask| (mask, 0)),
        true => match usercopy::read::<[u64; 2]>(pointer) {
            Ok([mask, size]) if mask != 0 => usercopy::read::<u64>(mask).ok().map(|mask| (mask, size)),
            _ => None,
        },
    };
    let Some((mask, size)) = found else { return 0 };
    tls.mask_copy = [mask & !VIRTUAL | mask & tls.parked, copy, size, 0];
    call.args[argument] = if pair { copy + 8 } else { copy };
    mask & VIRTUAL | WAITING
}
