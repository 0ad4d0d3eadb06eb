//! A path that is being worked on.

use std::ops::Deref;

use rustix::io::Errno;
use smallvec::SmallVec;

use crate::resolve::PATH_MAX;

/// What most paths fit in with what is added to them.
const USUAL: usize = 128;

/// A path of at most `PATH_MAX` bytes. Most lie in the value itself, as the heap is one for all threads and takes longer than copying them;
/// long ones in our own heap: it is moved often, and moving 4 KiB each time took longer than the system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathBytes(SmallVec<[u8; USUAL]>);

impl PathBytes {
    /// An empty path. Allocates nothing.
    pub const fn new() -> Self {
        Self(SmallVec::new_const())
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Adds a byte.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG`; nothing was added.
    pub fn try_push(&mut self, byte: u8) -> Result<(), Errno> {
        self.try_extend_from_slice(&[byte])
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG`; nothing was added.
    pub fn try_extend_from_slice(&mut self, more: &[u8]) -> Result<(), Errno> {
        let length = self.0.len() + more.len();
        if length > PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if length > self.0.capacity() {
            // Once for most.
            self.0.reserve(more.len().max(2 * USUAL));
        }
        self.0.extend_from_slice(more);
        Ok(())
    }

    /// Keeps the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Keeps nothing.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the first `length` bytes away.
    pub fn remove_front(&mut self, length: usize) {
        self.0.drain(..length);
    }
}

impl TryFrom<&[u8]> for PathBytes {
    type Error = Errno;

    fn try_from(bytes: &[u8]) -> Result<Self, Errno> {
        let mut path = Self::new();
        path.try_extend_from_slice(bytes)?;
        Ok(path)
    }
}

impl Deref for PathBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::PathBytes;
    use crate::resolve::PATH_MAX;

    /// The heap is one for all threads.
    #[test]
    fn a_usual_path_is_not_on_the_heap() {
        let mut path = PathBytes::try_from([b'x'; 127].as_slice()).unwrap();
        path.try_push(0).unwrap();
        let (address, value) = (path.as_ptr().addr(), std::ptr::from_ref(&path).addr());
        assert!((value..value + size_of::<PathBytes>()).contains(&address));
        path.try_push(b'y').unwrap();
        assert_eq!((path.len(), &path[126..]), (129, b"x\0y".as_slice()));
        assert!(size_of::<PathBytes>() <= 136);
    }

    #[test]
    fn a_path_ends_at_path_max() {
        let mut path = PathBytes::try_from([b'x'; PATH_MAX - 1].as_slice()).unwrap();
        assert!(path.try_extend_from_slice(b"yz").is_err());
        assert_eq!(path.len(), PATH_MAX - 1);
        path.try_push(b'y').unwrap();
        assert!(path.try_push(b'z').is_err());
        path.remove_front(PATH_MAX - 2);
        assert_eq!(path.as_slice(), b"xy");
        assert!(PathBytes::try_from([0; PATH_MAX + 1].as_slice()).is_err());
    }
}
