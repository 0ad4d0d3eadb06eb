//! From what the user asks for to what is mounted: finding plugins and checking mount points. Used by the runner only.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::config::{Mount, Shadows};
use super::error::SessionError;
use super::mount_spec::MountSpec;
use crate::log::Inode;

/// Where plugins are looked for by name.
#[derive(Debug, Clone, Default)]
pub struct PluginSearch {
    /// Directories, the first that has it wins.
    pub directories: Vec<PathBuf>,
}

impl PluginSearch {
    /// The directories of `$DEFUSE_PLUGIN_PATH` (colons between them), then that of the executable, its `deps` (where cargo puts what it builds for tests), and
    /// `../lib/defuse` as seen from there.
    pub fn new(path_variable: Option<&OsStr>, executable: Option<&Path>) -> Self {
        let wanted = path_variable.map(std::env::split_paths).into_iter().flatten();
        let mut directories: Vec<PathBuf> = wanted.filter(|path| !path.as_os_str().is_empty()).collect();
        if let Some(beside) = executable.and_then(Path::parent) {
            directories.push(beside.into());
            directories.push(beside.join("deps"));
            if let Some(prefix) = beside.parent() {
                directories.push(prefix.join("lib/defuse"));
            }
        }
        Self { directories }
    }
}

/// The absolute path of the plugin `library`: itself if there is a slash in it, else `libNAME.so` (with `_` for `-`, as cargo names
/// it, too) in one of the directories of `search`.
///
/// # Errors
///
/// Says where it was looked for; or why the file found is not to be trusted.
pub fn find_plugin(library: &OsStr, search: &PluginSearch) -> Result<PathBuf, SessionError> {
    let path = if library.as_bytes().contains(&b'/') {
        fs::canonicalize(library)
            .map_err(|error| SessionError::system("find the plugin", Path::new(library), errno_of(&error)))?
    } else {
        search_plugin(library, search)?
    };
    plugin_abi::trust::check(&path).map_err(|error| SessionError::Mount {
        spec: format!("plugin '{}'", library.display()),
        why: error.to_string(),
    })?;
    Ok(path)
}

fn search_plugin(library: &OsStr, search: &PluginSearch) -> Result<PathBuf, SessionError> {
    let mut as_given = OsString::from("lib");
    as_given.push(library);
    as_given.push(".so");
    let with_underscores: Vec<u8> =
        as_given.as_bytes().iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect();
    for directory in &search.directories {
        for name in [as_given.as_os_str(), OsStr::from_bytes(&with_underscores)] {
            if let Ok(path) = fs::canonicalize(directory.join(name))
                && path.is_file()
            {
                return Ok(path);
            }
        }
    }
    let places: Vec<String> =
        search.directories.iter().map(|directory| directory.display().to_string()).collect();
    Err(SessionError::Mount {
        spec: format!("plugin '{}'", library.display()),
        why: format!(
            "there is no {} in {}; give its path, or set DEFUSE_PLUGIN_PATH",
            as_given.display(),
            places.join(", ")
        ),
    })
}

/// Checks all mounts of a session and finds their plugins.
///
/// A point must be an empty directory that is neither `/` nor around `run_directory`, and no two may be the same. A point inside an earlier mount is taken as it is
/// written, since it exists on that mount only.
///
/// A relative back end that names something that exists is made absolute, as processes of the session have other working directories.
///
/// # Errors
///
/// The first mount that cannot be made, and why.
pub fn resolve_mounts(
    specs: &[MountSpec],
    search: &PluginSearch,
    run_directory: &Path,
) -> Result<Vec<Mount>, SessionError> {
    resolve_mounts_over(specs, &[], search, run_directory)
}

