//! Who holds a slot or a lock in shared memory, and whether that process still runs.

use std::ffi::CStr;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, open, readlinkat_raw};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::held::Held;

/// Of the start time.
const START_BITS: u32 = 22;
/// Of the inode number of a PID namespace: the kernel counts them from 0xf000_0000 on, and the initial one has the last number before.
const NAMESPACE_BITS: u32 = 20;
/// The pid has the rest of the word, 22 bits (`PID_MAX_LIMIT` in linux/threads.h).
const PID_SHIFT: u32 = NAMESPACE_BITS + START_BITS;

static HAS_ENDED: OnceLock<fn(pid: u32, namespace: u64) -> bool> = OnceLock::new();

/// Bits of the inode number of a PID namespace by which [`judge_others_by`]'s function is told which is meant.
pub const NAMESPACE_MASK: u64 = (1 << NAMESPACE_BITS) - 1;

/// Has `has_ended` asked whether a process of another PID namespace has ended: it gets the pid there, and of the namespace's inode number what
/// [`NAMESPACE_MASK`] leaves. Without it, such a process counts as alive for ever: neither kill(2) nor proc(5) tell of it by its own pid.
/// Once, before anything else of this crate is used: the first one stays.
pub fn judge_others_by(has_ended: fn(pid: u32, namespace: u64) -> bool) {
    let _ = HAS_ENDED.set(has_ended);
}

/// A process: its id, and some bits of the PID namespace that this is of and of its start time, so that a reused id is another owner. 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u64);

impl Owner {
    pub(crate) const NOBODY: Self = Self(0);

    pub(crate) fn this_process() -> Self {
        let start = status(c"/proc/self/stat").map_or(0, |status| status.start);
        Self::new(rustix::process::getpid(), own_namespace(), start)
    }

    fn new(pid: Pid, namespace: u64, start: u64) -> Self {
        let start = start & ((1 << START_BITS) - 1);
        Self((pid.as_raw_nonzero().get() as u64) << PID_SHIFT | namespace << START_BITS | start)
    }

    fn namespace(self) -> u64 {
        self.0 >> START_BITS & NAMESPACE_MASK
    }

    pub(crate) fn is_somebody(self) -> bool {
        self != Self::NOBODY
    }

    /// Whether the process runs; when in doubt, it does. Microseconds: `/proc` is read.
    pub(crate) fn is_alive(self) -> bool {
        let number = (self.0 >> PID_SHIFT) as u32;
        let Some(pid) = Pid::from_raw(number as i32) else { return false };
        let (own, its) = (own_namespace(), self.namespace());
        if own != its && own != 0 && its != 0 {
            return HAS_ENDED.get().is_none_or(|has_ended| !has_ended(number, its));
        }
        let status = if proc_has_our_pids() { status_of(pid) } else { None };
        match status {
            Some(status) => !status.ended && Self::new(pid, its, status.start) == self,
            None => rustix::process::test_kill_process(pid) != Err(Errno::SRCH),
        }
    }
}

/// The caller's PID namespace, 0 without `/proc`.
fn own_namespace() -> u64 {
    rustix::fs::stat(c"/proc/self/ns/pid").map_or(0, |stat| stat.st_ino & NAMESPACE_MASK)
}

/// Whether `/proc` is of the caller's PID namespace: it may be of one above.
fn proc_has_our_pids() -> bool {
    let mut target = [std::mem::MaybeUninit::uninit(); 16];
    let Ok((target, _)) = readlinkat_raw(CWD, c"/proc/self", &mut target) else { return false };
    number(target) == Some(rustix::process::getpid().as_raw_nonzero().get() as u64)
}

struct Status {
    ended: bool,
    start: u64,
}

fn status_of(pid: Pid) -> Option<Status> {
    let mut path = *b"/proc/\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    write_path(&mut path, pid.as_raw_nonzero().get() as u32);
    status(CStr::from_bytes_until_nul(&path).ok()?)
}

/// State, number of threads and start time: fields 3, 20 and 22 of `/proc/PID/stat`.
fn status(path: &CStr) -> Option<Status> {
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
    Some(Status { ended: matches!(state, b'Z' | b'X') && threads <= 1, start })
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
        assert!(!Owner(id << PID_SHIFT | me.namespace() << START_BITS).is_alive());
    }

    #[test]
    fn of_another_namespace_nothing_is_known() {
        let me = Owner::this_process();
        let elsewhere = Owner(me.0 ^ 1 << START_BITS ^ 1);
        assert!(elsewhere.is_alive(), "its pid is that of another process here");
    }
}
