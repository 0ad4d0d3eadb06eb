//! Finding the library that is loaded into each process.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::failure::{Failure, RUN_FAILED};

/// File name of the library.
const NAME: &str = "libdefuse.so";
/// The variable that names the library when it is somewhere else.
const VARIABLE: &str = "DEFUSE_LIBRARY";

/// Absolute path of the library: `$DEFUSE_LIBRARY`, or beside this executable, in its `deps`, or in `../lib/defuse`.
///
/// # Errors
///
/// Says where it was looked for, or why what was found is not to be trusted.
pub fn find() -> Result<PathBuf, Failure> {
    let path = match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => std::path::absolute(&path).unwrap_or_else(|_| path.into()),
        None => search()?,
    };
    plugin_abi::trust::check(&path)
        .map_err(|error| Failure::new(RUN_FAILED, format!("will not load the interposer: {error}")))?;
    Ok(path)
}

fn search() -> Result<PathBuf, Failure> {
    let executable = env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(Path::new("/"));
    let places = [beside.to_path_buf(), beside.join("deps"), beside.join("../lib/defuse")];
    places.iter().map(|place| place.join(NAME)).find(|path| path.is_file()).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Failure::new(
            RUN_FAILED,
            format!("there is no {NAME} in {}; set {VARIABLE} to its path", places.join(", ")),
        )
    })
}

/// The value of `LD_PRELOAD` that loads `library` before what is preloaded already, `existing`.
///
/// `session` is the session's folder. The dynamic linker knows no way to write a space or a colon in a path; then a link in the session's folder stands for the library.
///
/// # Errors
///
/// When that link cannot be made, or has such a character in its own path.
pub fn preload(library: &Path, existing: Option<OsString>, session: &Path) -> Result<OsString, Failure> {
    let mut path = library.to_path_buf();
    if !can_be_preloaded(&path) {
        path = session.join(NAME);
        let linked = match symlink(library, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        };
        linked.map_err(|error| {
            Failure::new(RUN_FAILED, format!("cannot make the link {}: {error}", path.display()))
        })?;
        if !can_be_preloaded(&path) {
            let message =
                format!("cannot preload {}: there is a space or a colon in the path", path.display());
            return Err(Failure::new(RUN_FAILED, message));
        }
    }
    let mut value = path.into_os_string().into_vec();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        value.push(b':');
        value.extend(existing.into_vec());
    }
    Ok(OsString::from_vec(value))
}

fn can_be_preloaded(path: &Path) -> bool {
    !path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':' | b'$'))
}
