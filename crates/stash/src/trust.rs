//! Whose file is believed.

use rustix::fd::BorrowedFd;
use rustix::fs::FileType;

use crate::StashError;
use crate::error::Doing;

/// Refuses a file that is not a regular one, that belongs neither to root nor to the effective user, or that group or
/// others may write.
pub fn check_trusted(fd: BorrowedFd<'_>) -> Result<(), StashError> {
    let stat = rustix::fs::fstat(fd).doing("examining the arena file")?;
    let ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if !ours || stat.st_mode & 0o022 != 0 || !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(StashError::Untrusted { uid: stat.st_uid, mode: stat.st_mode });
    }
    Ok(())
}
