//! Where the folders of a case lie.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use tempfile::TempDir;

/// The folders of one case. All are removed on drop.
///
/// `mnt` is on tmpfs from which programs may be run (`/dev/shm`, else the temporary directory); `out` is in
/// the temporary directory, on most machines another device.
#[derive(Debug)]
pub struct Place {
    root: TempDir,
    outside: TempDir,
}

impl Place {
    /// Makes empty folders with unique names.
    pub fn create() -> io::Result<Self> {
        let base = [Path::new("/dev/shm"), Path::new("/tmp")]
            .into_iter()
            .find(|dir| is_executable_tmpfs(dir))
            .map_or_else(std::env::temp_dir, Path::to_path_buf);
        let named = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("defuse-e2e-");
            builder
        };
        // Canonical, so that a program that prints where it is prints what the script was told.
        let root = named().tempdir_in(fs::canonicalize(base)?)?;
        let outside = named().tempdir_in(fs::canonicalize(std::env::temp_dir())?)?;
        let place = Self { root, outside };
        let folders = [place.mnt(), place.out(), place.home(), place.tmp(), place.run_dir(), place.backend()];
        // The last two are there from the start so that `..` has the same number of links in both runs.
        for dir in folders.into_iter().chain([place.plain_mnt(), place.plain_out()]) {
            fs::create_dir(dir)?;
        }
        // A program that drops its privileges must still reach all this.
        for dir in [place.root(), place.outside.path()] {
            fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        }
        Ok(place)
    }

    /// The folder that holds all but `out`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
    /// The directory under test: plain in the first run, the mount point in the second.
    pub fn mnt(&self) -> PathBuf {
        self.root().join("mnt")
    }
    /// What the mount is served from.
    pub fn backend(&self) -> PathBuf {
        self.root().join("backend")
    }
    /// A directory that is never on the mount.
    pub fn out(&self) -> PathBuf {
        self.outside.path().join("out")
    }
    /// `HOME` of the script.
    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }
    /// `TMPDIR` of the script.
    pub fn tmp(&self) -> PathBuf {
        self.root().join("tmp")
    }
    /// Where sessions are kept, `DEFUSE_RUN_DIR`.
    pub fn run_dir(&self) -> PathBuf {
        self.root().join("run")
    }

    /// Where the results of the plain run on `mnt` are kept.
    pub fn plain_mnt(&self) -> PathBuf {
        self.root().join("plain-mnt")
    }
    /// Where the results of the plain run on `out` are kept.
    pub fn plain_out(&self) -> PathBuf {
        self.outside.path().join("plain-out")
    }

    /// Sets the results of the plain run aside and lays the same empty folders anew.
    pub fn set_plain_results_aside(&self) -> io::Result<()> {
        fs::rename(self.mnt(), self.plain_mnt())?;
        fs::rename(self.out(), self.plain_out())?;
        for dir in [self.home(), self.tmp()] {
            fs::remove_dir_all(dir)?;
        }
        for dir in [self.mnt(), self.out(), self.home(), self.tmp()] {
            fs::create_dir(dir)?;
        }
        Ok(())
    }

    /// Whether `mnt` and `out` are on different devices, so that a rename between them says EXDEV.
    pub fn out_is_another_device(&self) -> io::Result<bool> {
        Ok(fs::metadata(self.mnt())?.dev() != fs::metadata(self.out())?.dev())
    }

    /// Leaves the folders on disk and answers the one that holds all but `out`.
    pub fn keep(self) -> PathBuf {
        let _ = self.outside.keep();
        self.root.keep()
    }
}

fn is_executable_tmpfs(dir: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let on_tmpfs = rustix::fs::statfs(dir).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
    let exec = statvfs(dir).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::NOEXEC));
    on_tmpfs && exec
}
