//! What symbolic links read, on mounts and elsewhere.

use std::cell::Cell;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::Spot;
use crate::process::Process;
use crate::resolve::{Links, PATH_MAX, PathBytes};
use crate::{native, proc_links};

/// Links as this process sees them: those on mounts from the plugins, the others from the kernel.
pub struct NamespaceLinks {
    /// Whose they are.
    pub process: &'static Process,
    /// What those of /proc that only the kernel can read are refused with, if they are.
    pub magic: Option<Errno>,
    /// A link was met that the kernel reads differently.
    pub differs: Cell<bool>,
}

impl Links for NamespaceLinks {
    fn read(&self, path: &[u8], inside: Option<(usize, &[u8])>, target: &mut PathBytes) -> Result<(), Errno> {
        if let Some((mount, below)) = inside {
            let spot = Spot::new(
                &self.process.mounts[mount],
                PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?,
                false,
            )?;
            let mut buffer = [0u8; PATH_MAX];
            let length = spot.call(|instance, path| instance.readlink(path, &mut buffer[..PATH_MAX - 1]))?;
            return target.try_extend_from_slice(&buffer[..length]).map_err(|_| Errno::NAMETOOLONG);
        }
        if let Some(served) = proc_links::magic_link(self.process, path)? {
            if let Some(refused) = self.magic {
                return Err(refused);
            }
            self.differs.set(true);
            return target.try_extend_from_slice(&served).map_err(|_| Errno::NAMETOOLONG);
        }
        let mut name = PathBytes::try_from(path).map_err(|_| Errno::NAMETOOLONG)?;
        name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        read_kernel_link(name.as_ptr(), target)?;
        if path.starts_with(b"/proc/") && target.first() != Some(&b'/') && !path.ends_with(b"self") {
            return Err(Errno::INVAL); // A magic link: its text is no path, only the kernel can follow it.
        }
        match self.magic {
            Some(refused) if path.starts_with(b"/proc/") && target.first() == Some(&b'/') => Err(refused),
            _ => Ok(()),
        }
    }

    fn leads_on(&self, path: &[u8]) -> Result<(), Errno> {
        match proc_links::proc_fd(self.process, path) {
            Some(file) if !file.is_directory()? => Err(Errno::NOTDIR),
            _ => Ok(()),
        }
    }

    fn expect_directory(&self, path: &[u8], inside: Option<(usize, &[u8])>) -> Result<(), Errno> {
        if let Some((mount, below)) = inside {
            let below = PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?;
            return Spot::new(&self.process.mounts[mount], below, true)?.check_directory();
        }
        super::expect_directory(sys::AT_FDCWD, path)
    }
}

/// Reads the link at the NUL-terminated `path`.
pub fn read_kernel_link(path: *const u8, target: &mut PathBytes) -> Result<(), Errno> {
    let mut buffer = [0u8; PATH_MAX];
    let length = native::checked(
        sys::__NR_readlink,
        [path as u64, buffer.as_mut_ptr() as u64, PATH_MAX as u64 - 1, 0, 0, 0],
    )?;
    target.clear();
    target.try_extend_from_slice(&buffer[..length as usize]).map_err(|_| Errno::NAMETOOLONG)
}
