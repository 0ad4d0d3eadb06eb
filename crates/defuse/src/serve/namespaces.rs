//! unshare(2): what of a process a thread or process stops sharing.

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

/// unshare(2): `CLONE_THREAD` changes nothing in a process of one thread, and is EINVAL in others.
fn has_threads() -> bool {
    native::raw_call(sys::__NR_unshare, [sys::CLONE_THREAD.into(), 0, 0, 0, 0, 0]) < 0
}
