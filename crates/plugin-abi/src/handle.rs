//! How a plugin's own handle type travels through the table as a `u64`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A type that fits into a `u64` and can be looked at there without being taken out.
///
/// `Box<T>`, `Arc<T>` and `OwnedFd` are implemented here; an `OwnedFd` needs no allocation at all.
///
/// # Safety
///
/// `from_raw(into_raw(x))` must be `x`, and `borrow` must be sound for as long as `raw` lives, from any
/// thread, until `from_raw` is called.
pub unsafe trait RawHandle: Sized + Send + Sync + 'static {
    /// Gives the value up for a number.
    fn into_raw(self) -> u64;
    /// Takes it back.
    ///
    /// # Safety
    /// `raw` came from `into_raw` and was not taken back before.
    unsafe fn from_raw(raw: u64) -> Self;
    /// Looks at it.
    ///
    /// # Safety
    /// `raw` came from `into_raw` and is not taken back while the reference lives.
    unsafe fn borrow(raw: &u64) -> &Self;
}

// SAFETY: a `Box` of a sized type is one pointer, as wide as `u64`.
unsafe impl<T: Send + Sync + 'static> RawHandle for Box<T> {
    fn into_raw(self) -> u64 {
        Box::into_raw(self) as u64
    }
    unsafe fn from_raw(raw: u64) -> Self {
        // SAFETY: the caller promises that `raw` is a pointer from `Box::into_raw`, taken back once.
        unsafe { Box::from_raw(raw as *mut T) }
    }
    unsafe fn borrow(raw: &u64) -> &Self {
        // SAFETY: `Box<T>` has the representation of `*mut T`; a shared reference to the box lends the
        // content and claims no unique access.
        unsafe { &*core::ptr::from_ref(raw).cast() }
    }
}

// SAFETY: an `Arc` of a sized type is one pointer, as wide as `u64`.
unsafe impl<T: Send + Sync + 'static> RawHandle for Arc<T> {
    fn into_raw(self) -> u64 {
        // SAFETY: both are one pointer wide and any bits are a valid `u64`; ownership moves into the number.
        unsafe { core::mem::transmute::<Self, u64>(self) }
    }
    unsafe fn from_raw(raw: u64) -> Self {
        // SAFETY: the caller promises that `raw` is from `into_raw`, taken back once.
        unsafe { core::mem::transmute::<u64, Self>(raw) }
    }
    unsafe fn borrow(raw: &u64) -> &Self {
        // SAFETY: `raw` holds the bits of an `Arc<T>`, at the same alignment.
        unsafe { &*core::ptr::from_ref(raw).cast() }
    }
}

// SAFETY: an `OwnedFd` is one non-negative `i32`; on this little-endian machine it is the first half of
// the `u64`.
unsafe impl RawHandle for OwnedFd {
    fn into_raw(self) -> u64 {
        std::os::fd::IntoRawFd::into_raw_fd(self) as u32 as u64
    }
    unsafe fn from_raw(raw: u64) -> Self {
        // SAFETY: the caller promises that `raw` is an owned descriptor, taken back once.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(raw as i32) }
    }
    unsafe fn borrow(raw: &u64) -> &Self {
        const { assert!(cfg!(target_endian = "little") && size_of::<OwnedFd>() == 4) };
        // SAFETY: `OwnedFd` is a transparent `i32`, the low half of `raw`, which lies first.
        unsafe { &*core::ptr::from_ref(raw).cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::RawHandle;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::Arc;

    fn round_trip<T: RawHandle>(value: T, look: impl Fn(&T) -> u64) {
        let before = look(&value);
        let raw = value.into_raw();
        // SAFETY: `raw` is from `into_raw` just above and taken back once, below.
        assert_eq!(look(unsafe { T::borrow(&raw) }), before);
        // SAFETY: as above.
        assert_eq!(look(&unsafe { T::from_raw(raw) }), before);
    }

    #[test]
    fn handles_survive_the_trip_through_a_number() {
        round_trip(Box::new(7_u64), |b| **b);
        round_trip(Arc::new(8_u64), |a| **a);
        let fd: OwnedFd = std::fs::File::open("/").unwrap().into();
        round_trip(fd, |fd| fd.as_raw_fd() as u64);
    }

    #[test]
    fn an_arc_is_released_when_taken_back() {
        let shared = Arc::new(());
        let raw = RawHandle::into_raw(Arc::clone(&shared));
        assert_eq!(Arc::strong_count(&shared), 2);
        // SAFETY: from `into_raw` above, taken back once.
        drop(unsafe { <Arc<()> as RawHandle>::from_raw(raw) });
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
