//! Record locks on the kernel module's shadows: the kernel's own, which hold between all who have the file open on the mount.
//!
//! (`flock` and leases need nothing done.) Only offset and size are not the kernel's, so ranges that are relative to one of them are made absolute.

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::flock as RecordLock;
use rustix::io::Errno;

use super::{Reply, Served, transfer};
use crate::file::OpenFile;
use crate::{native, user};

/// fcntl(2)'s lock commands.
pub fn record_lock(file: &OpenFile, call: &Call) -> Served {
    let [_, command, address, ..] = call.args;
    let asked = user::read::<RecordLock>(address)?;
    let base = match asked.l_whence as u32 {
        sys::SEEK_CUR => transfer::lock_offset(file)?.slot().offset(),
        sys::SEEK_END => transfer::size_of_file(file)?,
        _ => return Ok(Reply::Pass),
    };
    let start = asked.l_start.checked_add(base).ok_or(Errno::OVERFLOW)?;
    let mut lock = RecordLock { l_start: start, l_whence: sys::SEEK_SET as _, ..asked };
    let args = [call.args[0], command, (&raw mut lock) as u64, 0, 0, 0];
    let result = native::checked_interruptible(sys::__NR_fcntl, args)? as i64;
    if result == 0 && matches!(command as u32, sys::F_GETLK | sys::F_OFD_GETLK) {
        let free = lock.l_type as u32 == sys::F_UNLCK;
        user::write(address, &if free { RecordLock { l_type: lock.l_type, ..asked } } else { lock })?;
    }
    Ok(Reply::Value(result))
}
