//! The program's alternate signal stack: watched, as the entry must not leave it in use.

use super::{NO_ALT, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SYS_SIGALTSTACK, StackDescription};
use crate::entry::frame::Frame;
use crate::entry::tls::Tls;
use crate::{hosted, raw, usercopy};

const EFAULT: i64 = -14;
const EPERM: i64 = -1;
const EINVAL: i64 = -22;
const ENOMEM: i64 = -12;
const MINSIGSTKSZ: u64 = 2048;

/// The program's sigaltstack. `None` when the kernel is to do it from the program's own instruction.
pub fn serve(tls: &mut Tls, frame: &Frame) -> Option<i64> {
    if hosted::active() {
        let [new, old, ..] = frame.args();
        return Some(hosted::serve_alternate(tls, new, old, frame.rsp));
    }
    if tls.alt_disabled != 0 {
        return Some(on_it(tls, frame));
    }
    let [new, old, ..] = frame.args();
    if new == 0 {
        return None;
    }
    let Ok(wanted) = usercopy::read::<StackDescription>(new) else { return Some(EFAULT) };
    let mut previous = NO_ALT;
    // SAFETY: what the program asked; the descriptions are ours. Neither it nor we are on the alternate stack.
    let result =
        unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const wanted) as u64, (&raw mut previous) as u64) };
    if result < 0 {
        return Some(result);
    }
    watch(tls, &wanted);
    Some(if old != 0 && usercopy::write(old, &previous).is_err() { EFAULT } else { 0 })
}

/// Switches it off while the thread, which is on it, works elsewhere: the kernel would take it for unused, and put the next signal's frame on top of what
/// lies there.
pub fn switch_off(tls: &mut Tls) {
    // SAFETY: the descriptions are ours; the caller is not on it.
    unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const NO_ALT) as u64, tls.alt.as_mut_ptr() as u64) };
    tls.alt_disabled = 1;
}

/// And on again.
pub fn switch_on(tls: &mut Tls) {
    let stack = StackDescription::from_words(tls.alt);
    // SAFETY: what was set before; while it is off, nobody is on it for the kernel.
    unsafe { raw::syscall2(SYS_SIGALTSTACK, (&raw const stack) as u64, 0) };
    tls.alt_disabled = 0;
}

fn watch(tls: &mut Tls, stack: &StackDescription) {
    tls.alt_base = stack.base;
    tls.alt_size = if stack.flags & SS_DISABLE != 0 { 0 } else { stack.size };
}

/// Called on the alternate stack, which is switched off for the moment: as the kernel would answer.
fn on_it(tls: &mut Tls, frame: &Frame) -> i64 {
    let [new, old, ..] = frame.args();
    let current = StackDescription::from_words(tls.alt);
    // With SS_AUTODISARM the kernel had switched it off before we did.
    let in_use = current.flags & SS_DISABLE == 0;
    let wanted = if new == 0 {
        None
    } else {
        match usercopy::read::<StackDescription>(new) {
            Ok(wanted) => Some(wanted),
            Err(_) => return EFAULT,
        }
    };
    if let Some(wanted) = wanted {
        if in_use {
            return EPERM;
        }
        let mode = wanted.flags & 0xffff_ffff & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return EINVAL;
        }
        if mode != SS_DISABLE && wanted.size < MINSIGSTKSZ {
            return ENOMEM;
        }
        tls.alt = [wanted.base, wanted.flags, wanted.size];
        watch(tls, &wanted);
    }
    let shown = StackDescription { flags: current.flags | if in_use { SS_ONSTACK } else { 0 }, ..current };
    if old != 0 && usercopy::write(old, &shown).is_err() { EFAULT } else { 0 }
}
