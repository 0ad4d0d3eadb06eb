//! The program's memory, as a system call names it: every access may find that it is not there (`EFAULT`).

use std::mem::MaybeUninit;

use interpose::usercopy;
use rustix::io::Errno;

/// Types that are plain bytes to the kernel: any bit pattern is a value.
///
/// # Safety
/// The type is `repr(C)` (or an integer), holds no references, and every bit pattern is valid for it.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and C structures of integers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array of such.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: a C structure of integers.
unsafe impl Plain for plugin_abi::stat {}
// SAFETY: as above.
unsafe impl Plain for plugin_abi::statfs {}
// SAFETY: as above.
unsafe impl Plain for plugin_abi::flock {}
// SAFETY: as above.
unsafe impl Plain for linux_raw_sys::general::statx {}

/// A value of nothing but zero bytes.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: any bit pattern is a value, zeros too.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Reads a value.
pub fn read<T: Plain>(address: u64) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the destination is `size_of::<T>()` initialised bytes of our own.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    usercopy::copy_from(bytes, address).map_err(|_| Errno::FAULT)?;
    // SAFETY: any bit pattern is a value.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value where the program asked for it.
pub fn write<T: Plain>(address: u64, value: &T) -> Result<(), Errno> {
    // SAFETY: the bytes of the structures above are all initialised: they come from the kernel, from a plugin's filled-in buffer,
    // or from `zeroed`.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
    write_bytes(address, bytes)
}

/// Writes bytes where the program asked for them.
pub fn write_bytes(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: callers pass an address that the program gave as the place for this system call's result.
    unsafe { usercopy::copy_to(address, bytes) }.map_err(|_| Errno::FAULT)
}

/// Reads bytes.
pub fn read_bytes(address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    usercopy::copy_from(bytes, address).map_err(|_| Errno::FAULT)
}

/// `EFAULT` unless `length` bytes at `address` can be read.
pub fn check_readable(address: u64, length: usize) -> Result<(), Errno> {
    usercopy::probe_read(address, length).map_err(|_| Errno::FAULT)
}

/// `EFAULT` unless `length` bytes at `address` can be written.
pub fn check_writable(address: u64, length: usize) -> Result<(), Errno> {
    usercopy::probe_write(address, length).map_err(|_| Errno::FAULT)
}
