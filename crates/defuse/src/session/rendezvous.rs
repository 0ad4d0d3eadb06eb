//! Where it is written which session a user's processes join on the kernel module's mounts: in memory that the module keeps for each mount and user as long as
//! the mount stands (`DEFUSE_IOC_ARENA`). So nobody else can read or write it, nothing has a name that could be guessed or taken, and it goes with
//! the mount.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as sys;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fcntl_lock, openat};
use rustix::io::{Errno, pread, pwrite};

use crate::native;
use crate::shadow::module_abi as abi;

/// Bytes of the memory: a path and a byte that ends it.
const SIZE: usize = 4096;
/// Ends the path.
const END: u8 = b'\n';

/// The root of a mount of type `defuse`, open.
#[derive(Debug)]
pub struct MountRoot(OwnedFd);

impl MountRoot {
    /// Opens what is mounted at `point`.
    ///
    /// # Errors
    ///
    /// `EACCES` for who may not use the mount.
    pub fn open(point: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, point, flags, Mode::empty()).map(Self)
    }

    /// The memory of this user; `NOENT` if there is none yet and it is not to be made. `NOTTY`: it is no mount of the module's.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn rendezvous(&self, make: bool) -> Result<Rendezvous, Errno> {
        let size = if make { SIZE as u64 } else { 0 };
        let mut request = abi::Cache { size, flags: abi::CACHE_CLOEXEC, created: 0 };
        let address = (&raw mut request) as u64;
        let args = [self.0.as_raw_fd() as u64, abi::ARENA, address, 0, 0, 0];
        native::new_owned_fd(sys::__NR_ioctl, args).map(Rendezvous)
    }
}

/// The memory of one mount and user.
#[derive(Debug)]
pub struct Rendezvous(OwnedFd);

impl Rendezvous {
    /// Waits until no other process has it locked. Unlocked when this process closes it or ends.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn lock(&self) -> Result<(), Errno> {
        // All have one description from the kernel, so that the lock must be the process's.
        fcntl_lock(&self.0, FlockOperation::LockExclusive)
    }

    /// The folder that is written there. It need not exist any more; who reads while another one writes may read a name that never was.
    pub fn folder(&self) -> Option<PathBuf> {
        let mut text = [0; SIZE];
        let length = pread(&self.0, &mut text, 0).ok()?;
        let end = text[..length].iter().position(|&byte| byte == END)?;
        let path = Path::new(OsStr::from_bytes(&text[..end]));
        path.is_absolute().then(|| path.into())
    }

    /// Writes the path of a session's folder.
    ///
    /// # Errors
    ///
    /// `NAMETOOLONG`; else what the kernel says.
    pub fn set_folder(&self, folder: &Path) -> Result<(), Errno> {
        let path = folder.as_os_str().as_bytes();
        let text = [path, &[END]].concat();
        if text.len() > SIZE || path.contains(&END) {
            return Err(Errno::NAMETOOLONG);
        }
        pwrite(&self.0, &text, 0).map(drop)
    }
}
