//! What may stand behind the plugin's name.

use plugin_abi::{Errno, InitError};

/// What the mount asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `backing-fd` (or `backing-fd=on`, `off`; off by default): the files themselves are handed to the program, instead of `read` and `write` being
    /// served.
    pub backing_fd: bool,
    /// `map=lend` (the default): files are lent for mapping, so that the kernel's pages are mapped. With `map=pager` the host pages them
    /// itself, as for a plugin that has no descriptors to lend.
    pub lends: bool,
    /// `locks=backend` (the default): record locks and flock are the directory's. With `locks=session` they are the host's: who uses the
    /// directory without defuse does not see them.
    pub locks: bool,
}

impl Options {
    /// The later of two that contradict each other counts.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Self, InitError> {
        let mut options = Self { backing_fd: false, lends: true, locks: true };
        for word in words {
            match word {
                b"backing-fd" | b"backing-fd=on" => options.backing_fd = true,
                b"backing-fd=off" => options.backing_fd = false,
                b"map=lend" => options.lends = true,
                b"map=pager" => options.lends = false,
                b"locks=backend" => options.locks = true,
                b"locks=session" => options.locks = false,
                other => {
                    let known = "backing-fd, backing-fd=on, backing-fd=off, locks=backend, locks=session, map=lend, map=pager";
                    let text = format!("unknown option `{}`; there is {known}", other.escape_ascii());
                    return Err(InitError::new(Errno::EINVAL, text));
                }
            }
        }
        Ok(options)
    }
}
