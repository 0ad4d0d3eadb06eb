//! What can be known of a program before it is executed: whether it will be intercepted for sure.

use std::io::Write;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::dynamic::{self, Headers, START};
use crate::native;
use crate::process::Process;
use crate::program::Header;
use crate::resolve::PathBytes;

/// The dynamic linker that reads `LD_PRELOAD` as this library expects it.
const LINKER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
/// Interpreters of interpreters, as in the kernel.
const NESTED: usize = 5;

/// Whether the kernel's file `path` (no NUL) becomes an image into which this library is loaded, whatever happens:
/// dynamically linked, by the linker we know, without privileges that make that one ignore `LD_PRELOAD`.
pub fn is_intercepted(process: &Process, path: &[u8]) -> bool {
    is_loadable(process) && program_obeys(path, NESTED)
}

/// Whether the next image finds the library, and memory for it.
fn is_loadable(process: &Process) -> bool {
    let mut library = process.library.clone();
    library.push(0);
    let found = native::checked(sys::__NR_access, [library.as_ptr() as u64, 4, 0, 0, 0, 0]).is_ok();
    let mut memory = [0u64; 2];
    let limit = [0, u64::from(sys::RLIMIT_AS), 0, memory.as_mut_ptr() as u64, 0, 0];
    let unlimited = native::checked(sys::__NR_prlimit64, limit).is_ok() && memory[0] == u64::MAX;
    library.starts_with(b"/") && found && unlimited && has_one_identity()
}

/// Not set-user-ID now: the kernel compares the next image's effective with this one's real identity.
fn has_one_identity() -> bool {
    let same = |number: u32| {
        let mut ids = [0u32; 3];
        let [real, effective, saved] = std::array::from_fn(|at| (&raw mut ids[at]) as u64);
        native::checked(number, [real, effective, saved, 0, 0, 0]).is_ok() && ids[0] == ids[1]
    };
    same(sys::__NR_getresuid) && same(sys::__NR_getresgid)
}

fn program_obeys(path: &[u8], nested: usize) -> bool {
    let mut name = path.to_vec();
    name.push(0);
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    let Ok(fd) = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags, 0, 0, 0, 0]) else {
        return false;
    };
    let mut start = [0; START];
    let obeys = is_unprivileged(fd) && {
        let count = dynamic::read_at(fd, &mut start, 0);
        let start = &start[..count];
        match Header::parse(start) {
            Ok(Header::Script { interpreter, .. }) => {
                nested > 0 && interpreter.starts_with(b"/") && {
                    native::close(fd);
                    return program_obeys(&interpreter, nested - 1);
                }
            }
            Ok(Header::Other) => {
                Headers::parse(start).and_then(|headers| headers.interpreter(fd)).as_deref() == Some(LINKER)
            }
            Err(_) => false,
        }
    };
    native::close(fd);
    obeys
}

/// Neither set-user-ID nor with capabilities of its own.
fn is_unprivileged(fd: RawFd) -> bool {
    let Ok(stat) = native::fstat(fd) else { return false };
    let name = c"security.capability".as_ptr() as u64;
    let capabilities = native::checked(sys::__NR_fgetxattr, [fd as u64, name, 0, 0, 0, 0]);
    stat.st_mode & sys::S_IFMT == sys::S_IFREG
        && stat.st_mode & (sys::S_ISUID | sys::S_ISGID) == 0
        && matches!(capabilities, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// A path of the kernel's to what `fd` has open.
pub fn path_of_fd(fd: RawFd) -> ArrayVec<u8, 32> {
    let mut path = ArrayVec::new();
    // Fits: the longest number has eleven digits.
    let _ = write!(path, "/proc/self/fd/{fd}");
    path
}

/// `EACCES` unless this process may execute the kernel's file at `path`.
pub fn check_executable(path: &PathBytes) -> Result<(), Errno> {
    let mut name = path.clone();
    name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    let args = [sys::AT_FDCWD as u64, name.as_ptr() as u64, 1, u64::from(sys::AT_EACCESS), 0, 0];
    native::checked(sys::__NR_faccessat2, args).map(drop)
}
