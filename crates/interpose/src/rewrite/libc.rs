//! Which libc an object is: for reports, never for decisions. What can be rewritten is read from the code.

use core::fmt;

use memchr::memmem;

use super::image::Image;

/// A C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library.
    Glibc {
        /// 2
        major: u32,
        /// 36, 41...
        minor: u32,
    },
    /// musl.
    Musl,
}

impl Libc {
    /// The libc that `object` is, by what it says of itself in its read-only data; `None` for anything else.
    pub fn identify(object: &Image) -> Option<Self> {
        object.data().find_map(|segment| in_strings(segment.bytes))
    }

    /// Whether the tests of this crate run on it. Others are rewritten by the same rules; look at the counts.
    pub fn is_tested(&self) -> bool {
        matches!(self, Self::Glibc { major: 2, minor: 36 | 41 })
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glibc { major, minor } => write!(f, "glibc {major}.{minor}"),
            Self::Musl => f.write_str("musl"),
        }
    }
}

fn in_strings(bytes: &[u8]) -> Option<Libc> {
    // "GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36."
    const GLIBC: &[u8] = b"GNU C Library (";
    const VERSION: &[u8] = b"release version ";
    const MUSL: &[u8] = b"musl libc (x86_64)";
    if let Some(banner) = memmem::find(bytes, GLIBC).map(|at| &bytes[at..])
        && let Some(version) = memmem::find(&banner[..banner.len().min(200)], VERSION)
    {
        let (major, rest) = number(&banner[version + VERSION.len()..])?;
        let (minor, _) = number(rest.strip_prefix(b".")?)?;
        return Some(Libc::Glibc { major, minor });
    }
    memmem::find(bytes, MUSL).map(|_| Libc::Musl)
}

fn number(text: &[u8]) -> Option<(u32, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = core::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    Some((value, &text[digits..]))
}
