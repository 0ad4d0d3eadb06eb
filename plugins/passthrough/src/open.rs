//! From the flags of open(2) to those of openat2(2).

use core::ffi::c_ulong;
use rustix::fs::{Mode, OFlags, fstat};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Flags of open(2) that openat2(2) takes too.
const KNOWN_FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | 0o100_000 // O_LARGEFILE, which libc defines as 0 here
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_TMPFILE) as u32;

/// openat2 refuses what open ignores: unknown flags, flags beside `O_PATH`, and a mode where nothing is made.
pub(crate) fn for_openat2(flags: u32, mode: u32) -> (OFlags, Mode) {
    let tmpfile = libc::O_TMPFILE as u32;
    let (flags, creates) = if flags & libc::O_PATH as u32 == 0 {
        // An append flag would bend every positional write.
        let creates = flags & libc::O_CREAT as u32 != 0 || flags & tmpfile == tmpfile;
        (flags & KNOWN_FLAGS & !(libc::O_APPEND as u32), creates)
    } else {
        let known = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u32;
        (flags & known | libc::O_NOFOLLOW as u32, false)
    };
    let mode = if creates { mode & 0o7777 } else { 0 };
    (OFlags::from_bits_retain(flags), Mode::from_raw_mode(mode))
}

/// `<asm-generic/ioctls.h>`; libc has no name for it here.
const FIOQSIZE: c_ulong = 0x5460;

/// Whether what was opened is the program's own to use (files if `files` says so, and what is neither file nor directory), and
/// its type as `S_IFMT` bits where that is known. Asks the kernel as little as it can: `fstat` takes as long as a small read.
pub(crate) fn is_native(fd: BorrowedFd<'_>, files: bool, asked: OFlags) -> rustix::io::Result<(bool, u32)> {
    let writes = asked.intersects(OFlags::WRONLY | OFlags::RDWR);
    if asked.contains(OFlags::CREATE | OFlags::EXCL) {
        return Ok((files, libc::S_IFREG));
    }
    if files {
        // Anything but a directory, which is never opened for writing and has no bytes to read.
        if writes || answers(fd, libc::FIONREAD) {
            return Ok((true, 0));
        }
    } else if answers(fd, FIOQSIZE) {
        // A file or a directory.
        return Ok((false, if writes { libc::S_IFREG } else { 0 }));
    }
    let mode_type = fstat(fd)?.st_mode & libc::S_IFMT;
    let native = match mode_type {
        libc::S_IFDIR => false,
        libc::S_IFREG => files,
        _ => true,
    };
    Ok((native, mode_type))
}

/// Whether there is an answer to this question about sizes.
fn answers(fd: BorrowedFd<'_>, question: c_ulong) -> bool {
    let mut size: i64 = 0;
    // SAFETY: both questions write an integer of at most eight bytes.
    unsafe { libc::ioctl(fd.as_raw_fd(), question as _, &raw mut size) == 0 }
}

#[cfg(test)]
mod tests {
    use super::for_openat2;
    use rstest::rstest;
    use rustix::fs::{Mode, OFlags};

    #[rstest]
    #[case::append(libc::O_WRONLY | libc::O_APPEND, OFlags::WRONLY, 0)]
    #[case::unknown(libc::O_RDWR | 1 << 30, OFlags::RDWR, 0)]
    #[case::async_io(libc::O_RDONLY | libc::O_ASYNC, OFlags::RDONLY, 0)]
    #[case::path(libc::O_PATH | libc::O_RDWR | libc::O_CREAT, OFlags::PATH.union(OFlags::NOFOLLOW), 0)]
    #[case::create(libc::O_RDWR | libc::O_CREAT, OFlags::RDWR.union(OFlags::CREATE), 0o644)]
    #[case::nameless(libc::O_RDWR | libc::O_TMPFILE, OFlags::RDWR.union(OFlags::TMPFILE), 0o644)]
    fn only_what_openat2_takes_is_passed(#[case] flags: i32, #[case] expected: OFlags, #[case] mode: u32) {
        let (got, got_mode) = for_openat2(flags as u32, 0o644 | libc::S_IFREG);
        assert_eq!((got, got_mode), (expected, Mode::from_raw_mode(mode)));
    }
}
