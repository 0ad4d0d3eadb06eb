//! Mounts of the kernel module that are read-only, since they were mounted or for now (`mount -o remount,ro`): the plugin knows nothing of that,
//! so what would change something is refused before it is asked, with the error that the kernel has at that place.
//!
//! What was opened for writing before goes on: such a mount does not become read-only.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;

use super::attributes::attributes_at;
use crate::file::OpenFile;
use crate::mount::Mount;
use crate::namei::Spot;
use crate::process::Process;
use crate::user;

/// access(2).
const W_OK: u32 = 2;

/// Whether nothing may be changed on `mount`. Of a program that has a filter it is not asked: that may not know of the call.
fn is_read_only(process: &Process, mount: &Mount) -> bool {
    !process.restricted.load(Ordering::Relaxed) && mount.shadows.is_read_only(mount.point())
}

/// Before the attributes are changed of what is at `spot`, or of what a link there leads to.
pub fn check_change(process: &Process, spot: &Spot, follow: bool) -> Result<(), Errno> {
    if !is_read_only(process, spot.mount) {
        return Ok(());
    }
    attributes_at(spot, follow)?;
    Err(Errno::ROFS)
}

/// Before the attributes are changed of what is open.
pub fn check_file(process: &Process, file: &OpenFile) -> Result<(), Errno> {
    if is_read_only(process, &process.mounts[file.mount]) { Err(Errno::ROFS) } else { Ok(()) }
}

/// Before a name is taken away or given to something else: whether there is anything of that name is looked at later.
pub fn check_name(process: &Process, spot: &Spot) -> Result<(), Errno> {
    if !is_read_only(process, spot.mount) {
        return Ok(());
    }
    spot.check_parent()?;
    Err(Errno::ROFS)
}

/// Before something is made at `spot`.
pub fn check_new(process: &Process, spot: &Spot) -> Result<(), Errno> {
    if !is_read_only(process, spot.mount) {
        return Ok(());
    }
    match spot.call(Instance::getattr) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => check_name(process, spot),
        Err(error) => Err(error),
    }
}

/// Before what is at `spot` is opened with `flags`, or made by that.
pub fn check_open(process: &Process, spot: &Spot, flags: u32) -> Result<(), Errno> {
    let tmpfile = flags & sys::O_TMPFILE == sys::O_TMPFILE;
    let changes = flags & (sys::O_ACCMODE | sys::O_CREAT | sys::O_TRUNC) != 0 || tmpfile;
    if !changes || flags & sys::O_PATH != 0 || !is_read_only(process, spot.mount) {
        return Ok(());
    }
    let only_new = flags & (sys::O_CREAT | sys::O_EXCL) == sys::O_CREAT | sys::O_EXCL;
    match attributes_at(spot, !only_new) {
        Ok(_) if only_new => Err(Errno::EXIST),
        Ok(found) if tmpfile => Err(match found.st_mode & sys::S_IFMT {
            sys::S_IFDIR => Errno::ROFS,
            _ => Errno::NOTDIR,
        }),
        // Others have their own errors, or are devices, which are not written to here.
        Ok(found) if found.st_mode & sys::S_IFMT != sys::S_IFREG => Ok(()),
        Ok(_) if flags & (sys::O_ACCMODE | sys::O_TRUNC) != 0 => Err(Errno::ROFS),
        Ok(_) => Ok(()),
        Err(Errno::NOENT) if flags & sys::O_CREAT != 0 => check_name(process, spot),
        Err(error) => Err(error),
    }
}

/// Before the plugin is asked about access(2) to what is at `spot`, or to what a link there leads to.
pub fn check_access(process: &Process, spot: &Spot, mode: u32, follow: bool) -> Result<(), Errno> {
    if mode & W_OK == 0 || !is_read_only(process, spot.mount) {
        return Ok(());
    }
    match attributes_at(spot, follow)?.st_mode & sys::S_IFMT {
        sys::S_IFREG | sys::S_IFDIR | sys::S_IFLNK => Err(Errno::ROFS),
        _ => Ok(()),
    }
}

/// Has the program's `struct statfs` at `buffer`, which holds what the plugin said of `mount`, say this, too.
pub fn mark(process: &Process, mount: &Mount, buffer: u64) -> Result<(), Errno> {
    if !is_read_only(process, mount) {
        return Ok(());
    }
    let flags = buffer + offset_of!(sys::statfs, f_flags) as u64;
    user::write(flags, &(user::read::<i64>(flags)? | i64::from(sys::MS_RDONLY)))
}
