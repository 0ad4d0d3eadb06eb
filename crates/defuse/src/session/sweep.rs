//! Removing what killed runners left behind.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::create::{is_session_name, open_folder, open_lock};
use super::error::SessionError;
use super::remove::remove_folder;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Folders that were removed.
    pub removed: Vec<PathBuf>,
    /// Folders that should have been removed, and why they were not.
    pub failed: Vec<SessionError>,
}

/// Removes the session folders of the effective user in `base` whose runner is dead and in which no process lives.
///
/// The runner's life is known by the lock on the folder; whether other processes live, `is_alive` says of a folder, whose lock is held meanwhile. A folder of which it
/// cannot say so is kept. Any number of sweeps may run at once.
pub fn sweep_stale(
    base: &Path,
    mut is_alive: impl FnMut(BorrowedFd<'_>) -> Result<bool, SessionError>,
) -> Result<Swept, SessionError> {
    let failed = |errno| SessionError::system("list the run directory", base, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base_fd = openat(CWD, base, flags, Mode::empty()).map_err(failed)?;
    let uid = geteuid().as_raw();
    let mut swept = Swept::default();
    for entry in Dir::read_from(&base_fd).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if !is_session_name(name, uid) {
            continue;
        }
        let path = base.join(std::ffi::OsStr::from_bytes(name));
        match sweep_one(base_fd.as_fd(), &path, uid, &mut is_alive) {
            Ok(true) => swept.removed.push(path),
            Ok(false) => {}
            Err(error) => swept.failed.push(error),
        }
    }
    Ok(swept)
}

/// Removes one folder if it is stale; says whether it did.
fn sweep_one(
    base: BorrowedFd<'_>,
    path: &Path,
    uid: u32,
    is_alive: &mut impl FnMut(BorrowedFd<'_>) -> Result<bool, SessionError>,
) -> Result<bool, SessionError> {
    let failed = |errno| SessionError::system("sweep the session folder", path, errno);
    let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    let folder = match open_folder(base, name) {
        Ok(folder) => folder,
        // Another sweep was faster; or something that no session of ours looks like.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    };
    if fstat(&folder).map_err(failed)?.st_uid != uid {
        return Ok(false);
    }
    let lock = match open_lock(folder.as_fd()) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    }
    if fstat(&lock).map_err(failed)?.st_nlink == 0 {
        // Removed between our opening and our locking it. A directory that is gone takes no new files, so there is nothing to undo, but
        // an unfinished removal may have left the empty folder.
        let _ = unlinkat(base, name, AtFlags::REMOVEDIR);
        return Ok(false);
    }
    if is_alive(folder.as_fd())? {
        return Ok(false);
    }
    remove_folder(base, folder.as_fd(), path)?;
    Ok(true)
}
