//! Data in and out of open files.

use super::{Handle, Instance, missing, signed};
use crate::abi;
use crate::errno::{Errno, Result};
use crate::types::{Capabilities, Written};
use core::ffi::c_int;
use libc::{iovec, off_t};
use std::io::{IoSlice, IoSliceMut};

impl Instance {
    /// Reads at `offset`.
    #[inline]
    pub fn read(&self, handle: &Handle, buf: &mut [u8], offset: u64) -> Result<usize> {
        // SAFETY: the slice is valid memory.
        unsafe { self.read_raw(handle, buf.as_mut_ptr(), buf.len(), offset) }
    }

    /// Reads into memory of the program's choice.
    ///
    /// # Safety
    /// `buf` has `len` bytes that may be written. A plugin that only passes the address to a system call
    /// answers `EFAULT` for a bad one; one that copies does not survive it.
    #[inline]
    pub unsafe fn read_raw(&self, handle: &Handle, buf: *mut u8, len: usize, offset: u64) -> Result<usize> {
        let (offset, mut count) = (signed(offset)?, 0);
        op!(self.read(handle.0, buf.cast(), len, offset, &raw mut count))?;
        self.at_most("read", count, len)
    }

    /// Writes at `offset`, or at the end when `append`.
    ///
    /// Without [`Capabilities::APPEND`] an append is a look at the size and a write: the caller must keep
    /// other appends to this file away meanwhile.
    #[inline]
    pub fn write(&self, handle: &Handle, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        // SAFETY: the slice is valid memory.
        unsafe { self.write_raw(handle, buf.as_ptr(), buf.len(), offset, append) }
    }

    /// Writes from memory of the program's choice.
    ///
    /// # Safety
    /// `buf` has `len` readable bytes; see [`read_raw`](Self::read_raw).
    #[inline]
    pub unsafe fn write_raw(
        &self,
        handle: &Handle,
        buf: *const u8,
        len: usize,
        offset: u64,
        append: bool,
    ) -> Result<Written> {
        let (at, flags) = self.write_target(handle, offset, append)?;
        let (mut count, mut end) = (0, -1);
        op!(self.write(handle.0, buf.cast(), len, at, flags, &raw mut count, &raw mut end))?;
        self.written("write", count, len, at, flags, end)
    }

    fn write_target(&self, handle: &Handle, offset: u64, append: bool) -> Result<(off_t, u32)> {
        if !append {
            return Ok((signed(offset)?, 0));
        }
        if self.capabilities.contains(Capabilities::APPEND) {
            return Ok((signed(offset)?, abi::DEFUSE_WRITE_APPEND));
        }
        Ok((self.fgetattr(handle)?.st_size, 0))
    }

    fn written(
        &self,
        op: &str,
        count: usize,
        asked: usize,
        at: off_t,
        flags: u32,
        end: off_t,
    ) -> Result<Written> {
        let count = self.at_most(op, count, asked)?;
        if flags & abi::DEFUSE_WRITE_APPEND == 0 {
            return Ok(Written { count, end: at as u64 + count as u64 });
        }
        if end < count as off_t {
            return Err(self.impossible(op, format_args!("appended {count} bytes and reports the end {end}")));
        }
        Ok(Written { count, end: end as u64 })
    }

    /// Reads into several buffers.
    pub fn readv(&self, handle: &Handle, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        // SAFETY: `IoSliceMut` has the layout of an iovec, and each lends valid memory.
        unsafe {
            self.readv_raw(handle, core::slice::from_raw_parts(bufs.as_ptr().cast(), bufs.len()), offset)
        }
    }

