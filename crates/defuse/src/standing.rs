//! Programs that nobody told of a session, on mounts of the kernel module: started with the library preloaded (`LD_PRELOAD`, `/etc/ld.so.preload`) and
//! not by `defuse run`.
//!
//! They join the *standing* session of their user, which the mounts lead to (see [`Rendezvous`](session::Rendezvous)). If there is none, or it does not know a mount
//! that stands here, the command is started, which makes it or adds the mount. So a process does work that takes long only when it is the first;
//! the others read mountinfo and open the session's folder. What stands *here*, in this process's name space, is what it serves.
//!
//! A standing session is one user's: who changes his identity joins another one at his next exec.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as sys;
use rustix::fs::{FlockOperation, Mode, OFlags, fstat, openat, readlink};
use rustix::io::Errno;

use crate::native;
use crate::next_image::path_of_fd;
use crate::nofile;
use crate::session::{self, Mount, MountRoot, OpenedSession, SessionError, names};

/// There when the module is loaded: all that is looked at in a process where it is not.
const LOADED: &CStr = c"/sys/module/defuse";
/// The hidden command that makes a standing session, or adds mounts to it.
pub const COMMAND: &CStr = c"join-standing";
/// How often the session is looked for anew after the command was run: whoever removes one that nobody is in may come between.
const ATTEMPTS: usize = 4;

/// A session that this process is about to join.
pub struct Joined {
    /// As it was opened.
    pub session: OpenedSession,
    /// Path of its folder.
    pub folder: PathBuf,
    /// The mounts that stand here.
    pub mounts: Vec<Mount>,
    /// The session was named by the image before this one, which was in it.
    pub inherited: bool,
    /// Nobody removes the folder while this is open. To be kept until the process is registered.
    pub lock: OwnedFd,
}

/// Whether there may be mounts of the module.
pub fn is_possible() -> bool {
    native::stat(LOADED).is_ok()
}

/// The session to join: the one in `given` that the previous image was in, or the one that the mounts lead to. `None` where nothing is mounted, and in the command itself.
///
/// # Errors
///
/// What kept this process from it.
///
/// `library` is this library as the dynamic linker found it; `run` starts a program with these words and waits for its exit status.
pub fn find(
    given: Option<&Path>,
    library: &[u8],
    run: impl Fn(&CStr, &[&CStr]) -> Result<i32, Errno>,
) -> Result<Option<Joined>, String> {
    let mounts = session::kernel_mounts().unwrap_or_default();
    let mut roots: Vec<(Mount, MountRoot)> = Vec::new();
    for mount in mounts {
        // Who may not search a mount's root has no use for it.
        if let Ok(root) = MountRoot::open(&mount.point) {
            roots.push((mount, root));
        }
    }
    if given.is_none() && roots.is_empty() || is_command(library) {
        return Ok(None);
    }
    let mut error = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            run_command(library, &run)?;
        }
        let found = given.map(|folder| (folder.to_owned(), true)).into_iter();
        let led_to =
            roots.iter().filter_map(|(_, root)| Some((root.rendezvous(false).ok()?.folder()?, false)));
        for (folder, inherited) in found.chain(led_to) {
            match open(&folder) {
                Ok((session, lock)) => {
                    let known = |mount: &Mount| session.config.mounts.contains(mount);
                    // What the previous image was in is joined for what it left, with the mounts that are known.
                    if roots.iter().all(|(mount, _)| known(mount)) || inherited && attempt > 0 {
                        let mounts = roots.into_iter().map(|(mount, _)| mount).collect();
                        return Ok(Some(Joined { session, folder, mounts, inherited, lock }));
                    }
                    break;
                }
                Err(why) => error = Some(why),
            }
        }
        if roots.is_empty() {
            return Ok(None);
        }
    }
    Err(error.map_or("mounts come faster than they can be noted".into(), |error| error.to_string()))
}

