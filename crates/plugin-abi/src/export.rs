//! From the safe trait to the C table: one shim per operation.

use crate::abi::{self, Opened, RawMore, RawSetAttr, Table};
use crate::errno::{Errno, Result};
use crate::filesystem::FileSystem;
use crate::handle::RawHandle;
use crate::host::{Host, Level, boundary};
use crate::path::MountPath;
use crate::types::{Capabilities, DirEntry, InitError, Open, Purpose, SaveSink, SetAttr, Setup, Written};
use core::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use libc::{dev_t, flock, iovec, mode_t, off_t, stat, statfs};
use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Exports a [`FileSystem`] as the plugin of this shared library (`crate-type = ["cdylib"]`).
///
/// ```
/// # use plugin_abi::{CStr, Errno, FileSystem, InitError, MountPath, Open, Result, Setup, stat};
/// struct Nothing;
/// impl FileSystem for Nothing {
///     type Handle = Box<()>;
///     const NAME: &'static CStr = c"nothing";
///     fn init(_: &Setup<'_>) -> Result<Self, InitError> { Ok(Self) }
///     fn getattr(&self, _: &MountPath) -> Result<stat> { Err(Errno::ENOENT) }
///     fn open(&self, _: &MountPath, _: i32, _: u32) -> Result<Open<Self::Handle>> { Err(Errno::ENOENT) }
///     fn close(&self, _: Self::Handle) -> Result<()> { Ok(()) }
/// }
/// plugin_abi::export_plugin!(Nothing);
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($file_system:ty) => {
        #[allow(missing_docs, non_upper_case_globals, unsafe_code)]
        #[unsafe(no_mangle)]
        pub static defuse_plugin: $crate::abi::Table = $crate::table_of::<$file_system>();
    };
}

/// A file system with what its shims need beside it. The table's `fs` points to one of these.
pub(crate) struct Exported<F> {
    pub(crate) inner: F,
    pub(crate) host: Host,
}

/// The table of a [`FileSystem`].
pub const fn table_of<F: FileSystem>() -> Table {
    let capabilities = F::CAPABILITIES.bits() | Capabilities::THREAD_SAFE.bits();
    let mut table = Table::empty(F::NAME, capabilities);
    table.init = Some(init::<F>);
    table.finalize = Some(finalize::<F>);
    table.getattr = Some(getattr::<F>);
    table.fgetattr = Some(fgetattr::<F>);
    table.setattr = Some(setattr::<F>);
    table.fsetattr = Some(fsetattr::<F>);
    table.open = Some(open::<F>);
    table.close = Some(close::<F>);
    table.flush = Some(flush::<F>);
    table.read = Some(read::<F>);
    table.write = Some(write::<F>);
    table.readv = Some(readv::<F>);
    table.writev = Some(writev::<F>);
    table.fsync = Some(fsync::<F>);
    table.fallocate = Some(fallocate::<F>);
    table.lseek = Some(lseek::<F>);
    table.copy_range = Some(copy_range::<F>);
    table.readdir = Some(readdir::<F>);
    table.mkdir = Some(mkdir::<F>);
    table.rmdir = Some(rmdir::<F>);
    table.unlink = Some(unlink::<F>);
    table.rename = Some(rename::<F>);
    table.link = Some(link::<F>);
    table.flink = Some(flink::<F>);
    table.symlink = Some(symlink::<F>);
    table.readlink = Some(readlink::<F>);
    table.mknod = Some(mknod::<F>);
    table.access = Some(access::<F>);
    table.statfs = Some(statfs_of::<F>);
    table.fstatfs = Some(fstatfs_of::<F>);
    table.syncfs = Some(syncfs::<F>);
    table.getxattr = Some(getxattr::<F>);
    table.setxattr = Some(setxattr::<F>);
    table.listxattr = Some(listxattr::<F>);
    table.removexattr = Some(removexattr::<F>);
    table.fgetxattr = Some(fgetxattr::<F>);
    table.fsetxattr = Some(fsetxattr::<F>);
    table.flistxattr = Some(flistxattr::<F>);
    table.fremovexattr = Some(fremovexattr::<F>);
    table.lock = Some(lock::<F>);
    table.flock = Some(flock_of::<F>);
    table.save = Some(save::<F>);
    table.restore = Some(restore::<F>);
    table.fork_prepare = Some(fork_prepare::<F>);
    table.fork_parent = Some(fork_parent::<F>);
    table.fork_child = Some(fork_child::<F>);
    table.backing_fd = Some(backing_fd::<F>);
    table.move_fd = Some(move_fd::<F>);
    table.ioctl = Some(ioctl::<F>);
    table.reopen = Some(reopen::<F>);
    table.getmore = Some(getmore::<F>);
    table.fgetmore = Some(fgetmore::<F>);
    table
}