    /// Reads into several pieces of memory of the program's choice.
    ///
    /// # Safety
    /// As for [`read_raw`](Self::read_raw), for each.
    pub unsafe fn readv_raw(&self, handle: &Handle, iov: &[iovec], offset: u64) -> Result<usize> {
        let total = total_len(iov)?;
        let (at, mut count) = (signed(offset)?, 0);
        match op!(self.readv(handle.0, iov.as_ptr(), iov.len() as c_int, at, &raw mut count)) {
            Err(Errno::ENOSYS) => {}
            answer => return answer.and_then(|()| self.at_most("readv", count, total)),
        }
        let mut done = 0;
        for piece in iov {
            // SAFETY: the caller's promise.
            let step =
                unsafe { self.read_raw(handle, piece.iov_base.cast(), piece.iov_len, offset + done as u64) };
            match step {
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            if step != Ok(piece.iov_len) {
                break;
            }
        }
        Ok(done)
    }

    /// Writes from several buffers.
    pub fn writev(
        &self,
        handle: &Handle,
        bufs: &[IoSlice<'_>],
        offset: u64,
        append: bool,
    ) -> Result<Written> {
        // SAFETY: `IoSlice` has the layout of an iovec, and each lends valid memory.
        unsafe {
            self.writev_raw(
                handle,
                core::slice::from_raw_parts(bufs.as_ptr().cast(), bufs.len()),
                offset,
                append,
            )
        }
    }

    /// Writes from several pieces of memory of the program's choice.
    ///
    /// An append is one write of the plugin's whatever it offers: nobody else's data comes between the pieces, nor under them.
    ///
    /// # Safety
    /// As for [`write_raw`](Self::write_raw), for each. The pieces of an append are read here if there are several and the plugin
    /// has no `writev`: then they are readable in any case.
    pub unsafe fn writev_raw(
        &self,
        handle: &Handle,
        iov: &[iovec],
        offset: u64,
        append: bool,
    ) -> Result<Written> {
        let total = total_len(iov)?;
        let (at, flags) = self.write_target(handle, offset, append)?;
        let (mut count, mut end) = (0, -1);
        match op!(self.writev(
            handle.0,
            iov.as_ptr(),
            iov.len() as c_int,
            at,
            flags,
            &raw mut count,
            &raw mut end
        )) {
            Err(Errno::ENOSYS) => {}
            answer => return answer.and_then(|()| self.written("writev", count, total, at, flags, end)),
        }
        let pieces = || iov.iter().filter(|piece| piece.iov_len > 0);
        if flags & abi::DEFUSE_WRITE_APPEND != 0 && pieces().nth(1).is_some() {
            // A second write would have to say where, and another append may have put the end elsewhere by then.
            // SAFETY: the caller's promise.
            let bytes = unsafe { gather(iov, total)? };
            return self.write(handle, &bytes, offset, true);
        }
        let append = flags & abi::DEFUSE_WRITE_APPEND != 0;
        let mut sum = Written { count: 0, end: at as u64 };
        for piece in pieces() {
            // SAFETY: the caller's promise.
            let step =
                unsafe { self.write_raw(handle, piece.iov_base.cast(), piece.iov_len, sum.end, append) };
            match step {
                Ok(written) => sum = Written { count: sum.count + written.count, end: written.end },
                Err(errno) if sum.count == 0 => return Err(errno),
                Err(_) => break,
            }
            if step.is_ok_and(|written| written.count < piece.iov_len) {
                break;
            }
        }
        Ok(sum)
    }

    /// fsync(2), fdatasync(2).
    pub fn fsync(&self, handle: &Handle, datasync: bool) -> Result<()> {
        missing(op!(self.fsync(handle.0, c_int::from(datasync))), Ok(()))
    }

    /// fallocate(2).
    pub fn fallocate(&self, handle: &Handle, mode: c_int, offset: u64, len: u64) -> Result<()> {
        let (offset, len) = (signed(offset)?, signed(len)?);
        missing(op!(self.fallocate(handle.0, mode, offset, len)), Err(Errno::EOPNOTSUPP))
    }

    /// `SEEK_DATA` or `SEEK_HOLE`.
    pub fn lseek(&self, handle: &Handle, offset: u64, whence: c_int) -> Result<u64> {
        let (at, mut found) = (signed(offset)?, -1);
        match op!(self.lseek(handle.0, at, whence, &raw mut found)) {
            Ok(()) if found < at => {
                Err(self.impossible("lseek", format_args!("went back from {offset} to {found}")))
            }
            Ok(()) => Ok(found as u64),
            Err(Errno::ENOSYS) => {
                let size = self.fgetattr(handle)?.st_size as u64;
                match whence {
                    _ if offset >= size => Err(Errno::ENXIO),
                    libc::SEEK_DATA => Ok(offset),
                    libc::SEEK_HOLE => Ok(size),
                    _ => Err(Errno::EINVAL),
                }
            }
            Err(errno) => Err(errno),
        }
    }

    /// Copies inside the mount.
    pub fn copy_range(
        &self,
        from: &Handle,
        from_at: u64,
        to: &Handle,
        to_at: u64,
        len: usize,
    ) -> Result<usize> {
        let (from_at, to_at, mut copied) = (signed(from_at)?, signed(to_at)?, 0);
        let answer = op!(self.copy_range(from.0, from_at, to.0, to_at, len, &raw mut copied));
        missing(answer, Err(Errno::EOPNOTSUPP))?;
        self.at_most("copy_range", copied, len)
    }
}

/// The bytes of all pieces, `total` in number.
///
/// # Safety
/// Each piece is readable.
unsafe fn gather(iov: &[iovec], total: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(total).map_err(|_| Errno::ENOMEM)?;
    for piece in iov.iter().filter(|piece| piece.iov_len > 0) {
        // SAFETY: the caller's promise; a piece with bytes is not at address zero.
        bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len) });
    }
    Ok(bytes)
}

fn total_len(iov: &[iovec]) -> Result<usize> {
    if iov.len() > 1024 {
        return Err(Errno::EINVAL);
    }
    let total = iov.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.iov_len));
    total.filter(|&total| isize::try_from(total).is_ok()).ok_or(Errno::EINVAL)
}
