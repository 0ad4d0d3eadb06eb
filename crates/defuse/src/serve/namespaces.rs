//! unshare(2) and setns(2): what of a process a thread or process stops sharing, and whose name spaces it joins.

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{Reply, Served};
use crate::process::Process;
use crate::{common, native};

/// FDs and the working directory of our tables are those of the process, so no thread may get its own. A process of one
/// thread shares them with nobody here, and may.
///
/// Name spaces are the kernel's. The session is found by paths: in a new mount name space in which its folder is hidden, opening
/// on a mount fails, and what is open stays so.
pub fn unshare(process: &'static Process, call: &Call) -> Served {
    let own = sys::CLONE_FILES | sys::CLONE_FS;
    if call.args[0] as u32 & own != 0 && !interpose::in_vfork_child() && has_threads() {
        return Err(Errno::INVAL);
    }
    let result = native::call(call);
    if result >= 0 && !interpose::in_vfork_child() {
        common::unshared(process, call.args[0] as u32);
    }
    Ok(Reply::Value(result))
}

/// With another mount name space come its root as root and as working directory, which so is on no mount any more.
pub fn setns(process: &'static Process, call: &Call) -> Served {
    let result = native::call(call);
    if result >= 0 {
        process.root_changed();
    }
    Ok(Reply::Value(result))
}

/// unshare(2): `CLONE_THREAD` changes nothing in a process of one thread, and is EINVAL in others.
fn has_threads() -> bool {
    native::raw_call(sys::__NR_unshare, [sys::CLONE_THREAD.into(), 0, 0, 0, 0, 0]) < 0
}
