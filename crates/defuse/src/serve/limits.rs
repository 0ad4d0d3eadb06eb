//! umask, RLIMIT_NOFILE as the program is to see it, and what is refused.

use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{DONE, Reply, Served};
use crate::process::Process;
use crate::{native, user};

pub fn umask(process: &'static Process, call: &Call) -> Served {
    process.umask.store(call.args[0] as u32 & 0o777, Ordering::Relaxed);
    Ok(Reply::Pass)
}

pub fn getrlimit(process: &'static Process, call: &Call) -> Served {
    if call.args[0] as u32 != sys::RLIMIT_NOFILE {
        return Ok(Reply::Pass);
    }
    user::write(call.args[1], &shown(process))?;
    DONE
}

pub fn setrlimit(process: &'static Process, call: &Call) -> Served {
    if call.args[0] as u32 != sys::RLIMIT_NOFILE {
        return Ok(Reply::Pass);
    }
    change(process, user::read::<[u64; 2]>(call.args[1])?)?;
    DONE
}

pub fn prlimit64(process: &'static Process, call: &Call) -> Served {
    let [pid, resource, new, old, ..] = call.args;
    let this = pid as i32 == 0 || i64::from(pid as i32) == native::raw_call(sys::__NR_getpid, [0; 6]);
    if resource as u32 != sys::RLIMIT_NOFILE || !this {
        return Ok(Reply::Pass);
    }
    let before = shown(process);
    if new != 0 {
        change(process, user::read::<[u64; 2]>(new)?)?;
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    DONE
}

fn shown(process: &Process) -> [u64; 2] {
    [process.nofile.0.load(Ordering::Relaxed), process.nofile.1.load(Ordering::Relaxed)]
}

/// Changes what the program sees. The kernel's own limits only ever grow: private descriptors live above.
fn change(process: &Process, [soft, hard]: [u64; 2]) -> Result<(), Errno> {
    if soft > hard {
        return Err(Errno::INVAL);
    }
    let mut kernel = [0u64; 2];
    let resource = u64::from(sys::RLIMIT_NOFILE);
    native::checked(sys::__NR_prlimit64, [0, resource, 0, kernel.as_mut_ptr() as u64, 0, 0])?;
    if hard > shown(process)[1] || soft > kernel[0] {
        // Whether the program may is the kernel's to say; a vain change of nothing asks it.
        let wanted = [soft.max(kernel[0]), hard.max(kernel[1])];
        if hard > kernel[1] || soft > kernel[0] {
            native::checked(sys::__NR_prlimit64, [0, resource, wanted.as_ptr() as u64, 0, 0, 0])?;
        } else if !privileged() {
            return Err(Errno::PERM);
        }
    }
    process.nofile.0.store(soft, Ordering::Relaxed);
    process.nofile.1.store(hard, Ordering::Relaxed);
    Ok(())
}

/// Whether this process may raise hard limits (CAP_SYS_RESOURCE, bit 24, effective).
fn privileged() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    let asked =
        native::checked(sys::__NR_capget, [header.as_ptr() as u64, sets.as_mut_ptr() as u64, 0, 0, 0, 0]);
    asked.is_ok() && sets[0] & 1 << 24 != 0
}
