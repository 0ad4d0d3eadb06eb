//! access(2) worked out from attributes, for plugins that have no `access`.

use crate::errno::{Errno, Result};
use core::ffi::c_int;
use libc::stat;

/// Whether this process may use a file with these attributes as `mode` (`R_OK`, `W_OK`, `X_OK`) asks.
///
/// Real ids count, effective ones with `AT_EACCESS`. User 0 may do everything but execute what nobody may.
/// Supplementary groups are asked for only when they can decide.
pub fn check(st: &stat, mode: c_int, flags: c_int) -> Result<()> {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    let effective = flags & libc::AT_EACCESS != 0;
    let (uid, gid) = if effective { (geteuid(), getegid()) } else { (getuid(), getgid()) };
    let wanted = mode as u32 & 7;
    if wanted == 0 {
        return Ok(());
    }
    if uid.is_root() {
        let executable = st.st_mode & libc::S_IFMT == libc::S_IFDIR || st.st_mode & 0o111 != 0;
        return if wanted & 1 == 0 || executable { Ok(()) } else { Err(Errno::EACCES) };
    }
    let class = if st.st_uid == uid.as_raw() {
        st.st_mode >> 6
    } else if st.st_gid == gid.as_raw() || in_supplementary_group(st.st_gid) {
        st.st_mode >> 3
    } else {
        st.st_mode
    };
    if wanted & !class == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

fn in_supplementary_group(gid: u32) -> bool {
    // At most NGROUPS_MAX, but hardly ever more than a few: a page on the stack, and the rest does not count.
    let mut groups = [0; 1024];
    // SAFETY: a raw getgroups system call with a buffer of the length it is told.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, groups.len(), groups.as_mut_ptr()) };
    usize::try_from(count).is_ok_and(|count| groups[..count].contains(&gid))
}
