//! What is said about the work: errors always, the rest as the session's log level asks.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::time::Duration;

use interpose::Call;
use plugin_abi::{Host, abi};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::log::{self, Level, Subject};
use crate::namei::OpenHow;
use crate::serve::{Reply, Served, inner};
use crate::{common, private_fd, table, thread};

/// Something asked for cannot be done.
pub fn error(text: fmt::Arguments<'_>) {
    log::line(Level::Error, text);
}

/// Something goes on otherwise than who uses it may expect.
pub fn warn(text: fmt::Arguments<'_>) {
    log::line(Level::Warn, text);
}

/// A step of the work.
pub fn debug(text: fmt::Arguments<'_>) {
    log::line(Level::Debug, text);
}

/// What plugins log to.
pub const HOST: Host = Host::new(&RAW_HOST);

static RAW_HOST: abi::Host = abi::Host {
    size: size_of::<abi::Host>() as u32,
    reserved: 0,
    ctx: std::ptr::null_mut(),
    log: Some(plugin_line),
    brief: Some(brief),
    transient: Some(transient),
    openat2: Some(openat2),
};

unsafe extern "C" fn openat2(
    _: *mut c_void,
    directory: c_int,
    path: *const c_char,
    flags: u64,
    mode: u64,
    resolve: u64,
    fd: *mut c_int,
) -> c_int {
    match inner::open_adopted(directory, path, OpenHow { flags, mode, resolve }) {
        Ok(opened) => {
            // SAFETY: the plugin passes room for a descriptor.
            unsafe { fd.write(opened) };
            0
        }
        Err(error) => error.raw_os_error(),
    }
}

unsafe extern "C" fn transient(_: *mut c_void) -> c_int {
    (interpose::in_vfork_child() || common::has_common_table() || private_fd::are_short()).into()
}

unsafe extern "C" fn brief(_: *mut c_void, on: u32) -> c_int {
    thread::set_brief(on != 0);
    0
}

unsafe extern "C" fn plugin_line(_: *mut c_void, level: u32, text: *const c_char, length: usize) -> c_int {
    let level = match level {
        abi::DEFUSE_LOG_ERROR => Level::Error,
        abi::DEFUSE_LOG_WARN => Level::Warn,
        abi::DEFUSE_LOG_INFO => Level::Info,
        _ => Level::Debug,
    };
    if log::enabled(level) {
        // SAFETY: the plugin passes `length` readable bytes.
        let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length.min(2048)) };
        log::line(level, format_args!("plugin: {}", text.escape_ascii()));
    }
    0
}

/// Nanoseconds since some moment.
pub fn instant() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The time that serving one call takes, if it is to be logged.
pub struct Span {
    start: Option<Timespec>,
}

impl Span {
    /// Begins now.
    #[inline]
    pub fn begin() -> Self {
        Self { start: log::enabled(Level::Trace).then(|| clock_gettime(ClockId::Monotonic)) }
    }

    /// Ends now; writes the line of the call if it was served.
    #[inline]
    pub fn end(self, call: &Call, served: &Served) {
        if let Some(start) = self.start {
            report(start, call, served);
        }
    }
}

#[cold]
fn report(start: Timespec, call: &Call, served: &Served) {
    let result = match served {
        Ok(Reply::Value(value)) => *value as isize,
        Ok(Reply::Pass | Reply::PassWith(_)) => return,
        Err(error) => -error.raw_os_error() as isize,
    };
    let end = clock_gettime(ClockId::Monotonic);
    let nanoseconds = (end.tv_sec - start.tv_sec) * 1_000_000_000 + (end.tv_nsec - start.tv_nsec);
    let mut buffer = [MaybeUninit::uninit(); 512];
    let row = table::row(call.nr as u16);
    let name = row.map_or("?", |row| row.name);
    let path = row.and_then(table::Row::path_argument).and_then(|(dirfd, position)| {
        let path = interpose::usercopy::read_cstr(call.args[position], &mut buffer).ok()?;
        Some((dirfd.map(|dirfd| call.args[dirfd] as i32), path))
    });
    let subject = match path {
        Some((Some(dirfd), path)) => Subject::FdPath(dirfd, path),
        Some((None, path)) => Subject::Path(path),
        None => Subject::Fd(call.args[0] as i32),
    };
    log::call(name, subject, result, Duration::from_nanos(nanoseconds.max(0) as u64));
}
