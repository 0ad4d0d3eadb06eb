//! Where session folders are made.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, stat, statfs, statvfs};
use rustix::process::geteuid;

/// `f_type` of tmpfs (`include/uapi/linux/magic.h`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A directory for session folders, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    /// Absolute path.
    pub path: PathBuf,
    /// Whether it lies in memory; elsewhere shadows cost more.
    pub is_tmpfs: bool,
    /// Whether programs may be started from it. Those that lie on a mount are.
    pub may_execute: bool,
}

/// Chooses the run directory: `wanted` (`$DEFUSE_RUN_DIR`) whatever it is; else `$XDG_RUNTIME_DIR`, given as `runtime`, if it is a tmpfs of our own that we may
/// write; else `/dev/shm`; else `/tmp`.
///
/// Root's sessions do not go to `$XDG_RUNTIME_DIR`, which nobody else can enter: a process that drops its privileges would lose its session.
pub fn choose_run_directory(wanted: Option<&OsStr>, runtime: Option<&OsStr>) -> RunDirectory {
    if let Some(wanted) = wanted {
        let path = Path::new(wanted);
        return RunDirectory::look_at(&std::path::absolute(path).unwrap_or_else(|_| path.into()));
    }
    let euid = geteuid();
    let runtime = runtime.map(Path::new).filter(|path| {
        let ours = || stat(*path).is_ok_and(|stat| stat.st_uid == euid.as_raw());
        path.is_absolute() && !euid.is_root() && ours() && is_tmpfs(path) && is_writable(path)
    });
    let shm = Path::new("/dev/shm");
    let path = runtime.or_else(|| (is_tmpfs(shm) && is_writable(shm)).then_some(shm));
    RunDirectory::look_at(path.unwrap_or(Path::new("/tmp")))
}

impl RunDirectory {
    fn look_at(path: &Path) -> Self {
        let may_execute = statvfs(path).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::NOEXEC));
        Self { path: path.into(), is_tmpfs: is_tmpfs(path), may_execute }
    }
}

fn is_tmpfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC)
}

fn is_writable(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::choose_run_directory;
    use std::ffi::OsStr;
    use std::path::Path;

    #[test]
    fn what_is_asked_for_is_taken() {
        let wanted = tempfile::tempdir().unwrap();
        let chosen = choose_run_directory(Some(wanted.path().as_os_str()), Some(OsStr::new("/dev/shm")));
        assert_eq!(chosen.path, wanted.path());
    }

    #[test]
    fn a_runtime_directory_that_is_not_ours_is_passed_over() {
        for runtime in ["/", "/nonexistent", "relative", ""] {
            let chosen = choose_run_directory(None, Some(OsStr::new(runtime)));
            assert!([Path::new("/dev/shm"), Path::new("/tmp")].contains(&chosen.path.as_path()));
        }
    }
}
