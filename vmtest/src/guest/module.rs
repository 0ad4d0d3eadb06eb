//! Loading and unloading the kernel module.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The module's name.
pub const NAME: &str = "defuse";

/// `finit_module(2)`.
pub fn load(file: &Path) -> io::Result<()> {
    let file = File::open(file)?;
    // SAFETY: the FD is open and the parameters are an empty string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `delete_module(2)`; refused with `EWOULDBLOCK` while the module is used.
pub fn unload() -> io::Result<()> {
    // SAFETY: the name is a NUL-terminated string.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, c"defuse".as_ptr(), libc::O_NONBLOCK) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the module is there.
pub fn is_loaded() -> bool {
    fs::metadata(format!("/sys/module/{NAME}")).is_ok()
}

/// The module's slab caches.
pub const SLAB_CACHES: [&str; 2] = ["defuse_inode", "defuse_desc"];

/// Objects in use in a slab cache of the module, which must be loaded. The kernel is booted with `slab_nomerge`, without which a cache may be part of
/// another one and have no line of its own: a cache that is not there cannot count as empty.
pub fn slab_objects(cache: &str) -> u64 {
    let all = fs::read_to_string("/proc/slabinfo").expect("read slabinfo as root");
    let objects = all.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next() == Some(cache)).then(|| fields.next()?.parse().ok())?
    });
    objects.unwrap_or_else(|| panic!("/proc/slabinfo has no cache {cache}"))
}
