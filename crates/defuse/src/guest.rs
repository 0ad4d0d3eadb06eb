//! Programs whose dynamic linker does not load this library, or that have none: run as guests of a process that has it.
//!
//! exec starts the *host* in their place, which is the `defuse` command ([`decide`]); in it this library's constructor has taken over what the image
//! before has left, and then [`defuse_run_guest`] maps the program and becomes it. See `docs/decisions/hosted-programs.md`.

pub mod decide;
mod layout;
mod map;
mod stack;

use std::ffi::c_int;
use std::sync::OnceLock;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::log::{self, Quoted};
use crate::native;
use layout::Layout;

/// The program that this process is to become.
static GUEST: OnceLock<Vec<u8>> = OnceLock::new();

/// Said by the constructor: this process is the host of the program at `path`.
pub fn announce(path: &[u8]) {
    let _ = GUEST.set(path.to_vec());
}

/// What keeps a program from being run, with which a shell would say that it cannot be.
const CANNOT_RUN: u64 = 126;

/// Called first by the host's `main`, with what that got. Comes back unless this process is the host of a program.
///
/// # Safety
/// The caller is `main`, nothing has been started yet, and what it passes is what it got.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn defuse_run_guest(
    _count: c_int,
    arguments: *const *const u8,
    environment: *const *const u8,
) {
    let Some(path) = GUEST.get() else { return };
    let error = match become_guest(path, arguments as u64, environment as u64) {
        Ok((entry, stack)) => {
            // SAFETY: the caller's promise; the constructor has installed the interposer.
            format!("{}", unsafe { interpose::start_guest(entry, stack) })
        }
        Err(errno) => format!("{errno}"),
    };
    log::line(log::Level::Error, format_args!("cannot run {}: {error}", Quoted(path)));
    native::raw_call(sys::__NR_exit_group, [CANNOT_RUN, 0, 0, 0, 0, 0]);
}

/// Maps the program at `path`, and its interpreter, and lays out its stack: where it begins, and with which stack pointer.
fn become_guest(path: &[u8], arguments: u64, environment: u64) -> Result<(u64, u64), Errno> {
    let (fd, layout) = open(path)?;
    let program = map::map(fd, &layout);
    native::close(fd);
    let program = program?;
    let interpreter = match &layout.interpreter {
        Some(interpreter) => {
            let (fd, layout) = open(interpreter)?;
            let interpreter = map::map(fd, &layout);
            native::close(fd);
            Some(interpreter?)
        }
        None => None,
    };
    let stack = stack::lay_out(path, arguments, environment, &program, interpreter.as_ref())?;
    Ok((interpreter.map_or(program.entry, |interpreter| interpreter.entry), stack))
}

fn open(path: &[u8]) -> Result<(c_int, Layout), Errno> {
    let name = [path, b"\0"].concat();
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    let fd = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags, 0, 0, 0, 0])?;
    let Some(layout) = Layout::read(fd) else {
        native::close(fd);
        return Err(Errno::NOEXEC);
    };
    Ok((fd, layout))
}
