//! One mounted file system: the C table behind safe calls that believe nothing.

use crate::abi::{self, Opened, RawSetAttr, Table};
use crate::errno::{Errno, Result};
use crate::filesystem::{
    Capabilities, DirEntry, DirSink, Open, Purpose, SetAttr, Written, empty_stat, empty_statfs,
};
use crate::host::{Host, Level};
use crate::path::MountPath;
use crate::serial::{Guard, SerialLock};
use core::ffi::{CStr, c_int, c_void};
use libc::{flock, iovec, off_t, stat, statfs};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// An open file of one [`Instance`].
///
/// It is not closed when dropped, and it must be used with the instance it came from only.
#[derive(Debug, PartialEq, Eq)]
pub struct Handle(u64);

impl Handle {
    /// The plugin's own name for it, for keeping the handle in an atomic or in shared memory.
    pub fn into_raw(self) -> u64 {
        self.0
    }

    /// The plugin's own name for it.
    pub fn raw(&self) -> u64 {
        self.0
    }

    /// Takes a handle out of where [`into_raw`](Self::into_raw) put it.
    ///
    /// # Safety
    /// `raw` is the number of an open handle of the instance it will be used with, and no other `Handle` of
    /// this number will be closed.
    pub unsafe fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// How much [`Instance::save`] wrote, or would have written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the blob.
    pub len: usize,
    /// Descriptors to keep.
    pub kept: usize,
}

/// A mounted file system.
///
/// Every method may be called from any thread; a plugin without [`Capabilities::THREAD_SAFE`] is serialised
/// here. What a plugin returns is checked, and what cannot be is reported as `EIO` with a log line. No method
/// allocates, except where it says so, and none touches `errno` by itself (the plugin's code may).
/// What a missing function means is said at its member of [`abi::Table`].
#[derive(Debug)]
pub struct Instance {
    table: Table,
    fs: *mut c_void,
    capabilities: Capabilities,
    serial: Option<SerialLock>,
    host: Host,
}

// SAFETY: the table's functions may be called from any thread (the ABI says so), one at a time unless the
// plugin declares itself thread-safe, for which `serial` takes care.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// Calls a member of the table: `ENOSYS` when it is missing, otherwise its checked result.
macro_rules! op {
    ($self:ident.$name:ident($($arg:expr),* $(,)?)) => {
        match $self.table.$name {
            None => Err(Errno::ENOSYS),
            Some(function) => {
                let _guard = $self.enter();
                // SAFETY: the function is the plugin's, `fs` is from its `init` and not finalised, strings and
                // buffers come from references that outlive the call, and handles are its own.
                let code = unsafe { function($self.fs, $($arg),*) };
                $self.checked(stringify!($name), code)
            }
        }
    };
}

/// Gives `ENOSYS` another meaning.
fn missing<T>(result: Result<T>, otherwise: Result<T>) -> Result<T> {
    if matches!(result, Err(Errno::ENOSYS)) { otherwise } else { result }
}

fn signed(value: u64) -> Result<off_t> {
    off_t::try_from(value).map_err(|_| Errno::EINVAL)
}

impl Instance {
    /// # Safety
    /// `fs` is from `table.init`, which stays loaded for ever.
    pub(crate) unsafe fn new(table: &Table, fs: *mut c_void, host: Host) -> Self {
        let capabilities = Capabilities::from_bits_truncate(table.capabilities);
        let serial = (!capabilities.contains(Capabilities::THREAD_SAFE)).then(SerialLock::default);
        Self { table: *table, fs, capabilities, serial, host }
    }

