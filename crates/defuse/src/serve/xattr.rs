//! Extended attributes.

use std::os::fd::RawFd;

use interpose::Call;
use plugin_abi::{Handle, Instance, MountPath};
use rustix::io::Errno;

use super::attributes::expect_no_link;
use super::paths::{self, At};
use super::{Reply, Served};
use crate::file;
use crate::namei::{PathArgument, Spot};
use crate::process::Process;
use crate::user;

/// XATTR_SIZE_MAX and XATTR_LIST_MAX.
const SIZE_MAX: usize = 65536;
/// XATTR_NAME_MAX.
const NAME_MAX: usize = 255;

/// Whose attributes: of a path, or of an open file.
enum Subject<'a> {
    Path(&'a Instance, &'a MountPath),
    Open(&'a Instance, &'a Handle),
}

type Operation<'a> = &'a mut dyn FnMut(&Subject<'_>) -> plugin_abi::Result<i64>;

fn at_path(process: &'static Process, call: &Call, follow: bool, operation: Operation<'_>) -> Served {
    paths::lookup(process, call, At::cwd(0, follow), |spot: &Spot| {
        if follow || spot.directory {
            expect_no_link(spot)?;
        }
        spot.call(|instance, path| operation(&Subject::Path(instance, path)))
    })
}

fn on_fd(process: &'static Process, call: &Call, operation: Operation<'_>) -> Served {
    let Some(file) = file::served(process, call.args[0] as RawFd) else { return Ok(Reply::Pass) };
    if file.open_flags & linux_raw_sys::general::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    file.with_handle(|instance, handle| operation(&Subject::Open(instance, handle))).map(Reply::Value)
}

fn name(address: u64) -> Result<std::ffi::CString, Errno> {
    let text = PathArgument::read(0, address).map_err(|error| match error {
        Errno::NAMETOOLONG => Errno::RANGE,
        other => other,
    })?;
    if text.text.is_empty() || text.text.len() > NAME_MAX {
        return Err(Errno::RANGE);
    }
    std::ffi::CString::new(text.text.as_slice()).map_err(|_| Errno::INVAL)
}

/// Which of the three forms of a call it is.
#[derive(Clone, Copy)]
enum Form {
    Path { follow: bool },
    Fd,
}

const FOLLOW: Form = Form::Path { follow: true };
const LINK: Form = Form::Path { follow: false };

fn on(process: &'static Process, call: &Call, form: Form, operation: Operation<'_>) -> Served {
    match form {
        Form::Path { follow } => at_path(process, call, follow, operation),
        Form::Fd => on_fd(process, call, operation),
    }
}

fn set(process: &'static Process, call: &Call, form: Form) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let [_, name_address, value_address, size, flags, _] = call.args;
    let name = name(name_address)?;
    if size as usize > SIZE_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut value = vec![0; size as usize];
    user::read_bytes(value_address, &mut value)?;
    on(process, call, form, &mut |subject| {
        match subject {
            Subject::Path(instance, path) => instance.setxattr(path, &name, &value, flags as i32),
            Subject::Open(instance, handle) => instance.fsetxattr(handle, &name, &value, flags as i32),
        }
        .map(|()| 0)
    })
}

fn get(process: &'static Process, call: &Call, form: Form) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let [_, name_address, value_address, size, ..] = call.args;
    let name = name(name_address)?;
    read_out(process, call, form, value_address, size, |subject, value| match subject {
        Subject::Path(instance, path) => instance.getxattr(path, &name, value),
        Subject::Open(instance, handle) => instance.fgetxattr(handle, &name, value),
    })
}

fn list(process: &'static Process, call: &Call, form: Form) -> Served {
    let [_, list_address, size, ..] = call.args;
    read_out(process, call, form, list_address, size, |subject, list| match subject {
        Subject::Path(instance, path) => instance.listxattr(path, list),
        Subject::Open(instance, handle) => instance.flistxattr(handle, list),
    })
}

fn read_out(
    process: &'static Process,
    call: &Call,
    form: Form,
    address: u64,
    size: u64,
    mut read: impl FnMut(&Subject<'_>, &mut [u8]) -> plugin_abi::Result<usize>,
) -> Served {
    let mut buffer = vec![0; (size as usize).min(SIZE_MAX)];
    let mut length = None;
    let served = on(process, call, form, &mut |subject| {
        let count = read(subject, &mut buffer)?;
        length = Some(count);
        Ok(count as i64)
    })?;
    if let (Some(count), true) = (length, size > 0) {
        user::write_bytes(address, &buffer[..count.min(buffer.len())])?;
    }
    Ok(served)
}

fn remove(process: &'static Process, call: &Call, form: Form) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let name = name(call.args[1])?;
    on(process, call, form, &mut |subject| {
        match subject {
            Subject::Path(instance, path) => instance.removexattr(path, &name),
            Subject::Open(instance, handle) => instance.fremovexattr(handle, &name),
        }
        .map(|()| 0)
    })
}

fn is_native_fd(process: &'static Process, call: &Call, form: Form) -> bool {
    matches!(form, Form::Fd) && file::served(process, call.args[0] as RawFd).is_none()
}

macro_rules! calls {
    ($($name:ident = $operation:ident($form:expr);)*) => {$(
        pub fn $name(process: &'static Process, call: &Call) -> Served {
            $operation(process, call, $form)
        }
    )*};
}

calls! {
    setxattr = set(FOLLOW);
    lsetxattr = set(LINK);
    fsetxattr = set(Form::Fd);
    getxattr = get(FOLLOW);
    lgetxattr = get(LINK);
    fgetxattr = get(Form::Fd);
    listxattr = list(FOLLOW);
    llistxattr = list(LINK);
    flistxattr = list(Form::Fd);
    removexattr = remove(FOLLOW);
    lremovexattr = remove(LINK);
    fremovexattr = remove(Form::Fd);
}