/// The same where `below` is mounted already: a point may lie inside one of these, or be the same, which is then covered.
///
/// # Errors
///
/// As [`resolve_mounts`].
pub fn resolve_mounts_over(
    specs: &[MountSpec],
    below: &[Mount],
    search: &PluginSearch,
    run_directory: &Path,
) -> Result<Vec<Mount>, SessionError> {
    let mut mounts: Vec<Mount> = Vec::new();
    for spec in specs {
        let wrong = |why: String| SessionError::Mount { spec: spec.to_string(), why };
        let (point, hidden) = resolve_point(&spec.point, below, &mounts).map_err(&wrong)?;
        if let Some(other) = mounts.iter().find(|other| other.point == point) {
            return Err(wrong(format!("{} is a mount point already", other.point.display())));
        }
        if hidden.is_some() && fs::canonicalize(run_directory).is_ok_and(|run| run.starts_with(&point)) {
            let run = run_directory.display();
            return Err(wrong(format!(
                "sessions are kept in {run}; set DEFUSE_RUN_DIR to another directory"
            )));
        }
        let backend = absolute_backend(&spec.plugin.backend);
        if fs::canonicalize(&backend).is_ok_and(|backend| backend == point) {
            return Err(wrong("the back end is the mount point itself, which must stay empty".into()));
        }
        let library = find_plugin(&spec.plugin.library, search)?;
        mounts.push(Mount {
            point,
            library,
            backend,
            options: spec.plugin.options.clone(),
            hidden,
            shadows: Shadows::Folder,
        });
    }
    Ok(mounts)
}

/// The canonical path of a mount point and the directory it hides, or why it cannot be one.
fn resolve_point(
    point: &Path,
    below: &[Mount],
    earlier: &[Mount],
) -> Result<(PathBuf, Option<Inode>), String> {
    let canonical = match fs::canonicalize(point) {
        Ok(canonical) => canonical,
        Err(error) => {
            if let Some(nested) = inside_earlier(point, below, earlier) {
                return Ok((nested, None));
            }
            let hint = if error.kind() == io::ErrorKind::NotFound { " (mkdir it first)" } else { "" };
            return Err(format!("the mount point: {}{hint}", describe(&error)));
        }
    };
    if canonical == Path::new("/") {
        return Err("the root directory cannot be a mount point".into());
    }
    let metadata =
        fs::metadata(&canonical).map_err(|error| format!("the mount point: {}", describe(&error)))?;
    if !metadata.is_dir() {
        return Err("the mount point is not a directory".into());
    }
    let mut entries =
        fs::read_dir(&canonical).map_err(|error| format!("the mount point: {}", describe(&error)))?;
    if entries.next().is_some() {
        return Err(
            "the mount point is not empty: what is in it would be hidden, or mistaken for what is served"
                .into(),
        );
    }
    Ok((canonical, Some(Inode { dev: metadata.dev(), ino: metadata.ino() })))
}

/// `point` in its absolute form if it lies inside an earlier mount: by its components, which must not be `..`.
fn inside_earlier(point: &Path, below: &[Mount], earlier: &[Mount]) -> Option<PathBuf> {
    let absolute = std::path::absolute(point).ok()?;
    let plain = absolute.components().all(|component| component != Component::ParentDir);
    // The part outside the mount may go through symbolic links, so each of its beginnings is tried.
    let inside = absolute.ancestors().skip(1).find_map(|beginning| {
        let canonical = fs::canonicalize(beginning).ok()?;
        let rest = absolute.strip_prefix(beginning).ok()?;
        Some(canonical.join(rest))
    })?;
    let is_inside = earlier.iter().any(|mount| inside.starts_with(&mount.point) && inside != mount.point)
        || below.iter().any(|mount| inside.starts_with(&mount.point));
    (plain && is_inside).then_some(inside)
}

/// A back end as processes with another working directory understand it: absolute if it is relative and names something that exists, else as it is.
pub fn absolute_backend(backend: &OsStr) -> OsString {
    let path = Path::new(backend);
    if backend.is_empty() || path.is_absolute() || fs::symlink_metadata(path).is_err() {
        return backend.into();
    }
    std::path::absolute(path).map_or_else(|_| backend.into(), PathBuf::into_os_string)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn describe(error: &io::Error) -> String {
    crate::errno::describe(errno_of(error))
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
