//! The calls of libc, which must all succeed.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

/// With mode 0600 if it makes the file.
pub fn open(path: &CStr, flags: i32) -> i32 {
    // SAFETY: a C string.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    assert!(fd >= 0, "open {}: {}", path.to_string_lossy(), io::Error::last_os_error());
    fd
}

/// A descriptor of ours.
pub fn close(fd: i32) {
    // SAFETY: closes what the caller opened.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

/// All of `content`, at the descriptor's offset.
pub fn read(fd: i32, content: &mut [u8]) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::read(fd, content.as_mut_ptr().cast(), content.len()) };
    assert_eq!(count, content.len() as isize, "read: {}", io::Error::last_os_error());
}

/// All of `content`, at the descriptor's offset.
pub fn write(fd: i32, content: &[u8]) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::write(fd, content.as_ptr().cast(), content.len()) };
    assert_eq!(count, content.len() as isize, "write: {}", io::Error::last_os_error());
}

/// All of `content`, at `offset`.
pub fn pread(fd: i32, content: &mut [u8], offset: usize) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::pread(fd, content.as_mut_ptr().cast(), content.len(), offset as i64) };
    assert_eq!(count, content.len() as isize, "pread: {}", io::Error::last_os_error());
}

/// All of `content`, at `offset`.
pub fn pwrite(fd: i32, content: &[u8], offset: usize) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::pwrite(fd, content.as_ptr().cast(), content.len(), offset as i64) };
    assert_eq!(count, content.len() as isize, "pwrite: {}", io::Error::last_os_error());
}

/// To the beginning.
pub fn rewind(fd: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::lseek(fd, 0, libc::SEEK_SET) }, 0);
}

/// Data and attributes to the device.
pub fn fsync(fd: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::fsync(fd) }, 0, "fsync: {}", io::Error::last_os_error());
}

/// The attributes of a file that is there.
pub fn stat(path: &CStr) {
    assert!(size(path).is_some(), "stat {}: {}", path.to_string_lossy(), io::Error::last_os_error());
}

/// The length of a file, if it is there.
pub fn size(path: &CStr) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string, and room for the answer, which is there if the call succeeds.
    unsafe {
        let found = libc::stat(path.as_ptr(), stat.as_mut_ptr()) == 0;
        found.then(|| stat.assume_init().st_size as u64)
    }
}

/// Whether there was such a file.
pub fn unlink(path: &CStr) -> bool {
    // SAFETY: a C string.
    unsafe { libc::unlink(path.as_ptr()) == 0 }
}

/// A directory, if it is not there.
pub fn mkdir(path: &CStr) {
    // SAFETY: a C string.
    unsafe { libc::mkdir(path.as_ptr(), 0o700) };
}

/// A file with that content.
pub fn put(path: &CStr, content: &[u8], sync: bool) {
    let fd = open(path, libc::O_CREAT | libc::O_WRONLY);
    write(fd, content);
    if sync {
        fsync(fd);
    }
    close(fd);
}

/// The beginning of a file.
pub fn take(path: &CStr, content: &mut [u8]) {
    let fd = open(path, libc::O_RDONLY);
    read(fd, content);
    close(fd);
}