    /// What the plugin says it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn enter(&self) -> Option<Guard<'_>> {
        self.serial.as_ref().map(SerialLock::lock)
    }

    fn checked(&self, operation: &str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            1..=4095 => Err(Errno::from_raw(code)),
            _ => Err(self.impossible(operation, format_args!("returned {code}, which is no errno"))),
        }
    }

    #[cold]
    fn impossible(&self, operation: &str, what: core::fmt::Arguments<'_>) -> Errno {
        self.host.log(Level::Error, format_args!("plugin: {operation} {what}; reported as EIO"));
        Errno::EIO
    }

    fn at_most(&self, operation: &str, count: usize, limit: usize) -> Result<usize> {
        if count <= limit {
            return Ok(count);
        }
        Err(self.impossible(operation, format_args!("reports {count} bytes where {limit} were asked for")))
    }

    fn attributes(&self, operation: &str, answer: Result<()>, mut st: stat) -> Result<stat> {
        answer?;
        if !is_file_type(st.st_mode & libc::S_IFMT) {
            return Err(self
                .impossible(operation, format_args!("reports st_mode {:#o}, of no file type", st.st_mode)));
        }
        if st.st_size < 0 {
            return Err(self.impossible(operation, format_args!("reports st_size {}", st.st_size)));
        }
        if st.st_blksize <= 0 {
            st.st_blksize = 4096;
        }
        Ok(st)
    }

    /// `lstat`.
    pub fn getattr(&self, path: &MountPath) -> Result<stat> {
        let mut st = empty_stat();
        let answer = op!(self.getattr(path.as_c_str().as_ptr(), &raw mut st));
        self.attributes("getattr", answer, st)
    }

    /// `fstat`.
    pub fn fgetattr(&self, handle: &Handle) -> Result<stat> {
        let mut st = empty_stat();
        let answer = op!(self.fgetattr(handle.0, &raw mut st));
        self.attributes("fgetattr", answer, st)
    }

    /// Changes attributes.
    pub fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        let raw = RawSetAttr::from(attr);
        op!(self.setattr(path.as_c_str().as_ptr(), &raw const raw))
    }

    /// Changes attributes of an open file.
    pub fn fsetattr(&self, handle: &Handle, attr: &SetAttr) -> Result<()> {
        let raw = RawSetAttr::from(attr);
        op!(self.fsetattr(handle.0, &raw const raw))
    }

    /// Opens or creates; `flags` are open(2)'s (`O_CLOEXEC` is dropped).
    pub fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<Handle>> {
        let mut opened = Opened::EMPTY;
        let answer =
            op!(self.open(path.as_c_str().as_ptr(), flags & !libc::O_CLOEXEC, mode, &raw mut opened));
        self.opened("open", answer, opened)
    }

    fn opened(&self, operation: &str, answer: Result<()>, opened: Opened) -> Result<Open<Handle>> {
        answer?;
        let Opened { handle, backing_fd, reply_flags, mode_type, .. } = opened;
        let native = reply_flags & abi::DEFUSE_OPENED_NATIVE != 0;
        let wrong = if mode_type != 0 && !is_file_type(mode_type) {
            Some("reports a file type that does not exist")
        } else if native && !self.capabilities.contains(Capabilities::NATIVE_FD) {
            Some("answers with a native descriptor without the capability")
        } else if native && !is_open(backing_fd) {
            Some("answers with a native descriptor that is not open")
        } else if backing_fd < -1 {
            Some("answers with a negative descriptor")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            if !native {
                let _ = self.close(Handle(handle));
            }
            return Err(self.impossible(operation, format_args!("{wrong}")));
        }
        if native {
            // SAFETY: the plugin gave up this descriptor by the flag, and it was found open.
            return Ok(Open::Native { fd: unsafe { OwnedFd::from_raw_fd(backing_fd) }, mode_type });
        }
        let backing_fd = (backing_fd >= 0).then_some(backing_fd);
        let locks = self.serial.is_none() && reply_flags & abi::DEFUSE_OPENED_NO_LOCKS == 0;
        Ok(Open::Served { handle: Handle(handle), backing_fd, mode_type, locks })
    }

    /// Ends a handle.
    pub fn close(&self, handle: Handle) -> Result<()> {
        missing(op!(self.close(handle.into_raw())), Ok(()))
    }

    /// To be called when a descriptor that shares the handle is closed.
    pub fn flush(&self, handle: &Handle) -> Result<()> {
        missing(op!(self.flush(handle.0)), Ok(()))
    }

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
    /// # Safety
    /// As for [`write_raw`](Self::write_raw), for each.
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
        let mut sum = Written { count: 0, end: at as u64 };
        for piece in iov.iter().filter(|piece| piece.iov_len > 0) {
            // Only the first piece of an append looks for the end; the others follow it.
            let append = flags & abi::DEFUSE_WRITE_APPEND != 0 && sum.count == 0;
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

    /// Hands entries from `cookie` on to `emit` until it returns `true`.
    ///
    /// A name that is empty, longer than 255 bytes, or holds `/` or NUL ends the call with `EIO`.
    pub fn readdir(&self, handle: &Handle, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let mut relay = Relay { emit, stopped: false, wrong: false };
        let answer = op!(self.readdir(handle.0, cookie, relay_entry, (&raw mut relay).cast()));
        if relay.wrong {
            return Err(self.impossible("readdir", format_args!("gave a name that no file can have")));
        }
        answer
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        op!(self.mkdir(path.as_c_str().as_ptr(), mode))
    }

    /// Removes a directory.
    pub fn rmdir(&self, path: &MountPath) -> Result<()> {
        op!(self.rmdir(path.as_c_str().as_ptr()))
    }

    /// Removes a name.
    pub fn unlink(&self, path: &MountPath) -> Result<()> {
        op!(self.unlink(path.as_c_str().as_ptr()))
    }

    /// renameat2(2).
    pub fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        op!(self.rename(old.as_c_str().as_ptr(), new.as_c_str().as_ptr(), flags))
    }

    /// Another name for a file.
    pub fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        op!(self.link(path.as_c_str().as_ptr(), new.as_c_str().as_ptr()))
    }

    /// A name for an open file.
    pub fn flink(&self, handle: &Handle, new: &MountPath) -> Result<()> {
        op!(self.flink(handle.0, new.as_c_str().as_ptr()))
    }

    /// Makes a symbolic link at `path`.
    pub fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        op!(self.symlink(target.as_ptr(), path.as_c_str().as_ptr()))
    }

    /// Reads a symbolic link into `buf`; returns how many bytes, cut at the buffer's length.
    pub fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let mut len = 0;
        op!(self.readlink(path.as_c_str().as_ptr(), buf.as_mut_ptr().cast(), buf.len(), &raw mut len))?;
        let len = self.at_most("readlink", len, buf.len())?;
        if buf[..len].contains(&0) {
            return Err(self.impossible("readlink", format_args!("gave a target with a NUL in it")));
        }
        Ok(len)
    }

    /// mknod(2).
    pub fn mknod(&self, path: &MountPath, mode: u32, dev: u64) -> Result<()> {
        op!(self.mknod(path.as_c_str().as_ptr(), mode, dev))
    }

    /// faccessat2(2) on the file itself; `flags` may hold `AT_EACCESS`.
    pub fn access(&self, path: &MountPath, mode: c_int, flags: c_int) -> Result<()> {
        match op!(self.access(path.as_c_str().as_ptr(), mode, flags)) {
            Err(Errno::ENOSYS) => crate::permission::check(&self.getattr(path)?, mode, flags),
            answer => answer,
        }
    }

    /// statfs(2).
    pub fn statfs(&self, path: &MountPath) -> Result<statfs> {
        let mut out = empty_statfs();
        let answer = op!(self.statfs(path.as_c_str().as_ptr(), &raw mut out)).map(|()| out);
        missing(answer, Ok(default_statfs()))
    }

    /// fstatfs(2).
    pub fn fstatfs(&self, handle: &Handle) -> Result<statfs> {
        let mut out = empty_statfs();
        let answer = op!(self.fstatfs(handle.0, &raw mut out)).map(|()| out);
        missing(answer, Ok(default_statfs()))
    }

    /// syncfs(2).
    pub fn syncfs(&self) -> Result<()> {
        missing(op!(self.syncfs()), Ok(()))
    }

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

    /// fcntl(2)'s record locks. `ENOSYS`: the host keeps them (always so for a serialised plugin, whose other
    /// threads could not unlock while one waits).
    pub fn lock(&self, handle: &Handle, cmd: c_int, lock: &mut flock) -> Result<()> {
        if self.serial.is_some() {
            return Err(Errno::ENOSYS);
        }
        op!(self.lock(handle.0, cmd, core::ptr::from_mut(lock)))
    }

    /// flock(2); `ENOSYS` as for [`lock`](Self::lock).
    pub fn flock(&self, handle: &Handle, operation: c_int) -> Result<()> {
        if self.serial.is_some() {
            return Err(Errno::ENOSYS);
        }
        op!(self.flock(handle.0, operation))
    }

    /// Describes a handle for the next program image. With `ERANGE`, `saved` says what is needed.
    pub fn save(
        &self,
        handle: &Handle,
        blob: &mut [u8],
        keep: &mut [RawFd],
        saved: &mut Saved,
    ) -> Result<()> {
        *saved = Saved::default();
        let (buf, size, fds, room) = (blob.as_mut_ptr().cast(), blob.len(), keep.as_mut_ptr(), keep.len());
        let Saved { len, kept } = saved;
        op!(self.save(handle.0, buf, size, &raw mut *len, fds, room, &raw mut *kept))?;
        self.at_most("save", saved.len, blob.len())?;
        if saved.kept > keep.len() || keep[..saved.kept].iter().any(|&fd| fd < 0) {
            return Err(self.impossible("save", format_args!("lists descriptors that cannot be")));
        }
        Ok(())
    }

    /// Makes a handle from [`save`](Self::save)'s blob and the kept descriptors, which belong to the plugin
    /// when this succeeds.
    pub fn restore(&self, blob: &[u8], fds: &[RawFd]) -> Result<Open<Handle>> {
        let mut opened = Opened::EMPTY;
        let (buf, len, count) = (blob.as_ptr().cast(), blob.len(), fds.len());
        let answer = op!(self.restore(buf, len, fds.as_ptr(), count, &raw mut opened));
        self.opened("restore", answer, opened)
    }

    /// Before fork: from here to [`fork_parent`](Self::fork_parent) or [`fork_child`](Self::fork_child) no
    /// other thread is inside a serialised plugin. Allocates nothing.
    pub fn fork_prepare(&self) {
        if let Some(serial) = &self.serial {
            serial.acquire();
        }
        self.fork_hook(self.table.fork_prepare);
    }

    /// After fork, in the parent, by the thread that called [`fork_prepare`](Self::fork_prepare).
    pub fn fork_parent(&self) {
        self.fork_hook(self.table.fork_parent);
        if let Some(serial) = &self.serial {
            serial.release();
        }
    }

    /// After fork, in the child, before it has a second thread. May also be called after a fork that nobody
    /// prepared: then the plugin was not asked, and only the serialising lock is freed.
    pub fn fork_child(&self) {
        if let Some(serial) = &self.serial {
            serial.reset();
        }
        self.fork_hook(self.table.fork_child);
    }

    fn fork_hook(&self, hook: Option<unsafe extern "C" fn(*mut c_void) -> c_int>) {
        if let (true, Some(hook)) = (self.capabilities.contains(Capabilities::FORK_HOOKS), hook) {
            // SAFETY: the plugin's own function with its instance; serialisation is the caller's span.
            unsafe { hook(self.fs) };
        }
    }

    /// Borrows a descriptor behind the handle. It is good until the handle is closed or moved.
    pub fn backing_fd<'a>(&'a self, handle: &'a Handle, purpose: Purpose) -> Result<BorrowedFd<'a>> {
        let purpose = match purpose {
            Purpose::Map => abi::DEFUSE_BACKING_MAP,
            Purpose::Exec => abi::DEFUSE_BACKING_EXEC,
        };
        let mut fd = -1;
        op!(self.backing_fd(handle.0, purpose, &raw mut fd))?;
        if !is_open(fd) {
            return Err(
                self.impossible("backing_fd", format_args!("lends descriptor {fd}, which is not open"))
            );
        }
        // SAFETY: it is open, and the plugin keeps it so until the handle is closed.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Tells the plugin that the descriptor behind the handle has another number now.
    pub fn move_fd(&self, handle: &mut Handle, new_fd: RawFd) -> Result<()> {
        if !self.capabilities.contains(Capabilities::RELOCATABLE) {
            return Err(Errno::ENOSYS);
        }
        op!(self.move_fd(&raw mut handle.0, new_fd))
    }

    /// ioctl(2).
    ///
    /// # Safety
    /// `arg` is what the request demands.
    pub unsafe fn ioctl(&self, handle: &Handle, request: u64, arg: *mut c_void) -> Result<c_int> {
        let mut result = 0;
        let answer = op!(self.ioctl(handle.0, request, arg, &raw mut result)).map(|()| result);
        missing(answer, Err(Errno::ENOTTY))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(finalize) = self.table.finalize {
            // SAFETY: the last call on this instance: nobody else can hold a reference to it.
            let code = unsafe { finalize(self.fs) };
            let _ = self.checked("finalize", code);
        }
    }
}