/// Runs one operation; a panic becomes `EIO` and a log line.
///
/// # Safety
/// `fs` is what `init::<F>` gave and `finalize` was not called.
#[inline]
unsafe fn call<F: FileSystem>(
    fs: *mut c_void,
    operation: &str,
    body: impl FnOnce(&F) -> Result<()>,
) -> c_int {
    // SAFETY: the caller's promise; instances are only shared, never borrowed mutably.
    let exported = unsafe { &*fs.cast::<Exported<F>>() };
    match catch_unwind(AssertUnwindSafe(|| body(&exported.inner))) {
        Ok(Ok(())) => 0,
        Ok(Err(errno)) => errno.raw(),
        Err(payload) => panicked(exported.host, F::NAME, operation, payload.as_ref()),
    }
}

#[cold]
fn panicked(host: Host, name: &CStr, operation: &str, payload: &(dyn std::any::Any + Send)) -> c_int {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let name = name.to_str().unwrap_or("?");
    host.log(Level::Error, format_args!("{name}: {operation} panicked, reported as EIO: {text}"));
    Errno::EIO.raw()
}

/// # Safety
/// `path` is NUL-terminated, normalised, and lives as long as the call.
unsafe fn path<'a>(path: *const c_char) -> &'a MountPath {
    // SAFETY: the caller's promise.
    MountPath::from_normalised(unsafe { CStr::from_ptr(path) })
}

/// # Safety
/// `data` has `len` readable bytes for as long as the call lasts, or `len` is 0.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(data.cast(), len) }
}

/// # Safety
/// `data` has `len` writable bytes for as long as the call lasts, or `len` is 0.
unsafe fn bytes_mut<'a>(data: *mut c_void, len: usize) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(data.cast(), len) }
}

fn offset(value: off_t) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

/// Declares shims whose body sees the arguments as Rust values.
///
/// SAFETY of every shim: the host calls it as the comment of the table's member says, with the `fs` that
/// `init` gave, with handles that `open` or `restore` gave and `close` did not take back, with valid
/// strings and buffers, and with out pointers that may be written.
macro_rules! shims {
    ($(fn $name:ident($fs:ident $(, $arg:ident: $ty:ty)* $(,)?) $body:block)*) => {$(
        unsafe extern "C" fn $name<F: FileSystem>(fs: *mut c_void $(, $arg: $ty)*) -> c_int {
            // SAFETY: see the macro's comment.
            unsafe { call::<F>(fs, stringify!($name), |$fs| $body) }
        }
    )*};
}

/// Looks at a handle.
macro_rules! handle {
    ($raw:ident) => {
        <F::Handle as RawHandle>::borrow(&$raw)
    };
}

