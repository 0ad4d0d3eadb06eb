//! What killed processes stored to mapped files and nobody has written back, at the end of a session: a process of the session opens these files,
//! which does it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use defuse::log::{self, Level};
use defuse::session::{SESSION_VARIABLE, unwritten};

use super::arguments::WRITE_BACK_INSIDE;
use super::library;

/// Paths handed to one process, so that they fit on its command line.
const AT_ONCE: usize = 128;

/// Writes back what is left of the session at `folder`, in which no process lives. That this fails is logged.
pub fn write_back(folder: &Path, library: &Path) {
    let left = || {
        unwritten(folder).unwrap_or_else(|error| {
            log::line(Level::Warn, format_args!("{error}"));
            Vec::new()
        })
    };
    let paths = left();
    if paths.is_empty() {
        return;
    }
    match library::preload(library, None, folder) {
        Ok(preload) => paths.chunks(AT_ONCE).for_each(|paths| open_inside(folder, &preload, paths)),
        Err(failure) => log::line(Level::Warn, format_args!("{failure}")),
    }
    for path in left() {
        log::line(
            Level::Warn,
            format_args!("what was stored to the mapped file {} cannot be written back", path.display()),
        );
    }
}

fn open_inside(folder: &Path, preload: &OsStr, paths: &[PathBuf]) {
    let status = Command::new("/proc/self/exe")
        .arg(WRITE_BACK_INSIDE)
        .args(paths)
        .env("LD_PRELOAD", preload)
        .env(SESSION_VARIABLE, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if let Err(error) = status {
        log::line(Level::Warn, format_args!("cannot start a process that writes back: {error}"));
    }
}

/// Opens files and syncs them. This process is in the session, where that writes back what killed processes left; the latter also what somebody is taken to
/// use still, a child that was expected as its parent was killed. Returns the exit status.
pub fn inside(paths: &[OsString]) -> i32 {
    for path in paths {
        // That it did not work is seen by what is left.
        let _ = File::open(path).and_then(|file| file.sync_all());
    }
    0
}
