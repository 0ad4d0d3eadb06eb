//! Failures of the command itself, and the exit statuses that tell them apart.

use std::fmt;

use defuse::session::SessionError;

/// `plugin` and `doctor`: something was wrong.
pub const FAILED: i32 = 1;
/// The command line makes no sense.
pub const USAGE: i32 = 2;
/// `run`: the command itself failed, also for a wrong command line; as `env`, `timeout` and `nohup` have it.
pub const RUN_FAILED: i32 = 125;
/// `run`: the program was found but cannot be started.
pub const CANNOT_START: i32 = 126;
/// `run`: the program was not found.
pub const NOT_FOUND: i32 = 127;

/// Why the command gives up: one or more lines for people (none if it has been said), and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: i32,
    message: String,
}

impl Failure {
    /// A failure that ends in `status`.
    pub fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// A failure that ends in `status`, of which people know already.
    pub fn told(status: i32) -> Self {
        Self { status, message: String::new() }
    }

    /// Whether there is anything to say.
    pub fn is_told(&self) -> bool {
        self.message.is_empty()
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(RUN_FAILED, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}
