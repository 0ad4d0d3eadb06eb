//! What the kernel says of a descriptor of some process: `/proc/PID/fdinfo/FD` (`proc_pid_fdinfo(5)`).

use std::fmt::Display;
use std::os::fd::RawFd;

use linux_raw_sys::general as sys;

use crate::native;

/// What stands behind `name`, which ends in a colon, for `fd` of `process`: a pid, or `self`. Nothing if this process may not look.
pub fn field(process: impl Display, fd: RawFd, name: &str) -> Option<String> {
    let path = format!("/proc/{process}/fdinfo/{fd}\0");
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC);
    let info = native::new_fd(sys::__NR_open, [path.as_ptr() as u64, flags, 0, 0, 0, 0]).ok()?;
    let mut text = [0_u8; 512];
    let args = [info as u64, text.as_mut_ptr() as u64, text.len() as u64, 0, 0, 0];
    let read = native::checked(sys::__NR_read, args);
    native::close(info);
    let text = std::str::from_utf8(&text[..read.ok()? as usize]).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

/// The flags that it was opened with (open(2)).
pub fn flags(process: impl Display, fd: RawFd) -> Option<u32> {
    u32::from_str_radix(&field(process, fd, "flags:")?, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn it_says_how_a_file_was_opened() {
        let file = std::fs::OpenOptions::new().append(true).open("/dev/null").unwrap();
        let own = (sys::O_ACCMODE | sys::O_APPEND, sys::O_WRONLY | sys::O_APPEND);
        assert_eq!(flags("self", file.as_raw_fd()).map(|flags| flags & own.0), Some(own.1));
        assert_eq!(flags(std::process::id(), file.as_raw_fd()), flags("self", file.as_raw_fd()));
        assert_eq!((field("self", file.as_raw_fd(), "Pid:"), field("self", -1, "flags:")), (None, None));
    }
}