/// Opens the session at `folder` if it is this user's own, and keeps it from being removed.
fn open(folder: &Path) -> Result<(OpenedSession, OwnedFd), SessionError> {
    let failed = |errno| SessionError::system("join the session", folder, errno);
    nofile::with_room(|| {
        // Before anything is read: whoever removes the folder has the lock, and it has no name after that.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(rustix::fs::CWD, folder.join(names::LOCK), flags, Mode::empty()).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(failed)?;
        if fstat(&lock).map_err(failed)?.st_nlink == 0 {
            return Err(failed(Errno::NOENT));
        }
        let session = OpenedSession::open(folder)?;
        let owner = fstat(&session.folder).map_err(failed)?.st_uid;
        if owner == rustix::process::geteuid().as_raw() {
            Ok((session, lock))
        } else {
            Err(SessionError::Untrusted { path: folder.into(), why: "it is another user's".into() })
        }
    })
}

/// Limits of open files for a process that joins a session whose private FDs begin at `base`: what the program sees. The kernel's are changed where that takes it.
///
/// # Errors
///
/// When they leave no room.
pub fn limits(base: u32) -> Result<(u64, u64), String> {
    let base = u64::from(base);
    let mut now = [0_u64; 2];
    let resource = u64::from(sys::RLIMIT_NOFILE);
    native::checked(sys::__NR_prlimit64, [0, resource, 0, now.as_mut_ptr() as u64, 0, 0])
        .map_err(|errno| format!("cannot read the limit of open files: {errno}"))?;
    let set = |limits: &[u64; 2]| {
        native::checked(sys::__NR_prlimit64, [0, resource, limits.as_ptr() as u64, 0, 0, 0])
    };
    // One private number for each of the program's; raising the hard limit is for the privileged.
    let soft = now[0].min(base);
    let wanted = [soft, now[1].max(base + soft.max(LEAST_ROOM))];
    if wanted == now || set(&wanted).is_ok() {
        return Ok((now[0], now[1]));
    }
    let room = now[1].saturating_sub(base);
    if room < LEAST_ROOM || set(&[soft.min(room), now[1]]).is_err() {
        let hard = now[1];
        return Err(format!("the hard limit of open files ({hard}) is too near to the session's {base}"));
    }
    Ok((now[0], now[1]))
}

/// The least number of private FDs that there must be room for.
const LEAST_ROOM: u64 = 256;

/// Whether this program is the command, with the library in it by `/etc/ld.so.preload`. It asks the kernel about mounts, and makes the session.
fn is_command(library: &[u8]) -> bool {
    let inode = |path: &CStr| native::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    let own = inode(c"/proc/self/exe");
    own.is_some() && command(library).is_ok_and(|command| inode(&command) == own)
}

/// Starts the command and waits for it.
fn run_command(library: &[u8], run: &impl Fn(&CStr, &[&CStr]) -> Result<i32, Errno>) -> Result<(), String> {
    let command = command(library)?;
    let status = run(&command, &[&command, COMMAND])
        .map_err(|errno| format!("cannot start {}: {errno}", command.to_string_lossy()))?;
    // It has said why.
    if status == 0 { Ok(()) } else { Err(format!("{} failed", command.to_string_lossy())) }
}

/// The command that belongs to this library: beside it, or where `defuse` finds it from.
///
/// What belongs to somebody else than root and the user, or others may write, is passed over: it would do what it likes to every program.
fn command(library: &[u8]) -> Result<CString, String> {
    let library = Path::new(std::ffi::OsStr::from_bytes(library));
    let real = openat(rustix::fs::CWD, library, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| readlink(&*path_of_fd(file.as_raw_fd()), Vec::new()))
        .map_err(|errno| format!("cannot find {}: {errno}", library.display()))?;
    let folder = Path::new(std::ffi::OsStr::from_bytes(real.to_bytes())).parent().unwrap_or(Path::new("/"));
    let places = ["defuse", "../defuse", "../../bin/defuse"].map(|place| folder.join(place));
    let found = places.iter().find(|place| plugin_abi::trust::check(place).is_ok());
    let found = found.ok_or_else(|| format!("there is no command 'defuse' to {}", library.display()))?;
    CString::new(found.as_os_str().as_bytes()).map_err(|_| "a NUL in the path".into())
}
