//! A place on a mount.

use std::ffi::CStr;

use linux_raw_sys::general as sys;
use plugin_abi::{Instance, MountPath};
use rustix::io::Errno;

use crate::file::plugin_errno;
use crate::mount::Mount;
use crate::resolve::PathBytes;

/// A place on a mount.
pub struct Spot {
    /// The mount.
    pub mount: &'static Mount,
    /// Path below its point, NUL-terminated.
    path: PathBytes,
    /// The program's text demands a directory.
    pub directory: bool,
    /// The program's text ends in `.` or `..`.
    pub dot: bool,
}

impl Spot {
    /// The place at `path` (begins with `/`, normalised) on `mount`.
    pub fn new(mount: &'static Mount, mut path: PathBytes, directory: bool) -> Result<Self, Errno> {
        path.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(Self { mount, path, directory, dot: false })
    }

    /// Path below the mount point.
    pub fn path(&self) -> &MountPath {
        // A path comes from a C string or a link's target, without its NUL.
        MountPath::from_normalised(CStr::from_bytes_until_nul(&self.path).unwrap_or(c"/"))
    }

    /// Runs an operation of the plugin here.
    pub fn call<R>(
        &self,
        operation: impl FnOnce(&Instance, &MountPath) -> plugin_abi::Result<R>,
    ) -> Result<R, Errno> {
        operation(self.mount.instance()?, self.path()).map_err(plugin_errno)
    }

    /// Why nothing can be looked up in the directory that it lies in, if so.
    pub fn check_parent(&self) -> Result<(), Errno> {
        let text = self.path().as_bytes();
        let slash = text.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let parent = PathBytes::try_from(&text[..slash.max(1)]).map_err(|_| Errno::NAMETOOLONG)?;
        Self::new(self.mount, parent, true)?.check_directory()
    }

    /// Whether it is the mount point itself.
    pub fn is_root(&self) -> bool {
        self.path.as_slice() == b"/\0"
    }

    /// `ENOTDIR` if the text demands a directory and there is something else.
    pub fn check_directory(&self) -> Result<(), Errno> {
        if !self.directory || self.is_root() {
            return Ok(());
        }
        let mode = self.call(Instance::getattr)?.st_mode;
        match mode & sys::S_IFMT {
            sys::S_IFDIR => Ok(()),
            sys::S_IFLNK => Err(Errno::LOOP),
            _ => Err(Errno::NOTDIR),
        }
    }
}