struct Relay<'a, 'b> {
    emit: &'a mut DirSink<'b>,
    stopped: bool,
    wrong: bool,
}

unsafe extern "C" fn relay_entry(
    ctx: *mut c_void,
    name: *const core::ffi::c_char,
    len: usize,
    ino: u64,
    d_type: u32,
    next_cookie: u64,
) -> c_int {
    // SAFETY: `ctx` is the relay on the stack of `Instance::readdir`, used by this thread only.
    let relay = unsafe { &mut *ctx.cast::<Relay<'_, '_>>() };
    if relay.stopped || relay.wrong {
        return 1;
    }
    if name.is_null() || len == 0 || len > 255 {
        relay.wrong = true;
        return 1;
    }
    // SAFETY: the plugin passes `len` readable bytes, and `len` is no more than a name may have.
    let name = unsafe { core::slice::from_raw_parts(name.cast::<u8>(), len) };
    if name.iter().any(|&b| b == b'/' || b == 0) {
        relay.wrong = true;
        return 1;
    }
    // A reader that finds inode 0 takes the entry for a deleted one.
    let ino = if ino == 0 { u64::from(u32::MAX) } else { ino };
    relay.stopped = (relay.emit)(DirEntry { name, ino, d_type: d_type as u8, next_cookie });
    c_int::from(relay.stopped)
}

fn is_file_type(mode_type: u32) -> bool {
    use libc::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
    matches!(mode_type, S_IFREG | S_IFDIR | S_IFLNK | S_IFIFO | S_IFSOCK | S_IFCHR | S_IFBLK)
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: only asks the kernel about the number; a closed one is answered with an error.
    fd >= 0 && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok()
}

fn total_len(iov: &[iovec]) -> Result<usize> {
    if iov.len() > 1024 {
        return Err(Errno::EINVAL);
    }
    let total = iov.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.iov_len));
    total.filter(|&total| isize::try_from(total).is_ok()).ok_or(Errno::EINVAL)
}

/// For a plugin that has no statfs: nothing is known but the limits of names.
fn default_statfs() -> statfs {
    let mut out = empty_statfs();
    out.f_type = i64::from(abi::DEFUSE_MAGIC);
    out.f_bsize = 4096;
    out.f_frsize = 4096;
    out.f_namelen = 255;
    out
}
