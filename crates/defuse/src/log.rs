//! Lines for people: what went wrong, and on wish each call that is served.
//!
//! This runs inside other programs, also in the middle of their `malloc` and in their forked children: a line is put together in a buffer on
//! the stack and written by one system call; nothing is allocated, no lock is taken, no FD is held between lines, and libc is not asked. A line that cannot be
//! written is dropped: logging never fails a call of the program.
//!
//! Lines look like `1732300000.123456 PID/TID LEVEL TEXT`; the time is that of `CLOCK_REALTIME`.

mod line;
mod target;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::errno;
pub use line::Quoted;
pub use target::{Inode, LogTarget, RunnerStderr};

/// How much a line matters; a level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Level {
    /// Nothing at all.
    Off,
    /// Something asked for cannot be done.
    Error,
    /// Something is not as it should be, but work goes on.
    #[default]
    Warn,
    /// What was found and decided.
    Info,
    /// Steps of the work, for those who look for a mistake.
    Debug,
    /// Each call that is served.
    Trace,
}

impl Level {
    /// All levels, the quietest first.
    pub const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level's name in lower case, as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// The level in force.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
/// Where lines go; standard error until [`init`] says otherwise. Reading it takes no lock.
static TARGET: OnceLock<LogTarget> = OnceLock::new();

/// From now on logs as `target` says. Meant for the start of a process: a second call changes the level only.
pub fn init(target: LogTarget) {
    LEVEL.store(target.level as u8, Ordering::Relaxed);
    let _ = TARGET.set(target);
}

/// Whether lines of `level` are written: one load. Ask it before putting an expensive line together.
#[inline]
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed) && level != Level::Off
}

/// Writes one line, if `level` is enabled. Any thread may call it, also in a vfork child. What does not fit in one page is cut off.
#[inline]
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    if enabled(level) {
        write_line(level, text);
    }
}

/// The line lies on the stack: on that of this function, and not of all that might have something to say.
#[cold]
#[inline(never)]
fn write_line(level: Level, text: fmt::Arguments<'_>) {
    target::write(TARGET.get(), line::compose(level, text).as_bytes());
}

/// What a served call was about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A path as the program gave it.
    Path(&'a [u8]),
    /// Two paths, such as those of a rename.
    Paths(&'a [u8], &'a [u8]),
    /// An FD.
    Fd(i32),
    /// An FD and a path relative to it, or the path that it has open.
    FdPath(i32, &'a [u8]),
    /// Neither.
    Nothing,
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Path(path) => Quoted(path).fmt(out),
            Self::Paths(from, to) => write!(out, "{}, {}", Quoted(from), Quoted(to)),
            Self::Fd(fd) => fd.fmt(out),
            Self::FdPath(fd, path) => write!(out, "{fd}, {}", Quoted(path)),
            Self::Nothing => Ok(()),
        }
    }
}

/// Writes the line of one served call at level [`Trace`](Level::Trace): `read(3) = 128 <1.204us>`, `open("/mnt/x") = -ENOENT <3.100us>`.
/// `result` is the raw result of the system call, -4095..=-1 being errors.
pub fn call(name: &str, subject: Subject<'_>, result: isize, took: Duration) {
    let took = format_args!("<{}.{:03}us>", took.as_micros(), took.subsec_nanos() % 1000);
    match error_of(result).and_then(errno::name) {
        Some(error) => line(Level::Trace, format_args!("{name}({subject}) = -{error} {took}")),
        None => line(Level::Trace, format_args!("{name}({subject}) = {result} {took}")),
    }
}

fn error_of(result: isize) -> Option<Errno> {
    (-4095..0).contains(&result).then(|| Errno::from_raw_os_error(-result as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_includes_the_quieter_ones() {
        assert!(enabled(Level::Error) && enabled(Level::Warn) && !enabled(Level::Info));
        assert!(!enabled(Level::Off));
    }

    #[test]
    fn levels_are_found_by_name() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("WARN"), None);
    }

    #[test]
    fn subjects_read_like_arguments() {
        assert_eq!(Subject::Paths(b"a", b"b\n").to_string(), r#""a", "b\n""#);
        assert_eq!(Subject::FdPath(-100, b"x").to_string(), r#"-100, "x""#);
        assert_eq!(Subject::Nothing.to_string(), "");
    }

    #[test]
    fn only_the_last_page_of_results_is_errors() {
        assert_eq!(error_of(-2), Some(Errno::NOENT));
        assert_eq!(error_of(-4096), None);
        assert_eq!(error_of(0), None);
    }
}
