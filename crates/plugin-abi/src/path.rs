//! The one form of path that crosses the boundary.

use core::ffi::CStr;
use core::fmt;

/// A path inside a mount: starts with `/`, has no `.`, `..`, repeated or trailing `/`; `/` is the root.
///
/// A thin view of a C string: making one allocates nothing.
#[repr(transparent)]
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountPath(CStr);

impl MountPath {
    /// The root of the mount.
    pub const ROOT: &'static Self = Self::from_normalised(c"/");

    /// Takes a string the caller knows to be normalised (the host promises it to plugins).
    pub const fn from_normalised(path: &CStr) -> &Self {
        // SAFETY: `MountPath` is a transparent wrapper of `CStr`, so the two references have one layout.
        unsafe { &*(core::ptr::from_ref::<CStr>(path) as *const Self) }
    }

    /// Takes a string if it is normalised.
    pub fn new(path: &CStr) -> Option<&Self> {
        let bytes = path.to_bytes();
        let rest = bytes.strip_prefix(b"/")?;
        let proper = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
        (rest.is_empty() || rest.split(|&b| b == b'/').all(proper)).then(|| Self::from_normalised(path))
    }

    /// The whole path, with its leading `/`.
    pub const fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// The whole path without the NUL.
    pub const fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    /// For a `*at` call on a descriptor of the root: without the leading `/`, and `.` for the root.
    pub fn relative(&self) -> &CStr {
        if self.is_root() { c"." } else { tail(&self.0, 1) }
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.as_bytes() == b"/"
    }

    /// The names from the root down; none for `/`.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.as_bytes().split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// The parent's path without leading `/` (empty when that is the root) and the last component;
    /// `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &CStr)> {
        if self.is_root() {
            return None;
        }
        let bytes = self.as_bytes();
        let slash = bytes.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some((if slash == 0 { &[] } else { &bytes[1..slash] }, tail(&self.0, slash + 1)))
    }
}

/// The string from byte `start` on, which must not lie beyond its NUL.
fn tail(string: &CStr, start: usize) -> &CStr {
    let bytes = &string.to_bytes_with_nul()[start..];
    // SAFETY: a tail of a C string that includes its NUL is a C string: one NUL, at the end.
    unsafe { CStr::from_bytes_with_nul_unchecked(bytes) }
}

impl fmt::Debug for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::MountPath;
    use core::ffi::CStr;
    use rstest::rstest;

    #[rstest]
    #[case(c"/", true)]
    #[case(c"/a", true)]
    #[case(c"/a/b.c/..d", true)]
    #[case(c"", false)]
    #[case(c"a", false)]
    #[case(c"//", false)]
    #[case(c"/a/", false)]
    #[case(c"/a//b", false)]
    #[case(c"/./a", false)]
    #[case(c"/a/..", false)]
    fn only_normalised_paths_are_taken(#[case] path: &CStr, #[case] good: bool) {
        assert_eq!(MountPath::new(path).is_some(), good);
    }

    proptest::proptest! {
        /// Taken is exactly what is the same after being taken apart and put together.
        #[test]
        fn a_path_is_its_components(text in "[/.a]{0,8}") {
            let string = std::ffi::CString::new(text.clone()).unwrap();
            let names: Vec<_> = text.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect();
            let normalised = format!("/{}", names.join("/"));
            let taken = MountPath::new(&string);
            proptest::prop_assert_eq!(taken.is_some(), text == normalised);
            if let Some(path) = taken {
                let components: Vec<_> = path.components().map(|name| std::str::from_utf8(name).unwrap()).collect();
                proptest::prop_assert_eq!(components, names);
            }
        }
    }

    #[rstest]
    #[case(c"/", c".", None)]
    #[case(c"/a", c"a", Some((&b""[..], c"a")))]
    #[case(c"/a/b/c", c"a/b/c", Some((&b"a/b"[..], c"c")))]
    fn paths_come_apart(#[case] path: &CStr, #[case] relative: &CStr, #[case] split: Option<(&[u8], &CStr)>) {
        let path = MountPath::new(path).unwrap();
        assert_eq!(path.relative(), relative);
        assert_eq!(path.split(), split);
    }
}
