#![doc = include_str!("../README.md")]

mod call;
mod config;
mod dispatch;
mod entry;
mod fault;
mod handler;
mod handler_stack;
mod hosted;
mod inside;
mod install;
mod lodger;
mod objects;
mod paths;
mod plans;
mod private_copy;
mod process;
pub mod raw;
pub mod rewrite;
mod runtime_code;
mod serve;
mod signals;
mod site;
mod spin;
mod table;
pub mod usercopy;

pub use call::{ARGS, Call, Outcome, RESTART};
pub use config::{Config, DispatchPolicy, FD_FOREIGN, FD_SERVED, FD_STATES, FD_UNKNOWN, Interest, NUMBERS};
pub use dispatch::armed as is_dispatching;
pub use handler::{End, Fault, ForkCall, ForkKind, Handler};
pub use hosted::{GuestError, guest_thread_has_ended, start_guest};
/// Whether a process of this machine can have a guest: see [`start_guest`].
pub fn can_have_guest() -> bool {
    hosted::is_possible() && dispatch::is_possible()
}

pub use inside::{inside, is_guest_fork};
pub use install::{InstallError, Installed, install};
pub use paths::{PathFilter, absence};
pub use plans::{PlanStore, store_plans};
pub use process::{exec, in_vfork_child, make_no_calls_of_our_own};
pub use serve::pass_inner_calls;
pub use signals::mask::change_signal_mask;
pub use signals::{begin_end, end_by, watch_endings};
pub use table::{offer_late, set_alert};
