//! Where lines go.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::Level;

/// What a session's processes log, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogTarget {
    /// Lines above this level are not written.
    pub level: Level,
    /// Absolute path of the file that lines are appended to; the session's standard error when there is none.
    pub file: Option<PathBuf>,
    /// What the runner's standard error is, when `file` is `None`. A program may well put something else at FD 2, which lines must not
    /// get into; then they are written through `/proc/RUNNER/fd/2`.
    pub stderr: Option<RunnerStderr>,
}

/// The standard error of the process that started a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerStderr {
    /// Process id of the runner.
    pub runner: u32,
    /// What its FD 2 has open.
    pub inode: Inode,
}

/// Which inode: device and number, as `stat` reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl Inode {
    /// The inode that `fd` has open; `None` when it is not an open FD.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let stat = fstat(fd).ok()?;
        Some(Self { dev: stat.st_dev, ino: stat.st_ino })
    }
}

/// Writes one whole line, or drops it.
pub fn write(target: Option<&LogTarget>, line: &[u8]) {
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
    match target {
        Some(LogTarget { file: Some(file), .. }) => {
            let opened =
                openat(CWD, file, append | OFlags::CREATE | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR);
            if let Ok(opened) = opened {
                write_at_once(opened.as_fd(), line);
            }
        }
        Some(LogTarget { stderr: Some(expected), .. }) => {
            let own = rustix::stdio::stderr();
            if Inode::of(own) == Some(expected.inode) {
                return write_at_once(own, line);
            }
            let path = RunnerPath::new(expected.runner);
            if let Ok(opened) = openat(CWD, path.as_bytes(), append | OFlags::NONBLOCK, Mode::empty())
                && Inode::of(opened.as_fd()) == Some(expected.inode)
            {
                write_at_once(opened.as_fd(), line);
            }
        }
        _ => write_at_once(rustix::stdio::stderr(), line),
    }
}

fn write_at_once(fd: BorrowedFd<'_>, line: &[u8]) {
    // A second attempt for the rest of a line could mix with other processes' lines; there is nobody to tell of an error.
    let _ = rustix::io::write(fd, line);
}

/// `/proc/PID/fd/2`, without allocating.
struct RunnerPath {
    bytes: [u8; 32],
    used: usize,
}

impl RunnerPath {
    fn new(runner: u32) -> Self {
        let mut bytes = [0; 32];
        let mut room = &mut bytes[..];
        // The longest number has 10 digits, so this fits.
        let _ = std::io::Write::write_fmt(&mut room, format_args!("/proc/{runner}/fd/2"));
        let used = 32 - room.len();
        Self { bytes, used }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::{LogTarget, RunnerPath, write};
    use std::fs;
    use std::path::PathBuf;

    fn to_file(path: PathBuf) -> LogTarget {
        LogTarget { file: Some(path), ..LogTarget::default() }
    }

    #[test]
    fn lines_are_appended_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = to_file(folder.path().join("log"));
        write(Some(&target), b"one\n");
        write(Some(&target), b"two\n");
        assert_eq!(fs::read(target.file.unwrap()).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_link_in_the_file_s_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, b"").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join("log")).unwrap();
        write(Some(&to_file(folder.path().join("log"))), b"line\n");
        assert_eq!(fs::read(&victim).unwrap(), b"");
    }

    #[test]
    fn the_runner_s_standard_error_has_a_path() {
        assert_eq!(RunnerPath::new(u32::MAX).as_bytes(), b"/proc/4294967295/fd/2");
    }
}
