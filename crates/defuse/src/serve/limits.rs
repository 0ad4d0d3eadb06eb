//! umask, and `RLIMIT_NOFILE` as the program is to see it.

use interpose::Call;
use linux_raw_sys::general as sys;

use super::{DONE, Reply, Served};
use crate::process::Process;
use crate::{common, native, nofile, user};

pub fn umask(process: &'static Process, call: &Call) -> Served {
    common::set_umask(process, call.args[0] as u32 & 0o777);
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
    if call.args[0] as u32 == sys::RLIMIT_FSIZE {
        return change_file_size(call);
    }
    if call.args[0] as u32 != sys::RLIMIT_NOFILE {
        return Ok(Reply::Pass);
    }
    nofile::change(process, user::read::<[u64; 2]>(call.args[1])?)?;
    DONE
}

pub fn prlimit64(process: &'static Process, call: &Call) -> Served {
    let [pid, resource, new, old, ..] = call.args;
    let this = pid as u32 == 0 || pid as u32 == native::pid();
    if resource as u32 == sys::RLIMIT_FSIZE && new != 0 {
        return change_file_size(call);
    }
    if resource as u32 != sys::RLIMIT_NOFILE || !this {
        return Ok(Reply::Pass);
    }
    let before = shown(process);
    if new != 0 {
        nofile::change(process, user::read::<[u64; 2]>(new)?)?;
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    DONE
}

fn change_file_size(call: &Call) -> Served {
    let result = native::call(call);
    super::file_size::forget();
    Ok(Reply::Value(result))
}

fn shown(process: &Process) -> [u64; 2] {
    nofile::refresh(process);
    process.nofile().into()
}
