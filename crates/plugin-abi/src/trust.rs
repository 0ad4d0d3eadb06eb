//! Whether a plugin file may be loaded: its owner and mode.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a file is not trusted.
#[derive(Debug)]
pub enum TrustError {
    /// It cannot be examined.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a regular file.
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to somebody who is neither root nor the effective user.
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Its group or everybody may write to it.
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Refuses a file that somebody other than root and the effective user could have written.
///
/// Symbolic links are followed to the file. The directories above it are the caller's business.
pub fn check(path: &Path) -> Result<(), TrustError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| TrustError::Unreadable { path: path.to_owned(), source })?;
    check_metadata(path, &metadata, rustix::process::geteuid().as_raw())
}

/// As [`check`], on what is known of the file, for the user `euid`.
pub fn check_metadata(path: &Path, metadata: &Metadata, euid: u32) -> Result<(), TrustError> {
    let path = || path.to_owned();
    if !metadata.is_file() {
        Err(TrustError::NotAFile { path: path() })
    } else if metadata.uid() != 0 && metadata.uid() != euid {
        Err(TrustError::Owner { path: path(), uid: metadata.uid() })
    } else if metadata.mode() & 0o022 != 0 {
        Err(TrustError::Writable { path: path(), mode: metadata.mode() & 0o7777 })
    } else {
        Ok(())
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => write!(f, "cannot examine {}: {source}", path.display()),
            Self::NotAFile { path } => write!(f, "{} is not a regular file", path.display()),
            Self::Owner { path, uid } => {
                write!(f, "{} belongs to user {uid}, who is neither root nor you", path.display())
            }
            Self::Writable { path, mode } => {
                write!(f, "{} may be written by others (mode {mode:04o}): chmod go-w it", path.display())
            }
        }
    }
}

impl std::error::Error for TrustError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Unreadable { source, .. } = self { Some(source) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::{TrustError, check, check_metadata};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn own_files_are_trusted_unless_others_may_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o755);
        assert!(check(file.path()).is_ok());
        for mode in [0o775, 0o757, 0o622] {
            set(mode);
            assert!(matches!(check(file.path()), Err(TrustError::Writable { mode: m, .. }) if m == mode));
        }
    }

    #[test]
    fn a_strangers_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let stranger = metadata.uid() + 1;
        let answer = check_metadata(file.path(), &metadata, stranger);
        // A file of root's is everybody's to load.
        assert_eq!(answer.is_ok(), metadata.uid() == 0);
        assert!(check(std::path::Path::new("/")).is_err());
    }
}
