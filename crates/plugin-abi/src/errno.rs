//! The error of every file system operation.

use core::fmt;

/// An errno value in 1..=4095, the range the kernel itself uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(core::num::NonZeroU16);

/// What operations return.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("errno(3) ", stringify!($name), ".")]
            pub const $name: Self = Self::from_raw(libc::$name);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.raw() {
                    $(libc::$name => f.write_str(stringify!($name)),)*
                    other => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR
    EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG
    ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA EOVERFLOW EOPNOTSUPP ETIMEDOUT ESTALE EDQUOT
}

impl Errno {
    /// From a number; anything outside 1..=4095 becomes `EIO`.
    pub const fn from_raw(raw: i32) -> Self {
        let known = if raw >= 1 && raw <= 4095 { raw } else { libc::EIO };
        match core::num::NonZeroU16::new(known as u16) {
            Some(value) => Self(value),
            None => unreachable!(),
        }
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0.get() as i32
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.raw())
    }
}

#[cfg(feature = "rustix")]
impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_raw(errno.raw_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn numbers_out_of_range_become_eio() {
        for raw in [0, -1, i32::MIN, 4096, i32::MAX] {
            assert_eq!(Errno::from_raw(raw), Errno::EIO);
        }
        assert_eq!(Errno::from_raw(libc::ENOSPC), Errno::ENOSPC);
        assert_eq!(Errno::from_raw(4095).raw(), 4095);
    }

    #[test]
    fn known_numbers_print_their_name() {
        assert_eq!(Errno::ELOOP.to_string(), "ELOOP");
        assert_eq!(Errno::from_raw(4000).to_string(), "errno 4000");
    }
}
