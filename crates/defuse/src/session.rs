//! A session: the set of processes under one `defuse run`, and the folder through which they find each other.
//!
//! The folder has an unguessable name in a run directory, and holds:
//!
//! | name | mode | what |
//! |---|---|---|
//! | `session.lock` | 0600 | locked for as long as the runner, or who tidies up after it, lives |
//! | `session` | 0644 | the configuration, see [`SessionConfig`] |
//! | `arena` | 0600 | memory that all processes of the session share |
//! | `exec/` | 0711 | copies of programs that lie on a mount, while they are started |
//! | `ID/slots/` | 1733 | shadows: an object for each open file description |
//! | `ID/locks/` | 1733 | files that carry the locks of served files |
//! | `sockets/` | 1733 | where the kernel has the sockets that are named on a mount |
//! | `null/` | 0711 | an empty directory |
//! | `ID/pages/` | 1733 | pages of mapped files, see `crate::paging`; only if a plugin needs that |
//! | `sites/` | 0711 | lists of system call sites of the libraries that were met, see [`crate::site_lists`] |
//!
//! Folders with mode 0711, which `ID/` is too, can be gone through, but not listed, by a process that has dropped its privileges.
//! `ID` is the arena's identifier: who has not mapped the arena cannot guess it.
//!
//! [`Session`] is the runner's side: it makes the folder and removes it. [`OpenedSession`] is the side of each process: it finds
//! the folder by its path and believes it only if its owner can be trusted. [`sweep_stale`] removes what killed runners left.
//!
//! A *standing* session has no runner: those of a user's processes join it that are in none, while mounts of the kernel module stand (see `crate::standing`). Its folder is
//! found by [`Rendezvous`] and its name ends in `-s`; mounts are added to its configuration as they come.

mod config;
mod create;
mod error;
mod escape;
mod kernel_mounts;
mod mount;
mod mount_spec;
mod open;
mod pages;
mod remove;
mod rendezvous;
mod run_directory;
mod standing_table;
mod sweep;
mod trust;

pub use config::{Mount, Nofile, SessionConfig, Shadows};
pub use create::{Session, SessionSpec, extend, is_standing};
pub use error::SessionError;
pub use kernel_mounts::{escape_option, kernel_mounts};
pub use mount::{PluginSearch, absolute_backend, find_plugin, resolve_mounts, resolve_mounts_over};
pub use mount_spec::{MountSpec, PluginSpec};
pub use open::OpenedSession;
pub(crate) use open::check_regular as check_trusted_file;
pub use pages::unwritten;
pub use rendezvous::{MountRoot, Rendezvous};
pub use run_directory::{RunDirectory, choose_run_directory};
pub use standing_table::StandingTable;
pub use sweep::{Swept, sweep_stale};

/// Names of what is in a session's folder.
pub mod names {
    /// Locked while the runner lives.
    pub const LOCK: &str = "session.lock";
    /// The configuration.
    pub const CONFIG: &str = "session";
    /// The shared memory.
    pub const ARENA: &str = "arena";
    /// The folder of what every process of the session may make, whatever privileges it has dropped; `id` is the arena's.
    pub fn shared(id: u128) -> String {
        format!("{id:032x}")
    }

    /// In the shared folder: shadows.
    pub const SLOTS: &str = "slots";
    /// Programs that are started from a mount.
    pub const EXEC: &str = "exec";
    /// In the shared folder: programs and libraries of processes that are other users by now, in a folder for each.
    pub const GUESTS: &str = "guests";
    /// In the shared folder: lock files.
    pub const LOCKS: &str = "locks";
    /// Sockets that are named on a mount. Not in the shared folder: the path of a socket has at most 108 bytes.
    pub const SOCKETS: &str = "sockets";
    /// An empty directory.
    pub const NULL: &str = "null";
    /// Pages of mapped files.
    pub const PAGES: &str = "pages";
    /// Lists of system call sites.
    pub const SITES: &str = "sites";
    /// A link to the command, as which programs are executed that are linked with musl.
    pub const HOST: &str = "host";
    /// The same for static programs.
    pub const HOST_OF_STATIC: &str = "host-of-static";
}

/// The variable of the environment that tells a process the folder of its session, an absolute path.
pub const SESSION_VARIABLE: &str = "DEFUSE_SESSION";

#[cfg(test)]
#[path = "session/session_tests.rs"]
mod tests;
