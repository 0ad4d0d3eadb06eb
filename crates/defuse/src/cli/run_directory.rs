//! Where sessions are kept, as the environment says.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use defuse::session::{RunDirectory, choose_run_directory};

/// `$DEFUSE_RUN_DIR`, if it says anything.
pub fn wanted() -> Option<OsString> {
    env::var_os("DEFUSE_RUN_DIR").filter(|path| !path.is_empty())
}

/// The directory that this log-in has.
pub fn runtime() -> Option<OsString> {
    env::var_os("XDG_RUNTIME_DIR")
}

/// That of the sessions of `defuse run`.
pub fn of_runs() -> RunDirectory {
    choose_run_directory(wanted().as_deref(), runtime().as_deref())
}

/// That of standing sessions: not the one that a log-in has, as processes of the user live longer.
pub fn of_standing_sessions() -> PathBuf {
    choose_run_directory(wanted().as_deref(), None).path
}