unsafe extern "C" fn init<F: FileSystem>(
    host: *const abi::Host,
    mount_point: *const c_char,
    backend: *const c_char,
    options: *const c_char,
    error: *mut c_char,
    error_size: usize,
    out_fs: *mut *mut c_void,
) -> c_int {
    // SAFETY: the host lives until `finalize` and the strings as long as this call, says the ABI.
    let setup = unsafe {
        Setup {
            mount_point: CStr::from_ptr(mount_point),
            backend: CStr::from_ptr(backend),
            options: CStr::from_ptr(options),
            host: Host::from_raw(host),
        }
    };
    let failure = match catch_unwind(|| F::init(&setup)) {
        Ok(Ok(inner)) => {
            let exported = Box::new(Exported { inner, host: setup.host });
            // SAFETY: `out_fs` may be written.
            unsafe { *out_fs = Box::into_raw(exported).cast() };
            return 0;
        }
        Ok(Err(failure)) => failure,
        Err(payload) => {
            panicked(setup.host, F::NAME, "init", payload.as_ref());
            InitError::new(Errno::EIO, "init panicked")
        }
    };
    if !error.is_null() && error_size > 0 {
        let len = boundary(&failure.message, error_size - 1);
        // SAFETY: `error` has `error_size` writable bytes, more than `len`.
        unsafe {
            core::ptr::copy_nonoverlapping(failure.message.as_ptr(), error.cast(), len);
            *error.add(len) = 0;
        }
    }
    failure.errno.raw()
}

unsafe extern "C" fn finalize<F: FileSystem>(fs: *mut c_void) -> c_int {
    // SAFETY: `fs` is from `init`, and this is the last call on it.
    let exported = unsafe { Box::from_raw(fs.cast::<Exported<F>>()) };
    let host = exported.host;
    match catch_unwind(AssertUnwindSafe(|| exported.inner.finalize())) {
        Ok(()) => 0,
        Err(payload) => panicked(host, F::NAME, "finalize", payload.as_ref()),
    }
}

fn store_opened<H: RawHandle>(answer: Open<H>) -> Opened {
    match answer {
        Open::Served { handle, backing_fd, mode_type, locks } => Opened {
            handle: handle.into_raw(),
            backing_fd: backing_fd.unwrap_or(-1),
            reply_flags: if locks { 0 } else { abi::DEFUSE_OPENED_NO_LOCKS },
            mode_type,
            reserved: 0,
        },
        Open::Native { fd, mode_type } => Opened {
            handle: 0,
            backing_fd: std::os::fd::IntoRawFd::into_raw_fd(fd),
            reply_flags: abi::DEFUSE_OPENED_NATIVE,
            mode_type,
            reserved: 0,
        },
    }
}

