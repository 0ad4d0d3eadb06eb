//! The host's files once more, cached by the guest: the root asks the host for every page of a program each time it is started, which is most of
//! what a test of whole programs waits for. They do not change while the machine runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

/// What the host calls the device.
pub const TAG: &str = "vmtest.host";
/// Where it is mounted, on the guest's tmpfs.
const POINT: &str = "/run/vmtest-host";
/// Where programs and their libraries are.
const PROGRAMS: &str = "/usr";

/// Puts cached views over the folder of the system's programs and over `folders`.
pub fn cache(folders: &[PathBuf]) -> io::Result<()> {
    fs::create_dir_all(POINT)?;
    // Loose: what was read once stays, as nobody else writes it.
    let options = c"trans=virtio,version=9p2000.L,msize=524288,access=any,cache=loose";
    rustix::mount::mount(TAG, POINT, "9p", MountFlags::RDONLY, Some(options))?;
    for folder in [Path::new(PROGRAMS)].into_iter().chain(folders.iter().map(PathBuf::as_path)) {
        let again = Path::new(POINT).join(folder.strip_prefix("/").unwrap_or(folder));
        rustix::mount::mount_bind(&again, folder)?;
    }
    Ok(())
}
