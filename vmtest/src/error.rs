//! The one error of this crate: what was attempted, and why it did not work.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

/// Why a command of `vmtest` failed.
#[derive(Debug)]
pub enum Error {
    /// The command line makes no sense.
    Usage(String),
    /// A system call failed.
    Io {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program failed.
    Program {
        /// What was attempted.
        attempt: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// Something must be there first.
    Missing(String),
}

impl Error {
    /// A system call failed on a file.
    pub fn io(attempt: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let attempt = format!("{attempt} {}", path.display());
        move |source| Error::Io { attempt, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) => write!(f, "{text}\n\n{}", crate::cli::USAGE),
            Error::Io { attempt, source } => write!(f, "{attempt}: {source}"),
            Error::Program { attempt, status, output } => write!(f, "{attempt}: {status}\n{output}"),
            Error::Missing(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
