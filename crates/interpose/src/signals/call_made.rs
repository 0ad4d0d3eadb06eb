//! The call in which a signal struck.

use super::Context;
use crate::entry::tls::Tls;
use crate::site;

/// What the block says of a call that our text is making or has made.
///
/// While a signal's context is being settled by this, another signal may come: it settles that context as well ([`super::unsettled`]),
/// and then the program's handler makes calls, of which the block is from then on. So this is a copy, and the PC that says what of it
/// is to be used is read last: as long as that is in our text nobody has settled the context, and the copy is of its call. To settle it again
/// by the same copy changes nothing.
pub struct CallMade {
    pub resume: u64,
    pub original: [u64; 6],
    number: u32,
    pub path_class: u8,
    /// What the context has in `rax`.
    pub result: i64,
    pub rsp: u64,
    /// The context's PC.
    pub rip: u64,
}

impl CallMade {
    pub fn of(tls: &Tls, context: &Context) -> Self {
        // SAFETY: plain memory of this thread, which a signal may change at any instruction: read in this order.
        unsafe {
            Self {
                resume: (&raw const tls.resume).read_volatile(),
                original: (&raw const tls.original).read_volatile(),
                number: (&raw const tls.number).read_volatile(),
                path_class: (&raw const tls.path_class).read_volatile(),
                result: (&raw const context.rax).read_volatile() as i64,
                rsp: (&raw const context.rsp).read_volatile(),
                rip: (&raw const context.rip).read_volatile(),
            }
        }
    }

    /// A call that the entry was about to make, or has made without effect, is the program's to make once more.
    pub fn begin_again(&self, context: &mut Context) {
        context.set_args(self.original);
        context.rax = u64::from(self.number);
        site::again(context, self.resume);
    }
}
