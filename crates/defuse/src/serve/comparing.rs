//! kcmp(2): whether two FDs have one open file description.

use std::os::fd::RawFd;

use interpose::Call;

use super::{Reply, Served};
use crate::process::Process;
use crate::{file, native, shadow};

/// linux/kcmp.h
const KCMP_FILE: u64 = 0;

/// The kernel compares what stands in its table. Placeholders are all alike, so this process's files become shadows first.
pub fn kcmp(process: &'static Process, call: &Call) -> Served {
    let [first, second, kind, one, other, _] = call.args;
    if kind != KCMP_FILE || interpose::in_vfork_child() {
        return Ok(Reply::Pass);
    }
    let this = native::pid();
    for (pid, fd) in [(first, one), (second, other)] {
        if pid as u32 == this
            && let Some(file) = file::served(process, fd as RawFd)
        {
            let _together = process.descriptors.lock();
            shadow::separate(process, &file)?;
        }
    }
    Ok(Reply::Pass)
}
