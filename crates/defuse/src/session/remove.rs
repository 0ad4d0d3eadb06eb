//! Removing a session's folder.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::error::SessionError;
use super::names;

/// Removes the folder at `path` in `base` and all that is in it. The caller holds the folder's lock.
///
/// The configuration goes first, so that no process finds half a session, and the lock file last, so that whoever waits for the lock
/// sees that the folder is gone.
pub fn remove_folder(base: BorrowedFd<'_>, folder: BorrowedFd<'_>, path: &Path) -> Result<(), SessionError> {
    let failed = |errno| SessionError::system("remove the session folder", path, errno);
    ignore_absent(unlinkat(folder, names::CONFIG, AtFlags::empty())).map_err(failed)?;
    remove_content(folder, names::LOCK.as_bytes()).map_err(failed)?;
    ignore_absent(unlinkat(folder, names::LOCK, AtFlags::empty())).map_err(failed)?;
    let name = path.file_name().map(OsStrExt::as_bytes).ok_or(failed(Errno::INVAL))?;
    match ignore_absent(unlinkat(base, name, AtFlags::REMOVEDIR)) {
        // Somebody made a lock file anew once ours had gone: a sweeper or a runner, who now has the folder and sees to it.
        Err(Errno::NOTEMPTY) => Ok(()),
        removed => removed.map_err(failed),
    }
}

/// Removes what is in `directory`, but for the entry `keep`.
fn remove_content(directory: BorrowedFd<'_>, keep: &[u8]) -> Result<(), Errno> {
    for (name, is_directory) in entries(directory)? {
        if name.to_bytes() == keep {
            continue;
        }
        if !is_directory {
            ignore_absent(unlinkat(directory, &name, AtFlags::empty()))?;
            continue;
        }
        // Most directories are shadows, which are empty.
        match ignore_absent(unlinkat(directory, &name, AtFlags::REMOVEDIR)) {
            Err(Errno::NOTEMPTY) => remove_directory(directory, &name)?,
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    remove_content(directory.as_fd(), b"")?;
    ignore_absent(unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// The names in `directory` but for `.` and `..`, and which are directories. Read in full before anything is removed, as removing while reading may
/// skip entries.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(CString, bool)>, Errno> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            all.push((name.to_owned(), entry.file_type() == FileType::Directory));
        }
    }
    Ok(all)
}

/// That something is gone already is as good as removing it.
fn ignore_absent(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