shims! {
    fn getattr(fs, name: *const c_char, out: *mut stat) { *out = fs.getattr(path(name))?; Ok(()) }
    fn fgetattr(fs, handle: u64, out: *mut stat) { *out = fs.fgetattr(handle!(handle))?; Ok(()) }
    fn setattr(fs, name: *const c_char, attr: *const RawSetAttr) { fs.setattr(path(name), &SetAttr::from(&*attr)) }
    fn fsetattr(fs, handle: u64, attr: *const RawSetAttr) { fs.fsetattr(handle!(handle), &SetAttr::from(&*attr)) }

    fn getmore(fs, name: *const c_char, out: *mut RawMore) { *out = fs.getmore(path(name))?.into(); Ok(()) }
    fn fgetmore(fs, handle: u64, out: *mut RawMore) { *out = fs.fgetmore(handle!(handle))?.into(); Ok(()) }

    fn open(fs, name: *const c_char, flags: c_int, mode: mode_t, out: *mut Opened) {
        *out = store_opened(fs.open(path(name), flags, mode)?);
        Ok(())
    }
    fn close(fs, handle: u64) { fs.close(<F::Handle as RawHandle>::from_raw(handle)) }
    fn flush(fs, handle: u64) { fs.flush(handle!(handle)) }

    fn read(fs, handle: u64, buf: *mut c_void, size: usize, at: off_t, out_read: *mut usize) {
        *out_read = fs.read(handle!(handle), bytes_mut(buf, size), offset(at)?)?;
        Ok(())
    }
    fn write(fs, handle: u64, buf: *const c_void, size: usize, at: off_t, flags: u32, out: *mut usize, end: *mut off_t) {
        let append = flags & abi::DEFUSE_WRITE_APPEND != 0;
        store_written(fs.write(handle!(handle), bytes(buf, size), offset(at)?, append)?, out, end);
        Ok(())
    }
    fn readv(fs, handle: u64, iov: *const iovec, count: c_int, at: off_t, out_read: *mut usize) {
        // `IoSliceMut` is promised to be an iovec; the array is only used during the call.
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        let bufs = core::slice::from_raw_parts_mut(iov.cast_mut().cast::<IoSliceMut<'_>>(), count);
        *out_read = fs.readv(handle!(handle), bufs, offset(at)?)?;
        Ok(())
    }
    fn writev(fs, handle: u64, iov: *const iovec, count: c_int, at: off_t, flags: u32, out: *mut usize, end: *mut off_t) {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        let bufs = core::slice::from_raw_parts(iov.cast::<IoSlice<'_>>(), count);
        let append = flags & abi::DEFUSE_WRITE_APPEND != 0;
        store_written(fs.writev(handle!(handle), bufs, offset(at)?, append)?, out, end);
        Ok(())
    }
    fn fsync(fs, handle: u64, datasync: c_int) { fs.fsync(handle!(handle), datasync != 0) }
    fn fallocate(fs, handle: u64, mode: c_int, at: off_t, len: off_t) {
        fs.fallocate(handle!(handle), mode, offset(at)?, offset(len)?)
    }
    fn lseek(fs, handle: u64, at: off_t, whence: c_int, out: *mut off_t) {
        *out = fs.lseek(handle!(handle), offset(at)?, whence)? as off_t;
        Ok(())
    }
    fn copy_range(fs, source: u64, source_at: off_t, target: u64, target_at: off_t, len: usize, out: *mut usize) {
        *out = fs.copy_range(handle!(source), offset(source_at)?, handle!(target), offset(target_at)?, len)?;
        Ok(())
    }
    fn readdir(fs, handle: u64, cookie: u64, emit: abi::Emit, ctx: *mut c_void) {
        fs.readdir(handle!(handle), cookie, &mut |entry: DirEntry<'_>| {
            let DirEntry { name, ino, d_type, next_cookie } = entry;
            emit(ctx, name.as_ptr().cast(), name.len(), ino, d_type.into(), next_cookie) != 0
        })
    }

    fn mkdir(fs, name: *const c_char, mode: mode_t) { fs.mkdir(path(name), mode) }
    fn rmdir(fs, name: *const c_char) { fs.rmdir(path(name)) }
    fn unlink(fs, name: *const c_char) { fs.unlink(path(name)) }
    fn rename(fs, old: *const c_char, new: *const c_char, flags: c_uint) { fs.rename(path(old), path(new), flags) }
    fn link(fs, name: *const c_char, new: *const c_char) { fs.link(path(name), path(new)) }
    fn flink(fs, handle: u64, new: *const c_char) { fs.flink(handle!(handle), path(new)) }
    fn symlink(fs, target: *const c_char, name: *const c_char) { fs.symlink(CStr::from_ptr(target), path(name)) }
    fn readlink(fs, name: *const c_char, buf: *mut c_char, size: usize, out_len: *mut usize) {
        *out_len = fs.readlink(path(name), bytes_mut(buf.cast(), size))?;
        Ok(())
    }
    fn mknod(fs, name: *const c_char, mode: mode_t, dev: dev_t) { fs.mknod(path(name), mode, dev) }
    fn access(fs, name: *const c_char, mode: c_int, flags: c_int) { fs.access(path(name), mode, flags) }

    fn statfs_of(fs, name: *const c_char, out: *mut statfs) { *out = fs.statfs(path(name))?; Ok(()) }
    fn fstatfs_of(fs, handle: u64, out: *mut statfs) { *out = fs.fstatfs(handle!(handle))?; Ok(()) }
    fn syncfs(fs) { fs.syncfs() }

    fn getxattr(fs, name: *const c_char, key: *const c_char, value: *mut c_void, size: usize, out: *mut usize) {
        *out = fs.getxattr(path(name), CStr::from_ptr(key), bytes_mut(value, size))?;
        Ok(())
    }
    fn setxattr(fs, name: *const c_char, key: *const c_char, value: *const c_void, size: usize, flags: c_int) {
        fs.setxattr(path(name), CStr::from_ptr(key), bytes(value, size), flags)
    }
    fn listxattr(fs, name: *const c_char, list: *mut c_char, size: usize, out: *mut usize) {
        *out = fs.listxattr(path(name), bytes_mut(list.cast(), size))?;
        Ok(())
    }
    fn removexattr(fs, name: *const c_char, key: *const c_char) { fs.removexattr(path(name), CStr::from_ptr(key)) }
    fn fgetxattr(fs, handle: u64, key: *const c_char, value: *mut c_void, size: usize, out: *mut usize) {
        *out = fs.fgetxattr(handle!(handle), CStr::from_ptr(key), bytes_mut(value, size))?;
        Ok(())
    }
    fn fsetxattr(fs, handle: u64, key: *const c_char, value: *const c_void, size: usize, flags: c_int) {
        fs.fsetxattr(handle!(handle), CStr::from_ptr(key), bytes(value, size), flags)
    }
    fn flistxattr(fs, handle: u64, list: *mut c_char, size: usize, out: *mut usize) {
        *out = fs.flistxattr(handle!(handle), bytes_mut(list.cast(), size))?;
        Ok(())
    }
    fn fremovexattr(fs, handle: u64, key: *const c_char) { fs.fremovexattr(handle!(handle), CStr::from_ptr(key)) }

    fn lock(fs, handle: u64, cmd: c_int, lock: *mut flock) { fs.lock(handle!(handle), cmd, &mut *lock) }
    fn flock_of(fs, handle: u64, operation: c_int) { fs.flock(handle!(handle), operation) }

    fn save(fs, handle: u64, blob: *mut c_void, blob_size: usize, out_len: *mut usize,
            keep: *mut c_int, keep_size: usize, out_keep: *mut usize) {
        let keep = if keep_size == 0 { &mut [] } else { core::slice::from_raw_parts_mut(keep, keep_size) };
        let mut sink = SaveSink::new(bytes_mut(blob, blob_size), keep);
        fs.save(handle!(handle), &mut sink)?;
        *out_len = sink.len;
        *out_keep = sink.kept;
        if sink.fits() { Ok(()) } else { Err(Errno::ERANGE) }
    }
    fn restore(fs, blob: *const c_void, len: usize, fds: *const c_int, fd_count: usize, out: *mut Opened) {
        let fds = if fd_count == 0 { &[] } else { core::slice::from_raw_parts(fds, fd_count) };
        *out = store_opened(fs.restore(bytes(blob, len), fds)?);
        Ok(())
    }

    fn fork_prepare(fs) { fs.fork_prepare(); Ok(()) }
    fn fork_parent(fs) { fs.fork_parent(); Ok(()) }
    fn fork_child(fs) { fs.fork_child(); Ok(()) }

    fn backing_fd(fs, handle: u64, purpose: u32, out_fd: *mut c_int) {
        let purpose = match purpose {
            abi::DEFUSE_BACKING_MAP => Purpose::Map,
            abi::DEFUSE_BACKING_EXEC => Purpose::Exec,
            abi::DEFUSE_BACKING_FLAGS => Purpose::Flags,
            _ => return Err(Errno::ENOSYS),
        };
        *out_fd = std::os::fd::AsRawFd::as_raw_fd(&fs.backing_fd(handle!(handle), purpose)?);
        Ok(())
    }
    fn move_fd(fs, handle: *mut u64, new_fd: c_int) {
        if !F::CAPABILITIES.contains(Capabilities::RELOCATABLE) {
            return Err(Errno::ENOSYS);
        }
        *handle = fs.move_fd(<F::Handle as RawHandle>::from_raw(*handle), new_fd).into_raw();
        Ok(())
    }
    fn ioctl(fs, handle: u64, request: c_ulong, arg: *mut c_void, out_result: *mut c_int) {
        *out_result = fs.ioctl(handle!(handle), request, arg)?;
        Ok(())
    }
    fn reopen(fs, handle: u64, flags: c_int, out: *mut Opened) {
        *out = store_opened(fs.reopen(handle!(handle), flags)?);
        Ok(())
    }
}

/// # Safety
/// Both pointers may be written.
unsafe fn store_written(written: Written, out: *mut usize, end: *mut off_t) {
    // SAFETY: the caller's promise.
    unsafe { (*out, *end) = (written.count, written.end as off_t) };
}
