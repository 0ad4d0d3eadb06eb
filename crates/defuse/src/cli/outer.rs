//! The command inside a session: it goes outside first, to be what it is everywhere, and takes along where the session is.
//!
//! Inside, what it asks the kernel about mount points, plugins and back ends would be answered by the session's mounts, and the processes that it starts would be put into that session. It
//! goes by executing itself; the library sees to it that the image is in no session (`defuse_leave_session`).

use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_void};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use defuse::log::{self, Level};
use defuse::session::{Mount, OpenedSession};

use super::environment;
use super::failure::{Failure, RUN_FAILED};

/// The folder of the session that this command came from.
const SESSION: &str = "DEFUSE_OUTER_SESSION";
/// The working directory, if that lies on a mount of that session.
const DIRECTORY: &str = "DEFUSE_OUTER_DIRECTORY";

/// The session in which the command was started.
#[derive(Debug, Default)]
pub struct Outer {
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The working directory, if that lies on one of them.
    pub directory: Option<PathBuf>,
    /// Its folder; empty where there was none.
    folder: PathBuf,
}

impl Outer {
    /// Says so if standard input, output or error is a file of that session: the program gets errors from it.
    pub fn tell_of_standard_files(&self) {
        if self.folder.as_os_str().is_empty() {
            return;
        }
        for (number, name) in ["input", "output", "error"].iter().enumerate() {
            if fs::read_link(format!("/proc/self/fd/{number}"))
                .is_ok_and(|path| path.starts_with(&self.folder))
            {
                log::line(
                    Level::Warn,
                    format_args!(
                        "standard {name} is a file on a mount of the session outside, in which 'defuse run' was started: to the program it gives errors"
                    ),
                );
            }
        }
    }
}

/// Goes outside. Returns in a process that is in no session, which has been in one or not.
///
/// # Errors
///
/// When the session cannot be left or read.
pub fn leave() -> Result<Option<Outer>, Failure> {
    let failed = |what: String| Failure::new(RUN_FAILED, what);
    let Some(folder) = leave_session() else {
        let Some(folder) = env::var_os(SESSION) else { return Ok(None) };
        let session = OpenedSession::open(Path::new(&folder)).map_err(|error| {
            failed(format!("cannot take the mounts of the session outside along: {error}"))
        })?;
        let directory = env::var_os(DIRECTORY).map(PathBuf::from);
        return Ok(Some(Outer { mounts: session.config.mounts, directory, folder: folder.into() }));
    };
    if env::var_os(SESSION).is_some() {
        return Err(failed("cannot leave the session outside: its library stays in the command".into()));
    }
    let session = OpenedSession::open(Path::new(&folder))
        .map_err(|error| failed(format!("cannot leave the session outside: {error}")))?;
    let directory = env::current_dir()
        .ok()
        .filter(|directory| session.config.mounts.iter().any(|mount| directory.starts_with(&mount.point)));
    drop(session);
    let mut changes = vec![(SESSION, folder.as_os_str())];
    changes.extend(directory.as_ref().map(|directory| (DIRECTORY, directory.as_os_str())));
    let environment = environment::with(env::vars_os(), &changes);
    let c_string = |word: OsString| CString::new(word.into_vec()).unwrap_or_default();
    let words: Vec<CString> = env::args_os().map(c_string).collect();
    let command = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let errno = nix::unistd::execve(&c_string(command.into_os_string()), &words, &environment)
        .map_or_else(|errno| errno, |never| match never {});
    Err(failed(format!("cannot leave the session outside: {}", errno.desc())))
}

/// Whether the variable `name` is for the command alone.
pub fn is_ours(name: &OsStr) -> bool {
    name == SESSION || name == DIRECTORY
}

/// Tells the library, if it is in this process, that the next image is to be outside. Returns the session's folder.
fn leave_session() -> Option<OsString> {
    type Leave = extern "C" fn() -> *const c_char;
    // SAFETY: looks for a name, which only the preloaded library has; its function returns null or a C string that stays.
    unsafe {
        let leave: *mut c_void = libc::dlsym(libc::RTLD_DEFAULT, c"defuse_leave_session".as_ptr());
        if leave.is_null() {
            return None;
        }
        let folder = std::mem::transmute::<*mut c_void, Leave>(leave)();
        (!folder.is_null()).then(|| OsStr::from_bytes(CStr::from_ptr(folder).to_bytes()).to_owned())
    }
}
