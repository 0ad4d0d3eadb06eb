//! The host as a plugin sees it, and a host for callers of [`crate::Instance`].

use crate::abi;
use crate::errno::{Errno, Result};
use core::ffi::CStr;
use core::fmt::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something went wrong.
    Error = abi::DEFUSE_LOG_ERROR,
    /// Something looks wrong.
    Warn = abi::DEFUSE_LOG_WARN,
    /// Worth knowing.
    Info = abi::DEFUSE_LOG_INFO,
    /// For the author of the plugin.
    Debug = abi::DEFUSE_LOG_DEBUG,
}

/// The longest log line, in bytes; what is longer is cut.
pub const LOG_LINE: usize = 512;

/// What the host offers. Copies are cheap.
#[derive(Clone, Copy)]
pub struct Host {
    raw: *const abi::Host,
}

// SAFETY: the raw host's functions may be called from any thread, and it lives as long as the instance.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// A host that writes log lines to standard error, by `write(2)` and without allocating.
    pub const STDERR: Self = Self { raw: &raw const STDERR };

    /// From the pointer `init` was given; null means: no host, log lines are dropped.
    ///
    /// # Safety
    /// `raw` is null or valid until `finalize` returns, which is also how long copies of the result may be used.
    pub const unsafe fn from_raw(raw: *const abi::Host) -> Self {
        Self { raw }
    }

    /// From a host that lives for ever.
    pub const fn new(raw: &'static abi::Host) -> Self {
        Self { raw }
    }

    pub(crate) const fn as_ptr(self) -> *const abi::Host {
        self.raw
    }

    /// Writes a line to the log. Allocates nothing and may be called from fork hooks.
    pub fn log(self, level: Level, line: fmt::Arguments<'_>) {
        let Some((host, log)) = self.function(|host| host.log, core::mem::offset_of!(abi::Host, log)) else {
            return;
        };
        let mut text = Line { bytes: [0; LOG_LINE], len: 0 };
        // Only the buffer's end makes this fail, and then the line is cut.
        let _ = text.write_fmt(line);
        // SAFETY: the host's own function, with its context and `len` readable bytes.
        unsafe { log(host.ctx, level as u32, text.bytes.as_ptr().cast(), text.len) };
    }
}

impl Host {
    /// Runs `open`, which opens descriptors that are closed again before the operation of the plugin in which this is called
    /// returns: the host need not keep them out of the program's sight, which takes four system calls each. Only inside an
    /// operation, not in `init`.
    pub fn briefly<R>(self, open: impl FnOnce() -> R) -> R {
        let Some((host, brief)) = self.function(|host| host.brief, core::mem::offset_of!(abi::Host, brief))
        else {
            return open();
        };
        // SAFETY: the host's own function, with its context.
        unsafe { brief(host.ctx, 1) };
        let result = open();
        // SAFETY: as above.
        unsafe { brief(host.ctx, 0) };
        result
    }

    /// Whether descriptors may be kept from one operation to another beside those of handles. Not in the child of a vfork, which runs in
    /// its parent's memory with descriptors of its own, and not where another process uses the same descriptors: what was kept
    /// may be another one there. Nor where the host has no more room for them, nor if it does not say.
    pub fn may_keep_descriptors(self) -> bool {
        let transient = self.function(|host| host.transient, core::mem::offset_of!(abi::Host, transient));
        // SAFETY: the host's own function, with its context.
        transient.is_some_and(|(host, transient)| unsafe { transient(host.ctx) } == 0)
    }

    /// openat2(2) for the descriptor that `open` is about to answer with, made by the host, which takes in the plugin's own system
    /// calls. `None`: the plugin is to make the call itself.
    pub fn openat2(
        self,
        directory: BorrowedFd<'_>,
        path: &CStr,
        flags: u64,
        mode: u64,
        resolve: u64,
    ) -> Option<Result<OwnedFd>> {
        let (host, openat2) =
            self.function(|host| host.openat2, core::mem::offset_of!(abi::Host, openat2))?;
        let (directory, path, mut fd) = (directory.as_raw_fd(), path.as_ptr(), -1);
        // SAFETY: the host's own function, with its context, a C string, and room for the descriptor.
        let answer = unsafe { openat2(host.ctx, directory, path, flags, mode, resolve, &raw mut fd) };
        match answer {
            // SAFETY: the host opened it for the caller.
            0 if fd >= 0 => Some(Ok(unsafe { OwnedFd::from_raw_fd(fd) })),
            libc::ENOSYS => None,
            errno => Some(Err(Errno::from_raw(errno))),
        }
    }

    /// A function of the host, if it has it, and the host; `at` is where it stands.
    fn function<F>(
        self,
        function: impl FnOnce(&abi::Host) -> Option<F>,
        at: usize,
    ) -> Option<(&'static abi::Host, F)> {
        // SAFETY: `raw` is null or valid for as long as copies of this are used, as `from_raw` demands.
        let host: &'static abi::Host = unsafe { self.raw.as_ref() }?;
        if (host.size as usize) < at + size_of::<usize>() {
            return None;
        }
        Some((host, function(host)?))
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// The longest prefix of at most `most` bytes that ends between two characters.
pub(crate) fn boundary(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

struct Line {
    bytes: [u8; LOG_LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LOG_LINE - self.len;
        let taken = boundary(text, room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        if taken < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

static STDERR: abi::Host = abi::Host {
    size: size_of::<abi::Host>() as u32,
    reserved: 0,
    ctx: core::ptr::null_mut(),
    log: Some(log_to_stderr),
    brief: None,
    transient: Some(never),
    openat2: None,
};

unsafe extern "C" fn never(_ctx: *mut core::ffi::c_void) -> core::ffi::c_int {
    0
}

unsafe extern "C" fn log_to_stderr(
    _ctx: *mut core::ffi::c_void,
    level: u32,
    text: *const core::ffi::c_char,
    len: usize,
) -> core::ffi::c_int {
    let level = match level {
        abi::DEFUSE_LOG_ERROR => "error",
        abi::DEFUSE_LOG_WARN => "warning",
        abi::DEFUSE_LOG_INFO => "info",
        _ => "debug",
    };
    let mut line = Line { bytes: [0; LOG_LINE], len: 0 };
    let _ = write!(line, "defuse plugin: {level}: ");
    let room = LOG_LINE - line.len - 1;
    let taken = len.min(room);
    // SAFETY: the caller passes `len` readable bytes.
    let text = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), taken) };
    line.bytes[line.len..line.len + taken].copy_from_slice(text);
    line.len += taken;
    line.bytes[line.len] = b'\n';
    line.len += 1;
    // SAFETY: descriptor 2 is only borrowed for one write; when it is closed the write fails, no more.
    let stderr = unsafe { std::os::fd::BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(stderr, &line.bytes[..line.len]);
    0
}
