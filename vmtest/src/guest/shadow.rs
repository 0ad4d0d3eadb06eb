//! The module's ioctls as safe calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::{self, Cache, Ident, Live, MountInfo, Open};

/// What to open: filled in with the methods, then given to [`open`].
#[derive(Clone, Debug)]
pub struct Request {
    raw: Open,
    path: Vec<u8>,
}

/// A token that no other call in this process, or a child of it, gives.
fn fresh_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Request {
    /// A regular file, read and write, close-on-exec, owned by root, with a token of its own.
    pub fn file(ino: u64, path: impl AsRef<[u8]>) -> Request {
        let path = path.as_ref().to_vec();
        let open_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
        Request { raw: Open { dev: 7, ino, token: fresh_token(), open_flags, ..Open::default() }, path }
    }

    /// A directory.
    pub fn dir(ino: u64, path: impl AsRef<[u8]>) -> Request {
        let mut request = Request::file(ino, path);
        request.raw.flags = abi::OPEN_DIR;
        request.flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
    }

    /// With these `O_*` flags.
    pub fn flags(mut self, flags: i32) -> Request {
        self.raw.open_flags = flags as u32;
        self
    }

    /// On this device of the back end.
    pub fn dev(mut self, dev: u64) -> Request {
        self.raw.dev = dev;
        self
    }

    /// For this token.
    pub fn token(mut self, token: u64) -> Request {
        self.raw.token = token;
        self
    }

    /// Owned by this user.
    pub fn owner(mut self, uid: u32) -> Request {
        self.raw.uid = uid;
        self
    }

    /// The structure, to spoil.
    pub fn raw(&mut self) -> &mut Open {
        &mut self.raw
    }

    /// The token it will have.
    pub fn its_token(&self) -> u64 {
        self.raw.token
    }
}

/// `ioctl(fd, request, arg)`, for whatever arguments a test wants to try.
pub fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: *mut T) -> io::Result<i32> {
    // SAFETY: the kernel checks `arg`: callers in this module pass a live structure of the request's
    // type; the fuzzer passes addresses that are not mapped, or memory that it owns.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the ioctl has just made this FD for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `DEFUSE_IOC_OPEN` through any FD of the mount.
pub fn open(via: impl AsFd, request: &Request) -> io::Result<OwnedFd> {
    let mut raw = request.raw;
    if raw.path == 0 {
        raw.path = request.path.as_ptr() as u64;
        raw.path_len = request.path.len() as u32;
    }
    ioctl(via.as_fd(), abi::IOC_OPEN, &raw mut raw).map(owned)
}

/// `DEFUSE_IOC_IDENT`, and the path.
pub fn ident(fd: impl AsFd) -> io::Result<(Ident, Vec<u8>)> {
    let mut path = vec![0; abi::PATH_MAX];
    let mut raw = Ident { path: path.as_mut_ptr() as u64, path_len: path.len() as u32, ..Ident::default() };
    ioctl(fd.as_fd(), abi::IOC_IDENT, &raw mut raw)?;
    path.truncate(raw.path_len as usize);
    Ok((raw, path))
}

/// A user, as the kernel names him on one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(pub u64);

/// The user who opened this FD.
pub fn opener(fd: impl AsFd) -> User {
    User(ident(fd).expect("identify").0.user)
}

/// `DEFUSE_IOC_MOUNT`: the structure, backend and library.
pub fn mount_info(fd: impl AsFd) -> io::Result<(MountInfo, Vec<u8>, Vec<u8>)> {
    let (mut backend, mut library) = (vec![0; 4096], vec![0; 4096]);
    let mut raw = MountInfo {
        backend: backend.as_mut_ptr() as u64,
        library: library.as_mut_ptr() as u64,
        backend_len: 4096,
        library_len: 4096,
        ..MountInfo::default()
    };
    ioctl(fd.as_fd(), abi::IOC_MOUNT, &raw mut raw)?;
    backend.truncate(raw.backend_len as usize);
    library.truncate(raw.library_len as usize);
    Ok((raw, backend, library))
}

/// `DEFUSE_IOC_LIVE`: which of a user's tokens have an open description, and how many were closed.
pub fn live(fd: impl AsFd, User(user): User, tokens: &[u64]) -> io::Result<(Vec<bool>, u64)> {
    let mut alive = vec![0xAAu8; tokens.len()];
    let mut raw = Live {
        tokens: tokens.as_ptr() as u64,
        live: alive.as_mut_ptr() as u64,
        count: tokens.len() as u32,
        user,
        ..Live::default()
    };
    ioctl(fd.as_fd(), abi::IOC_LIVE, &raw mut raw)?;
    let alive = alive
        .into_iter()
        .map(|byte| {
            assert!(byte < 2, "the kernel wrote {byte:#x} for a token");
            byte == 1
        })
        .collect();
    Ok((alive, raw.closed))
}

/// The memory that an ioctl handed out.
#[derive(Debug)]
pub struct Memory {
    /// The tmpfs file.
    pub fd: OwnedFd,
    /// Its size when it was handed out, in bytes.
    pub size: u64,
    /// Whether this call made it.
    pub created: bool,
}

fn memory(fd: BorrowedFd<'_>, request: u64, size: u64) -> io::Result<Memory> {
    let mut raw = Cache { size, flags: abi::CACHE_CLOEXEC, created: 0 };
    let fd = owned(ioctl(fd, request, &raw mut raw)?);
    Ok(Memory { fd, size: raw.size, created: raw.created == 1 })
}

/// `DEFUSE_IOC_CACHE`.
pub fn cache(fd: impl AsFd, size: u64) -> io::Result<Memory> {
    memory(fd.as_fd(), abi::IOC_CACHE, size)
}

/// `DEFUSE_IOC_ARENA`.
pub fn arena(fd: impl AsFd, size: u64) -> io::Result<Memory> {
    memory(fd.as_fd(), abi::IOC_ARENA, size)
}
