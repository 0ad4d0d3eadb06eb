//! The mount of a case: made by `defuse run -m`, or standing already as `mount -t defuse`.

use std::env;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::case::Serving;
use crate::place::Place;
use crate::product::Product;

/// Says who mounts: `session` (or nothing) for `-m`, `module` for the kernel module, which must be loaded.
const VARIABLE: &str = "DEFUSE_E2E_MOUNT";

/// Whether mounts are the kernel module's, which has locks of its own.
#[must_use]
pub fn by_module() -> bool {
    env::var(VARIABLE).as_deref() == Ok("module")
}

/// A mount at [`Place::mnt`], served from [`Place::backend`]. One that stands is unmounted on drop.
#[derive(Debug)]
pub struct Mounted {
    arguments: Vec<String>,
    standing: Option<PathBuf>,
}

impl Mounted {
    /// The mount of a case, by whom `DEFUSE_E2E_MOUNT` says.
    ///
    /// # Errors
    ///
    /// When the module refuses to mount.
    ///
    /// # Panics
    ///
    /// When `DEFUSE_E2E_MOUNT` says something else.
    pub fn make(place: &Place, serving: Serving) -> io::Result<Self> {
        let point = place.mnt();
        match env::var(VARIABLE).as_deref() {
            Err(_) | Ok("session") => {
                let argument = serving.mount_argument(&point, &place.backend());
                Ok(Self { arguments: vec!["-m".into(), argument], standing: None })
            }
            Ok("module") => {
                // The folders have plain names, so nothing needs to be escaped.
                let options = format!(
                    "backend={},library={},options={}",
                    place.backend().display(),
                    Product::get().plugin("passthrough").display(),
                    serving.options()
                );
                let options = CString::new(options)?;
                mount(c"defuse", &point, c"defuse", MountFlags::empty(), Some(options.as_c_str()))?;
                Ok(Self { arguments: vec![], standing: Some(point) })
            }
            Ok(other) => panic!("{VARIABLE} is {other:?}: `session` and `module` are known"),
        }
    }

    /// What `defuse run` must be told.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Unmounts it. No process may use it any more.
    ///
    /// # Errors
    ///
    /// `EBUSY` when one does.
    pub fn undo(mut self) -> io::Result<()> {
        match self.standing.take() {
            Some(point) => unmount(&point, UnmountFlags::empty()).map_err(|errno| {
                let point = String::from_utf8_lossy(point.as_os_str().as_bytes());
                io::Error::other(format!("unmount {point}: {errno}"))
            }),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(point) = self.standing.take() {
            // After a failure: somebody may still use it.
            let _ = unmount(&point, UnmountFlags::DETACH);
        }
    }
}
