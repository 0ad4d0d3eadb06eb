//! A number that is kept for the program while a plugin opens what is to stand there.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::file::identity;
use crate::native;
use crate::process::Process;
use crate::sync::Lock;

/// Those of all threads.
static RESERVED: Lock<Vec<RawFd>> = Lock::new(Vec::new());

/// The lowest number that was free, which the program's FD is to have: the plugin's descriptor may have to stay where the kernel opens it
/// ([`crate::locked_inodes`]), and would take it.
pub struct Reserved {
    fd: RawFd,
    /// What it is a duplicate of.
    of: RawFd,
}

impl Reserved {
    /// `EMFILE` if the program can have no more FDs.
    pub fn new(process: &Process) -> Result<Self, Errno> {
        let of = process.arena_fd;
        let args = [of as u64, sys::F_DUPFD_CLOEXEC.into(), 0, 0, 0, 0];
        let duplicate = || native::checked(sys::__NR_fcntl, args).map(|fd| fd as RawFd);
        if interpose::in_vfork_child() {
            return duplicate().map(|fd| Self { fd, of });
        }
        let mut reserved = RESERVED.lock();
        let fd = duplicate()?;
        reserved.push(fd);
        Ok(Self { fd, of })
    }

    /// The number.
    pub fn number(&self) -> RawFd {
        self.fd
    }

    /// Something else stands there now.
    pub fn given(self) {
        self.forget();
        std::mem::forget(self);
    }

    fn forget(&self) {
        if !interpose::in_vfork_child() {
            RESERVED.lock().retain(|&fd| fd != self.fd);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.forget();
        close(self.fd, self.of);
    }
}

/// Another thread may have closed it meanwhile, and opened something else.
fn close(fd: RawFd, of: RawFd) {
    if identity(fd) == identity(of) {
        native::close(fd);
    }
}

/// Before a fork, and [`after_fork`] on both sides.
pub fn before_fork() {
    RESERVED.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    RESERVED.release();
}

/// Those who have reserved numbers are threads of the parent. With the FD table in common they give them back.
pub fn in_forked_child(process: &Process, shares_files: bool) {
    for fd in std::mem::take(&mut *RESERVED.lock()) {
        if !shares_files {
            close(fd, process.arena_fd);
        }
    }
}
