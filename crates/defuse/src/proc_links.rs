//! Links in /proc and /dev that are about something served: they read differently for us and for the kernel.

use std::os::fd::RawFd;

use plugin_abi::Instance;
use rustix::io::Errno;

use crate::file::{self, FileRef};
use crate::namei::{self, Spot};
use crate::process::{Cwd, Process};
use crate::resolve::PathBytes;
use crate::{native, working_directory};

/// Where a link of /proc leads, if it is about something served: an open file, the working directory, the program.
pub fn magic_link(process: &'static Process, path: &[u8]) -> Result<Option<PathBytes>, Errno> {
    match own_proc(path) {
        Some(b"/cwd") => {
            let served = process.with_cwd(|cwd| matches!(cwd, Cwd::Served { .. }));
            if served { namei::working_path(process).map(Some) } else { Ok(None) }
        }
        Some(b"/exe") => Ok(process.executable.clone()),
        _ => proc_fd(process, path).map(|file| file.absolute_path()).transpose(),
    }
}

/// What readlink(2) of a link of /proc gives: as [`magic_link`], and it says when the name is gone.
pub fn magic_text(process: &'static Process, path: &[u8]) -> Result<Option<PathBytes>, Errno> {
    let Some(mut text) = magic_link(process, path)? else { return Ok(None) };
    let gone = match proc_fd(process, path) {
        Some(file) => file.with_handle(Instance::fgetattr).is_ok_and(|attributes| attributes.st_nlink == 0),
        None if own_proc(path) == Some(b"/cwd") && working_directory::is_removed(process) => true,
        None => match process.table.find(&text) {
            Some((mount, below)) if !below.is_empty() => {
                let below = PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?;
                Spot::new(&process.mounts[mount], below, false)?.call(Instance::getattr).is_err()
            }
            _ => false,
        },
    };
    if gone {
        text.try_extend_from_slice(b" (deleted)").map_err(|_| Errno::NAMETOOLONG)?;
    }
    Ok(Some(text))
}

/// The rest of a path after `/proc/self`, `/proc/thread-self` or `/proc/PID[/task/TID]` of this process.
fn own_proc(path: &[u8]) -> Option<&[u8]> {
    let rest = path.strip_prefix(b"/proc/")?;
    let (owner, rest) = rest.split_at(rest.iter().position(|&byte| byte == b'/')?);
    let own = match owner {
        b"self" | b"thread-self" => true,
        pid => parse(pid)? == native::pid(),
    };
    own.then(|| skip_task(rest))
}

/// The served file that a path of the form `/proc/self/fd/N`, `/proc/PID/fd/N` (of this process), `/dev/fd/N` or `/dev/stdin`
/// names.
pub fn proc_fd(process: &'static Process, path: &[u8]) -> Option<FileRef> {
    let number = match path {
        b"/dev/stdin" => 0,
        b"/dev/stdout" => 1,
        b"/dev/stderr" => 2,
        _ => {
            let digits = match path.strip_prefix(b"/dev/fd/") {
                Some(digits) => digits,
                None => own_proc(path)?.strip_prefix(b"/fd/")?,
            };
            parse(digits)? as RawFd
        }
    };
    file::served(process, number)
}

/// Takes a `/task/TID` away.
fn skip_task(rest: &[u8]) -> &[u8] {
    let Some(tail) = rest.strip_prefix(b"/task/") else { return rest };
    tail.iter().position(|&byte| byte == b'/').map_or(rest, |slash| &tail[slash..])
}

fn parse(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
