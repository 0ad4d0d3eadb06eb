//! One mounted file system: the C table behind safe calls that believe nothing.

/// Calls a member of the table: `ENOSYS` when it is missing, otherwise its checked result.
macro_rules! op {
    ($self:ident.$name:ident($($arg:expr),* $(,)?)) => {
        match $self.table.$name {
            None => Err(Errno::ENOSYS),
            Some(function) => {
                let Ok(_guard) = $self.enter() else { return Err(Errno::EDEADLK) };
                // SAFETY: the function is the plugin's, `fs` is from its `init` and not finalised, strings and
                // buffers come from references that outlive the call, and handles are its own.
                let code = unsafe { function($self.fs, $($arg),*) };
                $self.checked(stringify!($name), code)
            }
        }
    };
}

mod handles;
mod io;
mod names;
mod xattr;

use crate::abi::{self, Opened, RawSetAttr, Table};
use crate::errno::{Errno, Result};
use crate::host::{Host, Level};
use crate::path::MountPath;
use crate::serial::{Guard, SerialLock};
use crate::types::{Capabilities, Open, SetAttr, empty_stat};
use core::ffi::{c_int, c_void};
use libc::{off_t, stat};
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

    /// Waits for a serialised plugin. An error: this thread is inside it already.
    fn enter(&self) -> core::result::Result<Option<Guard<'_>>, ()> {
        match &self.serial {
            Some(serial) => serial.lock().map(Some).ok_or(()),
            None => Ok(None),
        }
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

    /// Opens or creates; `flags` are open(2)'s. `O_CLOEXEC` is dropped if the plugin takes no notice of it, and `O_APPEND` of a file that may
    /// be mapped for writing (`O_RDWR`) if the plugin is told where to write: through a descriptor with the flag pwrite(2) writes at the end, wherever it
    /// was told to.
    pub fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<Handle>> {
        let mut opened = Opened::EMPTY;
        let answer = op!(self.open(path.as_c_str().as_ptr(), self.open_flags(flags), mode, &raw mut opened));
        self.opened("open", answer, opened)
    }

    pub(super) fn open_flags(&self, flags: c_int) -> c_int {
        // What may become the program's own descriptor has the program's flags; and what cannot be mapped for writing is never told to be
        // written elsewhere than at the end, so there the kernel may see to that, beside writers outside the session, too.
        let appends = Capabilities::APPEND | Capabilities::NATIVE_FD | Capabilities::RELOCATABLE;
        let placed = flags & libc::O_ACCMODE == libc::O_RDWR && !self.capabilities.intersects(appends);
        let unknown = if self.capabilities.contains(Capabilities::CLOEXEC) { 0 } else { libc::O_CLOEXEC };
        flags & !unknown & !if placed { libc::O_APPEND } else { 0 }
    }

    fn opened(&self, operation: &str, answer: Result<()>, opened: Opened) -> Result<Open<Handle>> {
        answer?;
        let Opened { handle, backing_fd, reply_flags, mode_type, .. } = opened;
        let native = reply_flags & abi::DEFUSE_OPENED_NATIVE != 0;
        let wrong = if mode_type != 0 && !is_file_type(mode_type) {
            Some("reports a file type that does not exist")
        } else if native && !self.capabilities.contains(Capabilities::NATIVE_FD) {
            Some("answers with a native descriptor without the capability")
        } else if native
            && !(self.capabilities.contains(Capabilities::CLOEXEC) && backing_fd >= 0)
            && !is_open(backing_fd)
        {
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
            // SAFETY: the plugin gave up this descriptor by the flag, and it was found open, or the plugin vouches for it.
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

fn is_file_type(mode_type: u32) -> bool {
    use libc::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
    matches!(mode_type, S_IFREG | S_IFDIR | S_IFLNK | S_IFIFO | S_IFSOCK | S_IFCHR | S_IFBLK)
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: only asks the kernel about the number; a closed one is answered with an error.
    fd >= 0 && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok()
}
