//! `defuse join-standing` (hidden): the standing session of this user, for a process that found none, or one that does not know all mounts. Made or extended,
//! and written where the next process finds it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use defuse::log::LogTarget;
use defuse::session::{Mount, MountRoot, OpenedSession, Rendezvous, Session, extend, kernel_mounts, names};
use interpose::DispatchPolicy;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, openat};
use rustix::io::Errno;

use super::arguments::log_variable;
use super::failure::{FAILED, Failure};
use super::plugin::Tried;
use super::{library, plugin, run, run_directory};

/// Sees to it that the user's standing session knows all mounts of the kernel module that can be used here.
///
/// # Errors
///
/// What went wrong on the way.
pub fn join() -> Result<(), Failure> {
    let mut mounts = Vec::new();
    for mount in kernel_mounts().map_err(|error| fail(&error))? {
        if let Ok(root) = MountRoot::open(&mount.point) {
            let at = root.rendezvous(true).map_err(|errno| failed("make the memory of", &mount, errno))?;
            mounts.push((mount, at));
        }
    }
    // In one order, as another one may be at it with some of the same mounts.
    let mut by_device: Vec<_> = mounts.iter().collect();
    by_device.sort_by_key(|(mount, _)| mount.hidden.map(|root| root.dev));
    for (mount, at) in by_device {
        at.lock().map_err(|errno| failed("lock the memory of", mount, errno))?;
    }
    let folder = match mounts.iter().find_map(|(_, at)| Existing::open(at)) {
        Some(existing) => existing.learn(&mounts)?,
        None => make(&mounts)?,
    };
    for (mount, at) in &mounts {
        at.set_folder(&folder).map_err(|errno| failed("write in the memory of", mount, errno))?;
    }
    Ok(())
}

/// The folder of the standing session that this user's processes find by the mount at `point`, if there is one.
pub fn folder_of(mount: &Mount) -> Option<PathBuf> {
    let at = MountRoot::open(&mount.point).ok()?.rendezvous(false).ok()?;
    Existing::open(&at).map(|existing| existing.path)
}

/// A standing session that is there, and will be as long as this lives.
struct Existing {
    path: PathBuf,
    session: OpenedSession,
    _lock: std::os::fd::OwnedFd,
}

impl Existing {
    fn open(at: &Rendezvous) -> Option<Self> {
        let path = at.folder()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(CWD, path.join(names::LOCK), flags, Mode::empty()).ok()?;
        flock(&lock, FlockOperation::LockShared).ok()?;
        let named = fstat(&lock).is_ok_and(|stat| stat.st_nlink > 0);
        let session = OpenedSession::open(&path).ok()?;
        named.then_some(Self { path, session, _lock: lock })
    }

    /// Adds the mounts that it does not know.
    fn learn(mut self, mounts: &[(Mount, Rendezvous)]) -> Result<PathBuf, Failure> {
        let known = self.session.config.mounts.len();
        for (mount, _) in mounts {
            if !self.session.config.mounts.contains(mount) {
                self.session.config.mounts.push(mount.clone());
            }
        }
        let new = &self.session.config.mounts[known..];
        if !new.is_empty() {
            let tried = try_all(new);
            let pages = tried.iter().any(|tried| tried.paged);
            let numbers = (known..).zip(&tried).filter(|(_, tried)| tried.one_state);
            self.session.config.one_state.extend(numbers.map(|(number, _)| number));
            extend(self.session.folder.as_fd(), &self.path, &self.session.config, pages)
                .map_err(|error| fail(&error))?;
        }
        Ok(self.path)
    }
}

/// Makes a standing session and tidies up after others.
fn make(mounts: &[(Mount, Rendezvous)]) -> Result<PathBuf, Failure> {
    let base = run_directory::of_standing_sessions();
    run::sweep(&base, &library::find()?);
    let mounts: Vec<Mount> = mounts.iter().map(|(mount, _)| mount.clone()).collect();
    let tried = try_all(&mounts);
    let made = run::create_session(base, mounts, &tried, DispatchPolicy::Auto, log_target()?, true)?;
    let session: Session = made.0;
    // Dropped it stays: whoever sweeps finds that its mounts stand.
    Ok(session.path().to_owned())
}

/// What is known of the plugins of the mounts. One that does not start says so to who uses the mount.
fn try_all(mounts: &[Mount]) -> Vec<Tried> {
    mounts.iter().map(|mount| plugin::try_mount(mount).unwrap_or_default()).collect()
}

/// What `$DEFUSE_LOG` says, if it names a file: there is no runner whose standard error could be written to.
fn log_target() -> Result<LogTarget, Failure> {
    let (level, file) = log_variable()?;
    Ok(LogTarget { level, file, stderr: None })
}

fn failed(verb: &str, mount: &Mount, errno: Errno) -> Failure {
    let errno = defuse::errno::describe(errno);
    Failure::new(FAILED, format!("cannot {verb} the mount {}: {errno}", mount.point.display()))
}

fn fail(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FAILED, error.to_string())
}
