//! Extended attributes.

use super::{Handle, Instance, missing};
use crate::errno::{Errno, Result};
use crate::path::MountPath;
use core::ffi::{CStr, c_int};

impl Instance {
    /// lgetxattr(2); an empty buffer asks for the length.
    pub fn getxattr(&self, path: &MountPath, name: &CStr, value: &mut [u8]) -> Result<usize> {
        let (buf, size, mut len) = (value.as_mut_ptr().cast(), value.len(), 0);
        let answer = op!(self.getxattr(path.as_c_str().as_ptr(), name.as_ptr(), buf, size, &raw mut len));
        self.xattr_len("getxattr", answer, len, size)
    }

    /// lsetxattr(2).
    pub fn setxattr(&self, path: &MountPath, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        let (buf, size) = (value.as_ptr().cast(), value.len());
        let answer = op!(self.setxattr(path.as_c_str().as_ptr(), name.as_ptr(), buf, size, flags));
        missing(answer, Err(Errno::EOPNOTSUPP))
    }

    /// llistxattr(2); an empty buffer asks for the length.
    pub fn listxattr(&self, path: &MountPath, list: &mut [u8]) -> Result<usize> {
        let (buf, size, mut len) = (list.as_mut_ptr().cast(), list.len(), 0);
        let answer = op!(self.listxattr(path.as_c_str().as_ptr(), buf, size, &raw mut len));
        self.xattr_len("listxattr", answer, len, size)
    }

    /// lremovexattr(2).
    pub fn removexattr(&self, path: &MountPath, name: &CStr) -> Result<()> {
        missing(op!(self.removexattr(path.as_c_str().as_ptr(), name.as_ptr())), Err(Errno::EOPNOTSUPP))
    }

    /// fgetxattr(2).
    pub fn fgetxattr(&self, handle: &Handle, name: &CStr, value: &mut [u8]) -> Result<usize> {
        let (buf, size, mut len) = (value.as_mut_ptr().cast(), value.len(), 0);
        let answer = op!(self.fgetxattr(handle.0, name.as_ptr(), buf, size, &raw mut len));
        self.xattr_len("fgetxattr", answer, len, size)
    }

    /// fsetxattr(2).
    pub fn fsetxattr(&self, handle: &Handle, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        let (buf, size) = (value.as_ptr().cast(), value.len());
        missing(op!(self.fsetxattr(handle.0, name.as_ptr(), buf, size, flags)), Err(Errno::EOPNOTSUPP))
    }

    /// flistxattr(2).
    pub fn flistxattr(&self, handle: &Handle, list: &mut [u8]) -> Result<usize> {
        let (buf, size, mut len) = (list.as_mut_ptr().cast(), list.len(), 0);
        let answer = op!(self.flistxattr(handle.0, buf, size, &raw mut len));
        self.xattr_len("flistxattr", answer, len, size)
    }

    /// fremovexattr(2).
    pub fn fremovexattr(&self, handle: &Handle, name: &CStr) -> Result<()> {
        missing(op!(self.fremovexattr(handle.0, name.as_ptr())), Err(Errno::EOPNOTSUPP))
    }

    fn xattr_len(&self, operation: &str, answer: Result<()>, len: usize, size: usize) -> Result<usize> {
        /// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
        const LIMIT: usize = 65536;
        missing(answer, Err(Errno::EOPNOTSUPP))?;
        self.at_most(operation, len, if size == 0 { LIMIT } else { size })
    }
}
