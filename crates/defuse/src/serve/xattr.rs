//! Extended attributes.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Handle, Instance, MountPath};
use rustix::io::Errno;

use super::attributes::{expect_no_link, is_empty};
use super::paths::{self, At};
use super::{Reply, Served, read_only};
use crate::file;
use crate::namei::{PathArgument, Spot};
use crate::process::Process;
use crate::resolve::PathBytes;
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

/// Whether an operation changes something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Change,
}

fn at_path(
    process: &'static Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
    (effect, operation): (Effect, Operation<'_>),
) -> Served {
    let on_mount = |spot: &Spot| {
        if at.follow || spot.directory {
            expect_no_link(spot)?;
        }
        if effect == Effect::Change {
            read_only::check_change(process, spot, at.follow)?;
        }
        spot.call(|instance, path| operation(&Subject::Path(instance, path)))
    };
    paths::lookup_argument(process, call, at, argument, on_mount)
}

fn on_fd(process: &'static Process, call: &Call, (effect, operation): (Effect, Operation<'_>)) -> Served {
    let Some(file) = file::served(process, call.args[0] as RawFd) else { return Ok(Reply::Pass) };
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if effect == Effect::Change {
        read_only::check_file(process, &file)?;
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

/// Which of the forms of a call it is.
#[derive(Clone, Copy)]
enum Form {
    Path(At),
    Fd,
    /// An empty path relative to the working directory.
    WorkingDirectory,
}

const FOLLOW: Form = Form::Path(At::cwd(0, true));
const LINK: Form = Form::Path(At::cwd(0, false));

impl Form {
    /// That of a call that begins with a directory FD, a path and flags; `None` if the kernel is to say what is wrong.
    fn at(call: &Call) -> Result<Option<Self>, Errno> {
        let [dirfd, path, flags, ..] = call.args;
        let flags = flags as u32;
        if flags & !(sys::AT_SYMLINK_NOFOLLOW | sys::AT_EMPTY_PATH) != 0 {
            return Ok(None);
        }
        if flags & sys::AT_EMPTY_PATH == 0 || !is_empty(path)? {
            return Ok(Some(Self::Path(At::dir(flags & sys::AT_SYMLINK_NOFOLLOW == 0))));
        }
        Ok(Some(if dirfd as RawFd == sys::AT_FDCWD { Self::WorkingDirectory } else { Self::Fd }))
    }
}

fn on(
    process: &'static Process,
    call: &Call,
    form: Form,
    effect: Effect,
    operation: Operation<'_>,
) -> Served {
    match form {
        Form::Path(at) => at_path(process, call, at, &at.argument(call)?, (effect, operation)),
        Form::Fd => on_fd(process, call, (effect, operation)),
        Form::WorkingDirectory => {
            let text = PathBytes::try_from(b".".as_slice()).map_err(|_| Errno::NAMETOOLONG)?;
            at_path(
                process,
                call,
                At::dir(true),
                &PathArgument { dirfd: sys::AT_FDCWD, text },
                (effect, operation),
            )
        }
    }
}

/// A value, and where it is: the last arguments of a call that sets or gets one.
#[derive(Clone, Copy)]
struct Value {
    address: u64,
    size: u64,
    flags: u32,
}

impl Value {
    /// The arguments of setxattr and getxattr (which has no flags) themselves.
    fn of(call: &Call) -> Self {
        let [_, _, address, size, flags, _] = call.args;
        Self { address, size, flags: flags as u32 }
    }

    /// linux/xattr.h: `struct xattr_args`, which setxattrat and getxattrat point to; `None` if the kernel is to say what is wrong.
    fn pointed_to(call: &Call) -> Result<Option<Self>, Errno> {
        const SIZE: u64 = 16;
        let [.., arguments, size] = call.args;
        if size != SIZE {
            return Ok(None);
        }
        let [address, rest] = user::read::<[u64; 2]>(arguments)?;
        Ok(Some(Self { address, size: rest & u64::from(u32::MAX), flags: (rest >> 32) as u32 }))
    }
}

fn set(process: &'static Process, call: &Call, form: Form, name_address: u64, from: Value) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let name = name(name_address)?;
    if from.size as usize > SIZE_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut value = vec![0; from.size as usize];
    user::read_bytes(from.address, &mut value)?;
    on(process, call, form, Effect::Change, &mut |subject| {
        match subject {
            Subject::Path(instance, path) => instance.setxattr(path, &name, &value, from.flags as i32),
            Subject::Open(instance, handle) => instance.fsetxattr(handle, &name, &value, from.flags as i32),
        }
        .map(|()| 0)
    })
}

fn get(process: &'static Process, call: &Call, form: Form, name_address: u64, to: Value) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let name = name(name_address)?;
    read_out(process, call, form, to.address, to.size, |subject, value| match subject {
        Subject::Path(instance, path) => instance.getxattr(path, &name, value),
        Subject::Open(instance, handle) => instance.fgetxattr(handle, &name, value),
    })
}

fn list(process: &'static Process, call: &Call, form: Form, list_address: u64, size: u64) -> Served {
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
    let served = on(process, call, form, Effect::None, &mut |subject| {
        let count = read(subject, &mut buffer)?;
        length = Some(count);
        Ok(count as i64)
    })?;
    if let (Some(count), true) = (length, size > 0) {
        user::write_bytes(address, &buffer[..count.min(buffer.len())])?;
    }
    Ok(served)
}

fn remove(process: &'static Process, call: &Call, form: Form, name_address: u64) -> Served {
    if is_native_fd(process, call, form) {
        return Ok(Reply::Pass);
    }
    let name = name(name_address)?;
    on(process, call, form, Effect::Change, &mut |subject| {
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
    ($($name:ident = |$call:ident| $operation:ident($form:expr $(, $argument:expr)*);)*) => {$(
        pub fn $name(process: &'static Process, $call: &Call) -> Served {
            $operation(process, $call, $form $(, $argument)*)
        }
    )*};
}

calls! {
    setxattr = |call| set(FOLLOW, call.args[1], Value::of(call));
    lsetxattr = |call| set(LINK, call.args[1], Value::of(call));
    fsetxattr = |call| set(Form::Fd, call.args[1], Value::of(call));
    getxattr = |call| get(FOLLOW, call.args[1], Value::of(call));
    lgetxattr = |call| get(LINK, call.args[1], Value::of(call));
    fgetxattr = |call| get(Form::Fd, call.args[1], Value::of(call));
    listxattr = |call| list(FOLLOW, call.args[1], call.args[2]);
    llistxattr = |call| list(LINK, call.args[1], call.args[2]);
    flistxattr = |call| list(Form::Fd, call.args[1], call.args[2]);
    removexattr = |call| remove(FOLLOW, call.args[1]);
    lremovexattr = |call| remove(LINK, call.args[1]);
    fremovexattr = |call| remove(Form::Fd, call.args[1]);
}

pub fn setxattrat(process: &'static Process, call: &Call) -> Served {
    match (Form::at(call)?, Value::pointed_to(call)?) {
        (Some(form), Some(value)) => set(process, call, form, call.args[3], value),
        _ => Ok(Reply::Pass),
    }
}

pub fn getxattrat(process: &'static Process, call: &Call) -> Served {
    match (Form::at(call)?, Value::pointed_to(call)?) {
        (Some(form), Some(value)) if value.flags == 0 => get(process, call, form, call.args[3], value),
        _ => Ok(Reply::Pass), // EINVAL, as in the kernel.
    }
}

pub fn listxattrat(process: &'static Process, call: &Call) -> Served {
    let Some(form) = Form::at(call)? else { return Ok(Reply::Pass) };
    list(process, call, form, call.args[3], call.args[4])
}

pub fn removexattrat(process: &'static Process, call: &Call) -> Served {
    let Some(form) = Form::at(call)? else { return Ok(Reply::Pass) };
    remove(process, call, form, call.args[3])
}
