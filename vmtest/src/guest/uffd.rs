//! As much of userfaultfd as the tests need: register memory, read a fault, fill its page.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const PAGE: usize = 4096;

#[repr(C)]
#[expect(clippy::struct_field_names, reason = "the header's names")]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const _: () = assert!(size_of::<Api>() == 24 && size_of::<Register>() == 32 && size_of::<Copy>() == 40);

const UFFDIO_API: u64 = 0xC018_AA3F;
const UFFDIO_REGISTER: u64 = 0xC020_AA00;
const UFFDIO_COPY: u64 = 0xC028_AA03;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

/// A userfaultfd.
pub struct Uffd(OwnedFd);

impl Uffd {
    /// A new one, for faults of the program only.
    pub fn new() -> io::Result<Uffd> {
        const USER_MODE_ONLY: i32 = 1;
        Uffd::with(USER_MODE_ONLY)
    }

    /// A new one, for faults of the kernel, too: root's.
    pub fn of_the_kernel_too() -> io::Result<Uffd> {
        Uffd::with(0)
    }

    fn with(flags: i32) -> io::Result<Uffd> {
        // SAFETY: takes flags only and returns a new FD.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the FD is new and ours.
        let uffd = Uffd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        uffd.ioctl(UFFDIO_API, &mut Api { api: 0xAA, features: 0, ioctls: 0 })?;
        Ok(uffd)
    }

    /// Catch missing pages of a mapping.
    pub fn register(&self, start: *mut u8, len: usize) -> io::Result<()> {
        let mut register = Register { start: start as u64, len: len as u64, mode: MODE_MISSING, ioctls: 0 };
        self.ioctl(UFFDIO_REGISTER, &mut register)
    }

    /// Wait for a fault: its address.
    pub fn fault(&self) -> u64 {
        let mut message = [0u8; 32];
        assert_eq!(rustix::io::read(&self.0, &mut message), Ok(32), "read a fault");
        assert_eq!(message[0], EVENT_PAGEFAULT);
        u64::from_ne_bytes(message[16..24].try_into().expect("eight bytes"))
    }

    /// Fill the page at `address`.
    pub fn fill(&self, address: u64, page: &[u8; PAGE]) -> io::Result<()> {
        let dst = address & !(PAGE as u64 - 1);
        let mut copy = Copy { dst, src: page.as_ptr() as u64, len: PAGE as u64, mode: 0, copied: 0 };
        self.ioctl(UFFDIO_COPY, &mut copy)
    }

    fn ioctl<T>(&self, request: u64, arg: &mut T) -> io::Result<()> {
        // SAFETY: each request is given its own structure, whose size the request's number holds.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, std::ptr::from_mut(arg)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
