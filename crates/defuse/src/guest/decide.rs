//! Before exec: whether a program can be a guest. What is not known to work is left alone, and runs without the mounts as before.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;

use super::layout::Layout;
use crate::image::{self, Outsider};
use crate::namei::{Located, PathArgument};
use crate::process::Process;
use crate::resolve::PathBytes;
use crate::session::names;
use crate::{native, next_image};

/// What is executed in place of a program, and what is to be known of that.
pub struct Hosted {
    /// What the kernel executes.
    pub host: PathBytes,
    /// Where the program lies for the kernel, as the caller called it.
    pub file: PathBytes,
    /// What `/proc/self/exe` is to read.
    pub shown: Vec<u8>,
}

/// Whether the program at `path` (the kernel's), which cannot be intercepted as it is, can be a guest.
pub fn decide(process: &'static Process, why: Outsider, path: &PathBytes) -> Option<Hosted> {
    let host = host(process, why)?;
    // `can_have_guest` last of the cheap ones: it ends a dispatch of the program's own, so not where there is no host.
    if process.restricted.load(Ordering::Relaxed)
        || !may_be_executed(&host)
        || !has_stack()
        || !interpose::can_have_guest()
        || !next_image::is_intercepted(process, &host)
        || !may_be_executed(path)
    {
        return None;
    }
    let (layout, shown, found) = read(path, |fd| Some((Layout::read(fd)?, shown(fd)?, identity(fd)?)))?;
    // The host opens it after exec, which closes descriptors.
    let file = if goes_by_descriptor(path) { named(&shown, found)? } else { path.clone() };
    if let Some(interpreter) = &layout.interpreter {
        let interpreter = PathBytes::try_from(interpreter.as_slice()).ok()?;
        let text = interpreter.clone();
        let native = PathArgument { dirfd: sys::AT_FDCWD, text }.locate(process);
        let plain = |layout: Layout| !layout.fixed && layout.interpreter.is_none();
        if !matches!(native, Ok(Located::Native(None)))
            || !read(&interpreter, Layout::read).is_some_and(plain)
        {
            return None;
        }
    }
    Some(Hosted { host, file, shown })
}

/// Whether the program at `path` is one of those that [`decide`] is asked about, and there is a host for it.
pub fn may_be_guest(process: &Process, path: &[u8]) -> bool {
    if !process.hosts {
        return false;
    }
    image::look(sys::AT_FDCWD, path)
        .and_then(|why| host(process, why))
        .is_some_and(|host| may_be_executed(&host))
}

/// The session's link to the command, which need not be there.
fn host(process: &Process, why: Outsider) -> Option<PathBytes> {
    let name = match why {
        _ if !process.hosts => return None,
        Outsider::Musl => names::HOST,
        Outsider::Static => names::HOST_OF_STATIC,
        _ => return None,
    };
    let mut host = PathBytes::new();
    for part in [process.folder.as_slice(), b"/", name.as_bytes()] {
        host.try_extend_from_slice(part).ok()?;
    }
    Some(host)
}

/// As [`decide`], of the program that `fd` has open: by its name, if it has one.
pub fn decide_by_fd(process: &'static Process, why: Outsider, fd: RawFd) -> Option<Hosted> {
    decide(process, why, &named(&shown(fd)?, identity(fd)?)?)
}

/// Whether a kernel's path may lead through a descriptor.
fn goes_by_descriptor(path: &[u8]) -> bool {
    path.starts_with(b"/proc/") || path.starts_with(b"/dev/")
}

/// `shown` as a path, if the file there is this one.
fn named(shown: &[u8], wanted: (u64, u64)) -> Option<PathBytes> {
    let path = PathBytes::try_from(shown).ok()?;
    (read(&path, identity)? == wanted).then_some(path)
}

/// Tells a file from all others.
fn identity(fd: RawFd) -> Option<(u64, u64)> {
    native::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// What `look` finds in the file at `path`, if it can be read and gives nobody rights.
fn read<T>(path: &PathBytes, look: impl FnOnce(RawFd) -> Option<T>) -> Option<T> {
    let mut name = path.clone();
    name.try_push(0).ok()?;
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    let fd = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags, 0, 0, 0, 0]).ok()?;
    let regular = native::fstat(fd).is_ok_and(|stat| stat.st_mode & sys::S_IFMT == sys::S_IFREG);
    let mappable = native::fstatfs(fd).is_ok_and(|found| found.f_flags as u32 & sys::MS_NOEXEC == 0);
    let found = if regular && mappable && !image::is_privileged(fd) { look(fd) } else { None };
    native::close(fd);
    found
}

/// Whether the host's stack has room for what the host does and for the program.
fn has_stack() -> bool {
    const NEEDED: u64 = 1024 * 1024;
    let mut limit = [0u64; 2];
    let args = [0, u64::from(sys::RLIMIT_STACK), 0, limit.as_mut_ptr() as u64, 0, 0];
    native::checked(sys::__NR_prlimit64, args).is_ok() && limit[0] >= NEEDED
}

/// The kernel would execute it: else its own answer is the right one.
fn may_be_executed(path: &PathBytes) -> bool {
    next_image::check_executable(path).is_ok()
}

/// The absolute path of an open file.
fn shown(fd: RawFd) -> Option<Vec<u8>> {
    let mut link = next_image::path_of_fd(fd);
    link.try_push(0).ok()?;
    let mut text = vec![0; sys::PATH_MAX as usize];
    let args = [link.as_ptr() as u64, text.as_mut_ptr() as u64, text.len() as u64, 0, 0, 0];
    let length = native::checked(sys::__NR_readlink, args).ok()? as usize;
    text.truncate(length);
    text.shrink_to_fit();
    Some(text)
}
