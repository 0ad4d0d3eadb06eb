//! The guest's alternate signal stack, of which the kernel does not know: its own is [`super::stack`]'s always.

use super::stack;
use crate::entry::stack as handler_stack;
use crate::entry::tls::Tls;
use crate::signals::{Context, NO_ALT, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, StackDescription};
use crate::usercopy;

const EFAULT: i64 = -14;
const EPERM: i64 = -1;
const EINVAL: i64 = -22;
const ENOMEM: i64 = -12;
const MINSIGSTKSZ: u64 = 2048;

/// As the guest has set it.
#[derive(Clone, Copy)]
pub struct Alternate(StackDescription);

/// This thread's.
pub fn of(tls: &Tls) -> Alternate {
    // SAFETY: `stack::provide` has made room for it.
    Alternate(if tls.own_alt == 0 { NO_ALT } else { unsafe { *stack::kept(tls) } })
}

/// Sets this thread's.
pub fn set(tls: &mut Tls, stack: StackDescription) {
    if tls.own_alt != 0 {
        // SAFETY: as above.
        unsafe { *stack::kept(tls) = stack };
    }
}

impl Alternate {
    /// There is one.
    pub fn is_usable(&self) -> bool {
        self.0.flags & SS_DISABLE == 0 && self.0.size != 0
    }

    /// Whether one with this stack pointer is on it, as the kernel sees it.
    pub fn holds(&self, pointer: u64) -> bool {
        let within = pointer > self.0.base && pointer - self.0.base <= self.0.size;
        self.is_usable() && self.0.flags & SS_AUTODISARM == 0 && within
    }

    pub fn base(&self) -> u64 {
        self.0.base
    }

    pub fn end(&self) -> u64 {
        self.0.base.wrapping_add(self.0.size)
    }

    fn shown(&self, pointer: u64) -> StackDescription {
        let none = if self.is_usable() { 0 } else { SS_DISABLE };
        let on_it = if self.holds(pointer) { SS_ONSTACK } else { 0 };
        StackDescription { flags: self.0.flags & SS_AUTODISARM | none | on_it, ..self.0 }
    }
}

/// A handler is about to be called: what its frame says.
pub fn at_delivery(tls: &mut Tls) -> StackDescription {
    let current = of(tls);
    if current.0.flags & SS_AUTODISARM != 0 {
        set(tls, NO_ALT);
    }
    current.shown(0)
}

/// A handler's frame is about to be used by the kernel.
pub fn restore(tls: &mut Tls, context: &mut Context) {
    let here = (&raw const *context) as u64;
    // One that was left where it was, on either of our stacks, says what the kernel knows.
    if tls.own_alt != 0 && !stack::holds(tls, here) && !handler_stack::holds(tls, here) {
        set(tls, context.stack);
        context.stack = stack::own(tls);
    }
}

/// sigaltstack(2) of the guest, whose stack pointer is `pointer`.
pub fn serve(tls: &mut Tls, new: u64, old: u64, pointer: u64) -> i64 {
    let current = of(tls);
    if new != 0 {
        let Ok(wanted) = usercopy::read::<StackDescription>(new) else { return EFAULT };
        if current.holds(pointer) {
            return EPERM;
        }
        let flags = wanted.flags & 0xffff_ffff;
        let mode = flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return EINVAL;
        }
        if mode == SS_DISABLE {
            set(tls, StackDescription { flags, ..NO_ALT });
        } else if wanted.size < MINSIGSTKSZ {
            return ENOMEM;
        } else {
            set(tls, StackDescription { flags: flags & SS_AUTODISARM, ..wanted });
        }
    }
    if old != 0 && usercopy::write(old, &current.shown(pointer)).is_err() { EFAULT } else { 0 }
}
