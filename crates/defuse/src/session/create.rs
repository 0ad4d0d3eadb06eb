//! Making a session's folder.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::config::SessionConfig;
use super::error::SessionError;
use super::names;
use super::remove::remove_folder;

/// The mode of the folder and of those in it: to be gone through by who knows the name, not to be listed.
const PASSABLE: Mode = Mode::from_raw_mode(0o711);
/// The configuration while it is being written.
const CONFIG_IN_THE_MAKING: &str = "session.new";
/// How the name of a standing session's folder ends: what a process is told is the folder's path, and it is to know this even when the
/// folder is gone.
const STANDING: &str = "-s";
/// How often another name is tried when a sweeper removed the folder while it was being made.
const ATTEMPTS: usize = 16;

/// What a session is to be.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// The directory that the folder is made in; see [`choose_run_directory`](super::choose_run_directory).
    pub base: PathBuf,
    /// What its processes are told.
    pub config: SessionConfig,
    /// Whether it is one that all of the user's processes join who are in none, for as long as its mounts stand.
    pub standing: bool,
    /// Whether files of a mount may be mapped by the pager: then processes look out for more system calls, which takes some of
    /// their start.
    pub pages: bool,
}

/// A session whose folder is ours. Dropping it leaves the folder for [`sweep_stale`](super::sweep_stale); [`remove`](Self::remove) takes
/// it away.
#[derive(Debug)]
pub struct Session {
    base: OwnedFd,
    folder: OwnedFd,
    path: PathBuf,
    /// Holds the lock that says that the runner lives. Inherited by fork, closed by exec.
    lock: OwnedFd,
}

impl Session {
    /// Makes the folder of a new session and fills it. `fill_arena` gets the new, empty arena file, open for reading and writing, and
    /// returns the arena's identifier.
    ///
    /// Processes can open the session once this returns; until then the folder has no configuration.
    ///
    /// # Errors
    ///
    /// Says which step failed; nothing is left behind then.
    pub fn create(
        spec: &SessionSpec,
        fill_arena: impl FnOnce(BorrowedFd<'_>) -> Result<u128, SessionError>,
    ) -> Result<Self, SessionError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = openat(rustix::fs::CWD, &spec.base, flags, Mode::empty())
            .map_err(|errno| SessionError::system("open the run directory", &spec.base, errno))?;
        let session = Self::claim_folder(base, spec)?;
        let filled = session.fill(spec, fill_arena);
        match filled {
            Ok(()) => Ok(session),
            Err(error) => {
                // The first error is the one to tell; what cannot be removed is left to the sweep.
                let _ = session.remove();
                Err(error)
            }
        }
    }

    /// The folder, open for going through and for listing.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Absolute path of the folder, if that of the run directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The FDs that keep this session ours; no others are needed to remove it.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.base.as_fd(), self.folder.as_fd(), self.lock.as_fd()]
    }

    /// Removes the folder with all that is in it. No process of the session may live.
    ///
    /// # Errors
    ///
    /// Names what could not be removed; the rest may be gone already.
    pub fn remove(self) -> Result<(), SessionError> {
        remove_folder(self.base.as_fd(), self.folder.as_fd(), &self.path)
    }

    /// Makes a folder of a new name and takes its lock.
    fn claim_folder(base: OwnedFd, spec: &SessionSpec) -> Result<Self, SessionError> {
        for _ in 0..ATTEMPTS {
            let name = new_name(spec.standing)?;
            let path = spec.base.join(&name);
            let failed = |verb: &str, errno| SessionError::system(verb, &path, errno);
            mkdirat(&base, &name, Mode::RWXU).map_err(|errno| failed("create the folder", errno))?;
            // From here on a sweeper may meet a folder that nobody has locked and take it away. Whoever of us has the lock first
            // has the folder; that the lock file has lost its name tells that it was the other.
            match open_locked(base.as_fd(), &name) {
                Ok((folder, lock)) => return Ok(Self { base, folder, path, lock }),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let _ = unlinkat(&base, &name, AtFlags::REMOVEDIR);
                    return Err(failed("lock the folder", errno));
                }
            }
        }
        Err(SessionError::system("create a folder in", &spec.base, Errno::AGAIN))
    }

    fn fill(
        &self,
        spec: &SessionSpec,
        fill_arena: impl FnOnce(BorrowedFd<'_>) -> Result<u128, SessionError>,
    ) -> Result<(), SessionError> {
        // Modes are set by fchmod, as the umask would take bits from those given at creation.
        fchmod(&self.folder, PASSABLE)
            .map_err(|errno| SessionError::system("set the mode of", &self.path, errno))?;
        for name in [names::EXEC, names::NULL, names::SITES] {
            self.make_directory(name, PASSABLE)?;
        }
        // A process that drops its privileges still makes sockets; nobody can remove or list what others made. The paths of
        // sockets are too short for the shared folder.
        self.make_directory(names::SOCKETS, Mode::from_raw_mode(0o1733))?;

        let arena = self.make_file(names::ARENA, Mode::RUSR | Mode::WUSR)?;
        let id = fill_arena(arena.as_fd())?;

        // A process that drops its privileges still makes shadows, lock files and copies. Anybody may see the folder's name in the run
        // directory, but only who has the arena knows the way to these; and nobody can remove or list what others made.
        let shared = names::shared(id);
        self.make_directory(&shared, PASSABLE)?;
        let pages = spec.pages.then_some(names::PAGES);
        for name in [names::SLOTS, names::LOCKS, names::GUESTS].into_iter().chain(pages) {
            self.make_directory(&format!("{shared}/{name}"), Mode::from_raw_mode(0o1733))?;
        }

        write_config(self.folder.as_fd(), &self.path, &spec.config)
    }

    fn make_directory(&self, name: &str, mode: Mode) -> Result<(), SessionError> {
        make_directory(self.folder.as_fd(), &self.path, name, mode)
    }

    fn make_file(&self, name: &str, mode: Mode) -> Result<OwnedFd, SessionError> {
        make_file(self.folder.as_fd(), &self.path, name, mode)
    }
}

