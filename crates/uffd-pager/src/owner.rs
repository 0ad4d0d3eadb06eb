//! Who holds a slot or a lock in shared memory, and whether that process still runs.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::held::Held;

/// A process: its id and the low half of its start time, so that a reused id is another owner. 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u64);

impl Owner {
    pub(crate) const NOBODY: Self = Self(0);

    pub(crate) fn this_process() -> Self {
        let pid = rustix::process::getpid();
        let start = status(pid).map_or(0, |status| status.start);
        Self((pid.as_raw_nonzero().get() as u64) << 32 | u64::from(start))
    }

    pub(crate) fn is_somebody(self) -> bool {
        self != Self::NOBODY
    }

    /// Whether the process runs; when in doubt, it does. Microseconds: `/proc` is read.
    pub(crate) fn is_alive(self) -> bool {
        let Some(pid) = Pid::from_raw((self.0 >> 32) as i32) else { return false };
        match status(pid) {
            Some(status) => !status.ended && status.start == self.0 as u32,
            None => rustix::process::test_kill_process(pid) != Err(Errno::SRCH),
        }
    }
}

struct Status {
    ended: bool,
    start: u32,
}

/// State, number of threads and start time: fields 3, 20 and 22 of `/proc/PID/stat`.
fn status(pid: Pid) -> Option<Status> {
    let mut path = *b"/proc/\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    write_path(&mut path, pid.as_raw_nonzero().get() as u32);
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let file = Held::from(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?);
    let mut text = [0; 512];
    let length = rustix::io::read(&file, &mut text).ok()?;
    parse(&text[..length])
}

/// Completes `/proc/` to `/proc/PID/stat` without the formatter, which may allocate.
fn write_path(path: &mut [u8; 24], pid: u32) {
    let digits = pid.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = pid;
    for digit in path[6..6 + digits].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    path[6 + digits..][..5].copy_from_slice(b"/stat");
}

fn parse(text: &[u8]) -> Option<Status> {
    // The name, field 2, may hold anything; its closing bracket is the last one.
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 2;
    let mut fields = text.get(after_name..)?.split(|&byte| byte == b' ');
    let state = *fields.next()?.first()?;
    let threads = number(fields.nth(16)?)?;
    let start = number(fields.nth(1)?)?;
    // A dead leader of living threads is a zombie as well.
    Some(Status { ended: matches!(state, b'Z' | b'X') && threads <= 1, start: start as u32 })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_state_threads_and_start_time() {
        let text = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 4242 1 1";
        let status = parse(text).expect("a complete line");
        assert!(!status.ended);
        assert_eq!(status.start, 4242);
        let dead = parse(b"7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1").expect("complete");
        assert!(dead.ended);
    }

    #[test]
    fn this_process_lives_and_a_reaped_one_does_not() {
        let me = Owner::this_process();
        assert!(me.is_alive());
        assert!(!Owner(me.0 ^ 1).is_alive(), "same id, other start time");
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let id = u64::from(child.id());
        child.wait().expect("a child");
        assert!(!Owner(id << 32).is_alive());
    }
}
