//! The items that the `userfaultfd` crate takes from `userfaultfd-sys`, without bindgen (which needs
//! libclang at build time). The root `Cargo.toml` puts this crate in place of the registry's; why:
//! `docs/decisions/uffd-bindings.md`.
//!
//! The structures are `linux-raw-sys`' (generated from the kernel's headers). The constants are its
//! as well, in the types that `userfaultfd` expects: `u8` for ioctl letters and events, else `u64`.

#![no_std]
#![forbid(unsafe_code)]
#![allow(missing_docs)] // Names of <linux/userfaultfd.h>, documented in ioctl_userfaultfd(2).

use linux_raw_sys::general as kernel;

pub use kernel::{
    uffd_msg, uffdio_api, uffdio_continue, uffdio_copy, uffdio_range, uffdio_register, uffdio_writeprotect,
    uffdio_zeropage,
};

macro_rules! constants {
    ($type:ty: $($name:ident)*) => { $(pub const $name: $type = kernel::$name as $type;)* };
}

constants!(u8: UFFDIO UFFD_EVENT_PAGEFAULT UFFD_EVENT_FORK UFFD_EVENT_REMAP UFFD_EVENT_REMOVE UFFD_EVENT_UNMAP);
constants!(u64: USERFAULTFD_IOC UFFD_API UFFD_USER_MODE_ONLY);
constants!(u64: _UFFDIO_REGISTER _UFFDIO_UNREGISTER _UFFDIO_WAKE _UFFDIO_COPY _UFFDIO_ZEROPAGE _UFFDIO_WRITEPROTECT
    _UFFDIO_CONTINUE _UFFDIO_API);
constants!(u64: UFFDIO_REGISTER_MODE_MISSING UFFDIO_REGISTER_MODE_WP UFFDIO_REGISTER_MODE_MINOR);
constants!(u64: UFFDIO_COPY_MODE_DONTWAKE UFFDIO_COPY_MODE_WP UFFDIO_ZEROPAGE_MODE_DONTWAKE);
constants!(u64: UFFD_PAGEFAULT_FLAG_WRITE UFFD_PAGEFAULT_FLAG_WP UFFD_PAGEFAULT_FLAG_MINOR);
constants!(u64: UFFD_FEATURE_PAGEFAULT_FLAG_WP UFFD_FEATURE_EVENT_FORK UFFD_FEATURE_EVENT_REMAP
    UFFD_FEATURE_EVENT_REMOVE UFFD_FEATURE_EVENT_UNMAP UFFD_FEATURE_MISSING_HUGETLBFS UFFD_FEATURE_MISSING_SHMEM
    UFFD_FEATURE_SIGBUS UFFD_FEATURE_THREAD_ID UFFD_FEATURE_MINOR_HUGETLBFS UFFD_FEATURE_MINOR_SHMEM);

// Enumerators, which linux-raw-sys does not export by these names.
pub const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
pub const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;
    use linux_raw_sys::ioctl;

    /// The ioctl number that the C macros make of direction, size, letter and number.
    fn request(direction: u32, size: usize, number: u64) -> u32 {
        direction << 30 | (size as u32) << 16 | u32::from(UFFDIO) << 8 | number as u32
    }

    /// Letters, numbers and structure sizes together give the kernel's request codes.
    #[test]
    fn request_codes_are_the_kernels() {
        const READ: u32 = 2;
        const READ_WRITE: u32 = 3;
        assert_eq!(request(READ_WRITE, size_of::<uffdio_api>(), _UFFDIO_API), ioctl::UFFDIO_API);
        assert_eq!(
            request(READ_WRITE, size_of::<uffdio_register>(), _UFFDIO_REGISTER),
            ioctl::UFFDIO_REGISTER
        );
        assert_eq!(request(READ, size_of::<uffdio_range>(), _UFFDIO_UNREGISTER), ioctl::UFFDIO_UNREGISTER);
        assert_eq!(request(READ, size_of::<uffdio_range>(), _UFFDIO_WAKE), ioctl::UFFDIO_WAKE);
        assert_eq!(request(READ_WRITE, size_of::<uffdio_copy>(), _UFFDIO_COPY), ioctl::UFFDIO_COPY);
        assert_eq!(
            request(READ_WRITE, size_of::<uffdio_zeropage>(), _UFFDIO_ZEROPAGE),
            ioctl::UFFDIO_ZEROPAGE
        );
        assert_eq!(
            request(READ_WRITE, size_of::<uffdio_writeprotect>(), _UFFDIO_WRITEPROTECT),
            ioctl::UFFDIO_WRITEPROTECT
        );
        assert_eq!(
            request(READ_WRITE, size_of::<uffdio_continue>(), _UFFDIO_CONTINUE),
            ioctl::UFFDIO_CONTINUE
        );
        assert_eq!(size_of::<uffd_msg>(), 32);
    }
}
