//! The names in a directory of the kernel's, without libc's streams: for calls that are served.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::native;

/// Calls `each` with every number in the open directory, a `/proc/PID/fd`.
pub fn for_each_number(directory: RawFd, mut each: impl FnMut(RawFd)) -> Result<(), Errno> {
    for_each_name(directory, |name| {
        if let Some(number) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
            each(number);
        }
        Ok(())
    })
}

/// Calls `each` with every name in the open directory but `.` and `..`, until one is an error.
pub fn for_each_name(
    directory: RawFd,
    mut each: impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    /// Where a `struct linux_dirent64` has its length and its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut buffer = [0u8; 2048];
    loop {
        let args = [directory as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0];
        let count = native::checked(sys::__NR_getdents64, args)? as usize;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let Some((entry, after)) = rest.split_at_checked(u16::from_ne_bytes([low, high]).into()) else {
                break;
            };
            rest = after;
            let name = entry.get(NAME..).unwrap_or_default();
            let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
            if !matches!(name, b"" | b"." | b"..") {
                each(name)?;
            }
        }
    }
}
