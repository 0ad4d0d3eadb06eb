//! What the kernel says of a process: kill(2) for existence, proc(5) for zombies and reused pids.

use core::ffi::CStr;
use core::fmt::{self, Write};

use rustix::fs::{CWD, Mode, OFlags, readlinkat_raw};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::Process;

/// `starttime` in `/proc/PID/stat` counts in this unit (`USER_HZ` is 100 on every Linux of this architecture).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Inode number of the calling process's pid namespace; 0 without `/proc`.
pub(crate) fn own_pid_namespace() -> u64 {
    rustix::fs::stat(c"/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Whether the process that made this record still runs.
pub(crate) fn is_alive(process: &Process) -> bool {
    if !same_namespace(process) {
        return true;
    }
    if !pid_exists(process.pid) {
        return false;
    }
    let Some(stat) = Stat::read(format_args!("/proc/{}/stat", process.pid)) else { return true };
    // A zombie leader may still have running threads; of a dead process it is the only thread left.
    let zombie = matches!(stat.state, b'Z' | b'X' | b'x') && stat.threads <= 1;
    let reused = stat.started.saturating_mul(NANOSECONDS_PER_TICK) > process.registered_at;
    !zombie && !reused
}

/// Whether a thread, of a process known to be alive, still runs.
pub(crate) fn thread_is_alive(process: &Process, thread: u32) -> bool {
    if !same_namespace(process) {
        return true;
    }
    if !pid_exists(thread) {
        return false;
    }
    match Stat::read(format_args!("/proc/{}/task/{thread}/stat", process.pid)) {
        Some(stat) => !matches!(stat.state, b'Z' | b'X' | b'x'),
        // Gone from this process, unless `/proc` shows nothing of it at all, or it is a vfork child, which is on the process's memory. (Nothing
        // tells such a child from a process that has got a dead thread's number: then a waiter waits until that has ended.)
        None => match Stat::read(format_args!("/proc/{thread}/stat")) {
            Some(stat) => !matches!(stat.state, b'Z' | b'X' | b'x'),
            None => Stat::read(format_args!("/proc/{}/stat", process.pid)).is_none(),
        },
    }
}

/// Whether a process or thread of this number exists in the caller's pid namespace.
pub(crate) fn pid_exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    rustix::process::test_kill_process(pid) != Err(Errno::SRCH)
}

/// Whether the process's pid means the same to the caller.
pub(crate) fn same_namespace(process: &Process) -> bool {
    let own = own_pid_namespace();
    own == 0 || process.pid_namespace == 0 || own == process.pid_namespace
}

/// Whether `/proc` is of the caller's pid namespace: it may be of one above.
fn proc_has_our_pids() -> bool {
    let mut target = [core::mem::MaybeUninit::uninit(); 16];
    let Ok((target, _)) = readlinkat_raw(CWD, c"/proc/self", &mut target) else { return false };
    number(target) == Some(rustix::process::getpid().as_raw_nonzero().get() as u64)
}

/// The interesting fields of `proc_pid_stat(5)`.
struct Stat {
    state: u8,
    threads: u64,
    /// In ticks since boot.
    started: u64,
}

impl Stat {
    /// `None` where there is nothing that could tell: no `/proc`, or one of a pid namespace above the caller's, where other processes have those pids.
    fn read(path: fmt::Arguments<'_>) -> Option<Self> {
        if !proc_has_our_pids() {
            return None;
        }
        let name = PathBuffer::new(path)?;
        let file =
            rustix::fs::open(name.as_c_str()?, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; 1024];
        let len = rustix::io::read(&file, &mut text).ok()?;
        Self::parse(&text[..len])
    }

    /// Fields 3 (state), 20 (threads) and 22 (start time), counted after the command name, which may hold anything.
    fn parse(text: &[u8]) -> Option<Self> {
        let after_name = text.iter().rposition(|&byte| byte == b')')? + 2;
        let mut fields = text.get(after_name..)?.split(|&byte| byte == b' ');
        let state = *fields.next()?.first()?;
        let threads = number(fields.nth(16)?)?;
        let started = number(fields.nth(1)?)?;
        Some(Self { state, threads, started })
    }
}

pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// A NUL-terminated path built without allocating.
pub(crate) struct PathBuffer {
    bytes: [u8; 64],
    len: usize,
}

impl PathBuffer {
    /// `None` if the path is too long.
    pub fn new(path: fmt::Arguments<'_>) -> Option<Self> {
        let mut buffer = Self { bytes: [0; 64], len: 0 };
        buffer.write_fmt(path).ok()?;
        Some(buffer)
    }

    pub fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).ok()
    }
}

impl Write for PathBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).filter(|_| end < 64).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_command_name_of_parentheses_and_spaces() {
        let text = b"7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 4567 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.threads, stat.started), (b'S', 3, 4567));
    }

    #[test]
    fn truncated_status_is_refused() {
        for text in [&b""[..], b"7", b"7 (a)", b"7 (a) ", b"7 (a) S 1 2 3"] {
            assert!(Stat::parse(text).is_none());
        }
    }
}
