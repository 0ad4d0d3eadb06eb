//! Extended attributes. Before Linux 6.13 they have no `*at` calls, so the path goes through /proc.

use crate::resolve::{Located, ProcPath};
use core::ffi::{CStr, c_int};
use plugin_abi::Result;
use rustix::fs::XattrFlags;
use std::os::fd::BorrowedFd;

pub(crate) fn get(at: &Located<'_>, name: &CStr, value: &mut [u8]) -> Result<usize> {
    let path = ProcPath::of(at.dir(), at.name())?;
    Ok(if value.is_empty() {
        rustix::fs::lgetxattr_query(path.as_c_str(), name)
    } else {
        rustix::fs::lgetxattr(path.as_c_str(), name, value)
    }?)
}

pub(crate) fn set(at: &Located<'_>, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
    let path = ProcPath::of(at.dir(), at.name())?;
    Ok(rustix::fs::lsetxattr(path.as_c_str(), name, value, XattrFlags::from_bits_retain(flags as u32))?)
}

pub(crate) fn list(at: &Located<'_>, list: &mut [u8]) -> Result<usize> {
    let path = ProcPath::of(at.dir(), at.name())?;
    Ok(if list.is_empty() {
        rustix::fs::llistxattr_query(path.as_c_str())
    } else {
        rustix::fs::llistxattr(path.as_c_str(), list)
    }?)
}

pub(crate) fn remove(at: &Located<'_>, name: &CStr) -> Result<()> {
    let path = ProcPath::of(at.dir(), at.name())?;
    Ok(rustix::fs::lremovexattr(path.as_c_str(), name)?)
}

pub(crate) fn fget(file: BorrowedFd<'_>, name: &CStr, value: &mut [u8]) -> Result<usize> {
    let empty = value.is_empty();
    Ok(if empty {
        rustix::fs::fgetxattr_query(file, name)
    } else {
        rustix::fs::fgetxattr(file, name, value)
    }?)
}

pub(crate) fn flist(file: BorrowedFd<'_>, list: &mut [u8]) -> Result<usize> {
    let empty = list.is_empty();
    Ok(if empty { rustix::fs::flistxattr_query(file) } else { rustix::fs::flistxattr(file, list) }?)
}
