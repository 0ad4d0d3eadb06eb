//! Calls that are refused: whatever they concern, or where they concern a mount or a served FD. Which, and with which
//! error, is what their rows in the table say.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{Reply, Served, Server, sandbox};
use crate::namei::{Located, PathArgument};
use crate::process::{Cwd, Process};
use crate::resolve::PathBytes;
use crate::table::{self, PathArg, Treatment};
use crate::{file, native};

/// linux/mount.h
const MS_MOVE: u32 = 8192;

/// The function for a call whose row says that it is refused.
pub fn server(nr: u32) -> Option<Server> {
    match table::call(nr)?.treatment {
        Treatment::Refused(_) => Some(everywhere),
        Treatment::RefusedOnMount(_) if nr == sys::__NR_mount => Some(mount),
        Treatment::RefusedOnMount(_) if nr == sys::__NR_pivot_root => Some(pivot_root),
        Treatment::RefusedOnMount(_) => Some(on_mount),
        _ => None,
    }
}

fn everywhere(_: &'static Process, call: &Call) -> Served {
    match table::call(call.nr).map(|known| known.treatment) {
        Some(Treatment::Refused(error)) => Err(error),
        _ => Ok(Reply::Pass),
    }
}

fn on_mount(process: &'static Process, call: &Call) -> Served {
    let Some(known) = table::call(call.nr) else { return Ok(Reply::Pass) };
    let Treatment::RefusedOnMount(error) = known.treatment else { return Ok(Reply::Pass) };
    let is_served = |&fd: &u8| file::served(process, call.args[usize::from(fd)] as RawFd).is_some();
    if known.fds().iter().any(is_served) {
        return Err(error);
    }
    refuse_paths(process, call, known.paths(), error)
}

/// mount(2): the source is a path, too, when it says what to bind or move.
fn mount(process: &'static Process, call: &Call) -> Served {
    let from_path = call.args[3] as u32 & (sys::MS_BIND | MS_MOVE) != 0;
    let paths: &[PathArg] = if from_path { &[PathArg::Cwd(0), PathArg::Cwd(1)] } else { &[PathArg::Cwd(1)] };
    refuse_paths(process, call, paths, Errno::INVAL)
}

/// pivot_root(2): whose working directory was the old root gets the new one, in which plugins may not be found (bubblewrap is in an empty one for a moment).
fn pivot_root(process: &'static Process, call: &Call) -> Served {
    sandbox::load_plugins(process);
    let reply = match on_mount(process, call)? {
        Reply::Pass => Reply::Value(native::call(call)),
        made => made,
    };
    process.root_changed();
    Ok(reply)
}

/// `error` if any of the paths leads to a mount. The kernel gets the others, in words that lead it to the same place.
fn refuse_paths(process: &'static Process, call: &Call, paths: &[PathArg], error: Errno) -> Served {
    let mut args = call.args;
    // At most two paths; they stay where they are until the call is made.
    let mut rewritten = [PathBytes::new(), PathBytes::new()];
    for (&argument, place) in paths.iter().zip(&mut rewritten) {
        let (directory, path) = match argument {
            PathArg::Cwd(path) => (None, usize::from(path)),
            PathArg::At(directory, path) => (Some(usize::from(directory)), usize::from(path)),
        };
        let dirfd = directory.map_or(sys::AT_FDCWD, |position| call.args[position] as RawFd);
        match target(process, dirfd, call.args[path], directory.is_some()) {
            Target::Served => return Err(error),
            Target::Kernel(None) => {}
            Target::Kernel(Some(other)) => {
                *place = other;
                place.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
                args[path] = place.as_ptr() as u64;
                if let Some(position) = directory {
                    args[position] = sys::AT_FDCWD as u64;
                }
            }
        }
    }
    if args == call.args { Ok(Reply::Pass) } else { Ok(Reply::Value(native::raw_call(call.nr, args))) }
}

/// What a path argument leads to.
enum Target {
    Served,
    /// The kernel's; by this path, if not by the program's own words.
    Kernel(Option<PathBytes>),
}

/// Symbolic links are followed to the end. What is wrong with a path is for the kernel to say.
fn target(process: &'static Process, dirfd: RawFd, path: u64, relative_to_fd: bool) -> Target {
    let text = if path == 0 { None } else { PathArgument::read(dirfd, path).ok() };
    let Some(argument) = text.filter(|argument| !argument.text.is_empty()) else {
        // No path, or an empty one: where there is an FD it may be about that itself.
        let served = relative_to_fd && is_served_directory(process, dirfd);
        return if served { Target::Served } else { Target::Kernel(None) };
    };
    let located = match argument.locate(process) {
        Ok(Located::Native(None)) | Err(Errno::LOOP) => argument.walk(process, true),
        known => known,
    };
    match located {
        Ok(Located::Served(_)) => Target::Served,
        Ok(Located::Native(path)) => Target::Kernel(path),
        Err(_) => Target::Kernel(None),
    }
}

fn is_served_directory(process: &'static Process, dirfd: RawFd) -> bool {
    if dirfd == sys::AT_FDCWD {
        process.with_cwd(|cwd| matches!(cwd, Cwd::Served { .. }))
    } else {
        file::served(process, dirfd).is_some()
    }
}
