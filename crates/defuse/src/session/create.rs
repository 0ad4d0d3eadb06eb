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
/// How often another name is tried when a sweeper removed the folder while it was being made.
const ATTEMPTS: usize = 16;

/// What a session is to be.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// The directory that the folder is made in; see [`choose_run_directory`](super::choose_run_directory).
    pub base: PathBuf,
    /// What its processes are told.
    pub config: SessionConfig,
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
        let session = Self::claim_folder(base, &spec.base)?;
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
    fn claim_folder(base: OwnedFd, base_path: &Path) -> Result<Self, SessionError> {
        for _ in 0..ATTEMPTS {
            let name = new_name()?;
            let path = base_path.join(&name);
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
        Err(SessionError::system("create a folder in", base_path, Errno::AGAIN))
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

        let text = spec.config.to_text();
        let new = self.make_file(CONFIG_IN_THE_MAKING, Mode::from_raw_mode(0o644))?;
        let failed = |verb, errno| SessionError::system(verb, &self.path.join(names::CONFIG), errno);
        write_all(new.as_fd(), text.as_bytes()).map_err(|errno| failed("write", errno))?;
        renameat(&self.folder, CONFIG_IN_THE_MAKING, &self.folder, names::CONFIG)
            .map_err(|errno| failed("move into place", errno))
    }

    fn make_directory(&self, name: &str, mode: Mode) -> Result<(), SessionError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        mkdirat(&self.folder, name, Mode::RWXU)
            .and_then(|()| fchmod(openat(&self.folder, name, flags, Mode::empty())?, mode))
            .map_err(|errno| SessionError::system("create the directory", &self.path.join(name), errno))
    }

    fn make_file(&self, name: &str, mode: Mode) -> Result<OwnedFd, SessionError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.folder, name, flags, mode)
            .and_then(|file| fchmod(&file, mode).map(|()| file))
            .map_err(|errno| SessionError::system("create the file", &self.path.join(name), errno))
    }
}

/// `defuse-UID-` and 32 hexadecimal digits from the kernel's generator.
fn new_name() -> Result<String, SessionError> {
    let mut random = [0; 16];
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    if !matches!(got, Ok(16)) {
        let errno = got.err().unwrap_or(Errno::IO);
        return Err(SessionError::System { attempted: "get 16 random bytes".into(), errno });
    }
    let uid = rustix::process::geteuid().as_raw();
    Ok(format!("{}{:032x}", name_prefix(uid), u128::from_ne_bytes(random)))
}

/// What the names of `uid`'s session folders begin with.
pub fn name_prefix(uid: u32) -> String {
    format!("defuse-{uid}-")
}

/// Whether `name` is that of a session folder of `uid`.
pub fn is_session_name(name: &[u8], uid: u32) -> bool {
    name.strip_prefix(name_prefix(uid).as_bytes()).is_some_and(|digits| {
        digits.len() == 32 && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
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
