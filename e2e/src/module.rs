//! What tests on mounts of the kernel module share.

use std::fs;

use rustix::mount::{UnmountFlags, unmount};

use crate::requirement;
use crate::session::Session;

/// A session where such mounts can be made. Elsewhere the test is skipped, which is said.
pub fn session_with_module() -> Option<Session> {
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\tdefuse\n")) {
        requirement::skip("the kernel module is not loaded");
        return None;
    }
    if !requirement::is_root() {
        requirement::skip("needs root");
        return None;
    }
    Session::new()
}

/// A mount at this point. After a failed test it does not stay.
#[derive(Debug)]
pub struct Detach(pub String);

impl Drop for Detach {
    fn drop(&mut self) {
        // Mostly the test has unmounted it already.
        let _ = unmount(self.0.as_str(), UnmountFlags::DETACH);
    }
}
