//! What can go wrong with a session, in words that name what was attempted.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::errno;

/// An error about a session: its folder, its configuration or its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionError {
    /// A system call failed while doing `attempted` (a verb phrase, such as "create the folder /x").
    System {
        /// What was being done.
        attempted: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A file or folder of the session may not be believed.
    Untrusted {
        /// What was looked at.
        path: PathBuf,
        /// Why it is not believed.
        why: String,
    },
    /// The session's configuration is not what this version writes.
    Config {
        /// The line, from 1; 0 when it is about the whole text.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The session's arena cannot be used.
    Arena {
        /// What was being done.
        attempted: String,
        /// What is wrong with it.
        why: String,
    },
    /// A mount that was asked for cannot be made.
    Mount {
        /// The mount as the user wrote it.
        spec: String,
        /// What is wrong with it.
        why: String,
    },
}

impl SessionError {
    /// A failed system call; `verb` and `path` say what it was for.
    pub(crate) fn system(verb: &str, path: &Path, errno: Errno) -> Self {
        Self::System { attempted: format!("{verb} {}", path.display()), errno }
    }

    pub(crate) fn config(line: usize, why: impl Into<String>) -> Self {
        Self::Config { line, why: why.into() }
    }

    /// The errno of a failed system call, `None` for the other kinds.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::System { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { attempted, errno } => {
                write!(out, "cannot {attempted}: {}", errno::describe(*errno))
            }
            Self::Untrusted { path, why } => write!(out, "will not use {}: {why}", path.display()),
            Self::Config { line: 0, why } => write!(out, "the session's configuration is not valid: {why}"),
            Self::Config { line, why } => {
                write!(out, "line {line} of the session's configuration is not valid: {why}")
            }
            Self::Arena { attempted, why } => write!(out, "cannot {attempted}: {why}"),
            Self::Mount { spec, why } => write!(out, "cannot mount {spec}: {why}"),
        }
    }
}

impl std::error::Error for SessionError {}
