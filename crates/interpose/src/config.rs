//! Which calls are offered to the handler.

use std::sync::atomic::AtomicU8;

use crate::{PathFilter, PlanStore};

/// System call numbers are below this; higher ones always go to the kernel (which knows none).
pub const NUMBERS: usize = 512;
/// File descriptors below this have a state byte; those above count as [`FD_UNKNOWN`].
pub const FD_STATES: usize = 65536;

/// FD state: nothing known, ask the handler.
pub const FD_UNKNOWN: u8 = 0;
/// FD state: not the handler's; calls of [`Interest::ByFd`] numbers go straight to the kernel.
pub const FD_FOREIGN: u8 = 1;
/// FD state: the handler's.
pub const FD_SERVED: u8 = 2;

/// When a call of some number is offered to the handler. The decision is made in about 2 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interest {
    /// Goes to the kernel.
    #[default]
    Never,
    /// Always offered.
    Always,
    /// Offered unless the state byte of the FD in the first argument is [`FD_FOREIGN`].
    ByFd,
    /// As [`ByFd`](Self::ByFd), for the call that closes the FD: when it is [`FD_FOREIGN`] and so goes to the kernel, its state
    /// becomes [`FD_UNKNOWN`], since the number may come back as something else.
    Closes,
    /// Offered while the `serving` byte is not zero.
    WhileServing,
    /// Offered while [`crate::set_alert`] is on; goes to the kernel otherwise. A site of this number that cannot be rewritten is
    /// no reason for dispatch.
    WhileAlert,
    /// Goes to the kernel until [`crate::offer_late`] is called, and is offered from then on. A site of this number that cannot be
    /// rewritten is no reason for dispatch.
    Late,
}

/// When Syscall User Dispatch is used. It costs 27-47 ns on every call of a thread, and about 2 us on each call it catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DispatchPolicy {
    /// Sites that cannot be rewritten go to the kernel.
    #[default]
    Never,
    /// Armed when a loaded object has a site of an interesting number that could not be rewritten, or when memory without a
    /// file becomes executable and has something that looks like a site in it: code made at run time.
    Auto,
    /// Armed in every thread.
    Always,
}

impl DispatchPolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Never, Self::Auto, Self::Always];

    /// The policy's name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// What to catch. Built once, before [`crate::install`].
pub struct Config {
    pub(crate) interests: [Interest; NUMBERS],
    pub(crate) inner: [bool; NUMBERS],
    pub(crate) alert: [bool; NUMBERS],
    pub(crate) fd_states: Option<&'static [AtomicU8; FD_STATES]>,
    pub(crate) serving: Option<&'static AtomicU8>,
    pub(crate) dispatch: DispatchPolicy,
    pub(crate) ignored_objects: &'static [&'static str],
    pub(crate) plans: Option<&'static dyn PlanStore>,
    pub(crate) paths: Option<&'static PathFilter>,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// Nothing is of interest.
    pub const fn new() -> Self {
        Self {
            interests: [Interest::Never; NUMBERS],
            inner: [false; NUMBERS],
            alert: [false; NUMBERS],
            fd_states: None,
            serving: None,
            dispatch: DispatchPolicy::Never,
            ignored_objects: &[],
            plans: None,
            paths: None,
        }
    }

    /// Sets the interest in one number. Numbers out of range are ignored.
    #[must_use]
    pub const fn interest(mut self, nr: u32, interest: Interest) -> Self {
        self.set_interest(nr, interest);
        self
    }

    /// As [`interest`](Self::interest), in place: to set many copies nothing.
    pub const fn set_interest(&mut self, nr: u32, interest: Interest) {
        if (nr as usize) < NUMBERS {
            self.interests[nr as usize] = interest;
        }
    }

    /// Offers calls of this number made while the thread is inside to [`crate::Handler::inner_call`].
    #[must_use]
    pub const fn inner(mut self, nr: u32) -> Self {
        self.set_inner(nr);
        self
    }

    /// As [`inner`](Self::inner), in place.
    pub const fn set_inner(&mut self, nr: u32) {
        if (nr as usize) < NUMBERS {
            self.inner[nr as usize] = true;
        }
    }

    /// Offers all calls of this number while [`crate::set_alert`] is on, whatever the interest in it is otherwise. Without
    /// effect for numbers that make processes, execute, exit or change what is done about signals.
    #[must_use]
    pub const fn alert(mut self, nr: u32) -> Self {
        self.set_alert(nr);
        self
    }

    /// As [`alert`](Self::alert), in place.
    pub const fn set_alert(&mut self, nr: u32) {
        if (nr as usize) < NUMBERS {
            self.alert[nr as usize] = true;
        }
    }

    /// The bytes that [`Interest::ByFd`] looks at. Without them every FD is [`FD_UNKNOWN`].
    #[must_use]
    pub const fn fd_states(mut self, states: &'static [AtomicU8; FD_STATES]) -> Self {
        self.fd_states = Some(states);
        self
    }

    /// The byte that [`Interest::WhileServing`] looks at. Without it nothing is being served.
    #[must_use]
    pub const fn serving(mut self, serving: &'static AtomicU8) -> Self {
        self.serving = Some(serving);
        self
    }

    /// When to use Syscall User Dispatch.
    #[must_use]
    pub const fn dispatch(mut self, policy: DispatchPolicy) -> Self {
        self.dispatch = policy;
        self
    }

    /// Objects whose sites are left alone and never cause dispatch: file names, or paths when they
    /// hold a slash (plugins, our own library's helpers). The object that holds this crate is always left alone.
    #[must_use]
    pub const fn ignored_objects(mut self, objects: &'static [&'static str]) -> Self {
        self.ignored_objects = objects;
        self
    }

    /// Of the calls that look up one path, those of [`Interest::Always`] are offered only when the path may be of interest. See
    /// [`PathFilter`].
    #[must_use]
    pub const fn paths(mut self, filter: &'static PathFilter) -> Self {
        self.paths = Some(filter);
        self
    }

    /// Where plans are kept, so that not every process has to scan the objects it loads.
    #[must_use]
    pub const fn plans(mut self, store: &'static dyn PlanStore) -> Self {
        self.plans = Some(store);
        self
    }
}
