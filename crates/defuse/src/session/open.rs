//! How a process finds its session.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::config::SessionConfig;
use super::error::SessionError;
use super::{names, trust};

/// The longest configuration that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// A session as one of its processes sees it.
#[derive(Debug)]
pub struct OpenedSession {
    /// What the runner wrote.
    pub config: SessionConfig,
    /// The folder, opened `O_PATH`: what else is needed is opened relative to it, so that it is this folder that was checked.
    pub folder: OwnedFd,
}

impl OpenedSession {
    /// Opens the session whose folder is at `path`, an absolute path. Folder, configuration and arena must belong to root or to the effective user, and
    /// nobody else may be able to write them.
    ///
    /// Called at the start of each process: seven system calls.
    ///
    /// # Errors
    ///
    /// Says what could not be opened, is not to be trusted, or is not valid.
    pub fn open(path: &Path) -> Result<Self, SessionError> {
        if !path.is_absolute() {
            return Err(SessionError::Untrusted {
                path: path.into(),
                why: "its path is not absolute".into(),
            });
        }
        // O_PATH: a process that has dropped its privileges may go through the folder but not read it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| SessionError::system("open the session folder", path, errno))?;
        let stat = fstat(&folder).map_err(|errno| SessionError::system("look at", path, errno))?;
        trust::check(path, &stat)?;

        let config_path = path.join(names::CONFIG);
        let text = read_config(folder.as_fd(), &config_path)?;
        let config = SessionConfig::parse(&text)?;

        let arena_path = path.join(names::ARENA);
        let stat = statat(&folder, names::ARENA, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| SessionError::system("look at", &arena_path, errno))?;
        check_regular(&arena_path, &stat)?;
        Ok(Self { config, folder })
    }
}

fn read_config(folder: BorrowedFd<'_>, path: &Path) -> Result<Vec<u8>, SessionError> {
    let failed = |verb: &str, errno| SessionError::system(verb, path, errno);
    // O_NONBLOCK: something else than a file in its place must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, names::CONFIG, flags, Mode::empty()).map_err(|errno| failed("open", errno))?;
    let stat = fstat(&file).map_err(|errno| failed("look at", errno))?;
    check_regular(path, &stat)?;
    let size = stat.st_size as usize;
    if size > LONGEST {
        return Err(SessionError::config(0, "it is longer than a megabyte"));
    }
    let mut text = vec![0; size];
    // The file is never changed once it has its name, so it is read by one call; the parser notices if anything is missing.
    let read = loop {
        match rustix::io::read(&file, &mut text[..]) {
            Err(Errno::INTR) => {}
            other => break other.map_err(|errno| failed("read", errno))?,
        }
    };
    text.truncate(read);
    Ok(text)
}

/// Refuses what is not a regular file, or not to be trusted.
pub fn check_regular(path: &Path, stat: &Stat) -> Result<(), SessionError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SessionError::Untrusted { path: path.into(), why: "it is not a regular file".into() });
    }
    trust::check(path, stat)
}