/// Gives the session in `folder`, whose path is `path`, the configuration `config` in place of what it had: more mounts behind those that were
/// there. Processes find one or the other. The caller sees to it that nobody else does the same, and that the folder is not removed meanwhile.
///
/// # Errors
///
/// When it cannot be written; it is then as it was.
pub fn extend(
    folder: BorrowedFd<'_>,
    path: &Path,
    config: &SessionConfig,
    pages: bool,
) -> Result<(), SessionError> {
    // What is left of who was killed here.
    match unlinkat(folder, CONFIG_IN_THE_MAKING, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(SessionError::system("tidy up", path, errno)),
    }
    if pages {
        let file = openat(folder, names::ARENA, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(|errno| SessionError::system("open the arena of", path, errno))?;
        let arena = stash::Arena::open(file.as_fd()).map_err(|error| SessionError::Arena {
            attempted: "map the session's arena".into(),
            why: error.to_string(),
        })?;
        let pages = format!("{}/{}", names::shared(arena.session_id()), names::PAGES);
        match make_directory(folder, path, &pages, Mode::from_raw_mode(0o1733)) {
            Err(error) if error.errno() != Some(Errno::EXIST) => return Err(error),
            _ => {}
        }
    }
    write_config(folder, path, config)
}

fn write_config(folder: BorrowedFd<'_>, path: &Path, config: &SessionConfig) -> Result<(), SessionError> {
    let new = make_file(folder, path, CONFIG_IN_THE_MAKING, Mode::from_raw_mode(0o644))?;
    let failed = |verb, errno| SessionError::system(verb, &path.join(names::CONFIG), errno);
    write_all(new.as_fd(), config.to_text().as_bytes()).map_err(|errno| failed("write", errno))?;
    renameat(folder, CONFIG_IN_THE_MAKING, folder, names::CONFIG)
        .map_err(|errno| failed("move into place", errno))
}

fn make_directory(folder: BorrowedFd<'_>, path: &Path, name: &str, mode: Mode) -> Result<(), SessionError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mkdirat(folder, name, Mode::RWXU)
        .and_then(|()| fchmod(openat(folder, name, flags, Mode::empty())?, mode))
        .map_err(|errno| SessionError::system("create the directory", &path.join(name), errno))
}

fn make_file(folder: BorrowedFd<'_>, path: &Path, name: &str, mode: Mode) -> Result<OwnedFd, SessionError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, mode)
        .and_then(|file| fchmod(&file, mode).map(|()| file))
        .map_err(|errno| SessionError::system("create the file", &path.join(name), errno))
}

/// `defuse-UID-` and 32 hexadecimal digits from the kernel's generator; at the end [`STANDING`], if it is that.
fn new_name(standing: bool) -> Result<String, SessionError> {
    let mut random = [0; 16];
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    if !matches!(got, Ok(16)) {
        let errno = got.err().unwrap_or(Errno::IO);
        return Err(SessionError::System { attempted: "get 16 random bytes".into(), errno });
    }
    let uid = rustix::process::geteuid().as_raw();
    let end = if standing { STANDING } else { "" };
    Ok(format!("{}{:032x}{end}", name_prefix(uid), u128::from_ne_bytes(random)))
}

/// What the names of `uid`'s session folders begin with.
pub fn name_prefix(uid: u32) -> String {
    format!("defuse-{uid}-")
}

/// Whether `name` is that of a session folder of `uid`.
pub fn is_session_name(name: &[u8], uid: u32) -> bool {
    name.strip_prefix(name_prefix(uid).as_bytes()).is_some_and(|rest| {
        let digits = rest.strip_suffix(STANDING.as_bytes()).unwrap_or(rest);
        digits.len() == 32 && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether the session whose folder is at `path` is one that stands as long as its mounts do, by the name.
pub fn is_standing(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(STANDING.as_bytes())
}

/// Opens the folder and takes its lock. `NOENT` when a sweeper was faster.
fn open_locked(base: BorrowedFd<'_>, name: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
    let folder = open_folder(base, name.as_bytes())?;
    let lock = open_lock(folder.as_fd())?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if fstat(&lock)?.st_nlink == 0 { Err(Errno::NOENT) } else { Ok((folder, lock)) }
}

/// Opens a session's folder, never through a symbolic link.
pub fn open_folder(base: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(base, name, flags, Mode::empty())
}

/// Opens the lock file of a folder, making it if there is none.
pub fn open_lock(folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, names::LOCK, flags, Mode::RUSR | Mode::WUSR)
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
