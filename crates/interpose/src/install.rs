//! Putting it all in place.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use crate::entry::tls::{self, INSIDE, OUTSIDE, Tls};
use crate::entry::vector;
use crate::rewrite::{self, Threads};
use crate::signals::{self, actions, mask, parking};
use crate::{Config, Handler, dispatch, objects, serve, table};

/// What [`install`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Installed {
    /// Objects whose text was rewritten.
    pub objects: u32,
    /// System call sites that now lead to the handler.
    pub sites: u32,
    /// Sites that could not be rewritten; those of interest are caught by dispatch when that is on.
    pub unpatched: u32,
    /// Whether Syscall User Dispatch is armed.
    pub dispatching: bool,
}

/// Why [`install`] refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallError {
    /// A handler is installed already.
    Twice,
    /// A system call that installing needs failed (`what`, positive errno).
    System(&'static str, i32),
    /// The text of loaded objects could not be rewritten.
    Rewrite(rewrite::Error),
    /// No site of any loaded object could be rewritten (the C library is not one that is understood, or code may not be
    /// changed here), and dispatch is not to be had.
    NoSites,
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice => f.write_str("cannot install a system call handler: one is installed already"),
            Self::System(what, errno) => write!(f, "cannot install a system call handler: {what}: errno {errno}"),
            Self::Rewrite(error) => write!(f, "cannot install a system call handler: {error}"),
            Self::NoSites => f.write_str(
                "cannot install a system call handler: no system call site that can be rewritten in any loaded object, and no dispatch",
            ),
        }
    }
}

impl std::error::Error for InstallError {}

/// Rewrites the system call sites of all loaded objects so that `handler` is asked about the calls `config` names.
///
/// May be called from an ELF constructor, before the C library's own. Cannot be undone.
///
/// # Safety
/// Other threads may run, but none may be loading or unloading objects. The memory that `config`
/// names stays valid, and the handler is fit to be called as [`Handler`] says.
///
/// # Errors
/// See [`InstallError`].
#[expect(clippy::needless_pass_by_value)] // Used up: it is built for this one call.
pub unsafe fn install(config: Config, handler: &'static dyn Handler) -> Result<Installed, InstallError> {
    serve::set_handler(handler)?;
    vector::detect();
    table::ERRNO_OFFSET.store(errno_offset(), Relaxed);
    table::fill(&config);
    objects::configure(&config);
    // SAFETY: the block is this thread's.
    let tls = unsafe { &mut *tls::current() };
    let inside = Inside::enter(tls);
    // SAFETY: the tables are filled; `set_handler` lets only one caller through.
    unsafe { actions::adopt() }?;
    mask::adopt(inside.tls);
    let threads = if objects::threads() == 1 { Threads::Quiet } else { Threads::Running };
    let guard = objects::lock();
    // SAFETY: the caller's promise.
    let tally = unsafe { objects::rewrite(None, threads) }.map_err(InstallError::Rewrite)?;
    drop(guard);
    let dispatching = dispatch::arm_if_needed(config.dispatch, tally.missed);
    if tally.sites == 0 && !dispatching {
        return Err(InstallError::NoSites);
    }
    drop(inside);
    Ok(Installed { objects: tally.objects, sites: tally.sites, unpatched: tally.missed, dispatching })
}

/// Keeps signals of the program away, and its calls of what is being rewritten from being served.
struct Inside<'a> {
    tls: &'a mut Tls,
    before: u8,
}

impl<'a> Inside<'a> {
    fn enter(tls: &'a mut Tls) -> Self {
        let before = tls.inside;
        tls.set_inside(INSIDE);
        Self { tls, before }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.before != OUTSIDE {
            self.tls.set_inside(self.before);
            return;
        }
        mask::block_all(self.tls);
        let mask = self.tls.mask;
        self.tls.set_inside(OUTSIDE);
        // One that strikes here may have done this already.
        parking::raise_all(self.tls, None);
        mask::set_native(mask & !signals::VIRTUAL | self.tls.parked);
    }
}

fn errno_offset() -> u64 {
    unsafe extern "C" {
        fn __errno_location() -> *mut i32;
    }
    // SAFETY: no preconditions; the C library's errno is in static TLS, at one offset in every thread.
    unsafe { __errno_location() as u64 }.wrapping_sub(tls::thread_pointer())
}
