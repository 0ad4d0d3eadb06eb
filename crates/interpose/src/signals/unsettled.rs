//! The contexts that the program's next handler must not find unsettled: they refer to the thread's block, which the calls of that handler change.
//!
//! A signal can strike in the wrapper of another, and a third in the wrapper of that. So each wrapper begins by putting its context at the head of a
//! list (`Tls::unsettled`, linked through `uc_link`, which the kernel leaves alone) and takes it off as it settles it, or knows that it needs none. Whoever
//! is about to call a handler settles the whole list. Invariants:
//!
//! 1. Every context that is not settled is in the list, or is the third argument of a wrapper that was interrupted in its first instructions; that one's context
//!    is, or is found in the same way.
//! 2. All contexts in the list belong to frames that are live: an outer signal's wrapper goes on when the inner's has returned, and where a handler is called, which may jump
//!    away, the list is empty.
//! 3. To settle a context that is settled changes nothing (see [`super::call_made`]). So it does no harm that a wrapper which is interrupted while it works on the list goes on
//!    with entries that the other has taken off.

use super::{Context, wrapper};
use crate::entry::tls::Tls;

/// Settles all, and empties the list.
pub fn settle_all(tls: &mut Tls, settle: fn(&mut Context, &mut Tls)) {
    // SAFETY: the second invariant. Signals change list and links at any instruction.
    unsafe {
        while let Some(head) = ((&raw const tls.unsettled).read_volatile() as *mut Context).as_mut() {
            settle(head, tls);
            let mut outer = &raw const *head;
            while wrapper::is_at_start((*outer).rip) {
                // The kernel set the wrapper's registers.
                let inner = (*outer).rdx as *mut Context;
                settle(&mut *inner, tls);
                outer = inner;
            }
            forget(head, tls);
        }
    }
}

/// Takes off this context, which is the head of the list: what it has interrupted needs nothing of the block, or is inside.
pub fn forget(context: &mut Context, tls: &mut Tls) {
    // SAFETY: as above. The program sees what the kernel had there.
    unsafe {
        let next = (&raw const context.link).read_volatile();
        (&raw mut tls.unsettled).write_volatile(next);
        (&raw mut context.link).write_volatile(0);
    }
}
