//! Processes of other pid namespaces, of which kill(2) says nothing. Who is in the initial one sees all there are in proc(5).

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::Process;
use crate::process_status::{PathBuffer, number, own_pid_namespace};

/// Inode number of the initial pid namespace, below which all others are (`PROC_PID_INIT_INO` in linux/proc_ns.h).
const INITIAL: u64 = 0xefff_fffc;

/// Whether the process of this record, which is of another pid namespace than the caller, is known to have ended.
///
/// Looks at every process: not for each of many.
pub(crate) fn has_ended(process: &Process) -> bool {
    has_ended_elsewhere(process.pid, |namespace| namespace == process.pid_namespace)
}

/// Whether the process that has this pid in another pid namespace than the caller's, whose inode number `is_its_namespace` knows, is known to have
/// ended. For a process of the initial pid namespace: another one cannot know.
///
/// Looks at every process: not for each of many. Any thread; reads proc(5), and allocates nothing.
pub fn has_ended_elsewhere(pid: u32, is_its_namespace: impl Fn(u64) -> bool) -> bool {
    own_pid_namespace() == INITIAL && any_lives(pid, is_its_namespace) == Some(false)
}

/// Whether any process on the machine can be that one. `None` if not all of them can be seen.
fn any_lives(its_pid: u32, is_its_namespace: impl Fn(u64) -> bool) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).ok()?;
    if has_word(c"/proc/self/mountinfo", b"hidepid=")? {
        return None;
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&proc, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str().ok();
        let Some(pid) = pid.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        match Status::read(&proc, pid) {
            Ok(status) if status.may_be(its_pid) && is_in(&is_its_namespace, &proc, pid) => {
                return Some(true);
            }
            // It ended meanwhile, or there is nothing to be seen that could be it.
            Ok(_) | Err(Errno::NOENT | Errno::SRCH) => {}
            Err(_) => return None,
        }
    }
    Some(false)
}

/// Whether that is so as far as one may look.
fn is_in(is_its_namespace: impl Fn(u64) -> bool, proc: &OwnedFd, pid: &str) -> bool {
    let name = PathBuffer::new(format_args!("{pid}/ns/pid"));
    let stat = name.and_then(|name| rustix::fs::statat(proc, name.as_c_str()?, AtFlags::empty()).ok());
    stat.is_none_or(|stat| is_its_namespace(stat.st_ino))
}

/// The interesting lines of `proc_pid_status(5)`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    state: u8,
    namespace: Namespace,
    threads: Option<u64>,
}

/// Which pid namespace a process is in.
#[derive(Debug, PartialEq, Eq)]
enum Namespace {
    /// The caller's.
    Ours,
    /// One below it, where the process has this pid.
    Below(u64),
    Unknown,
}

impl Status {
    fn read(proc: &OwnedFd, pid: &str) -> Result<Self, Errno> {
        let name = PathBuffer::new(format_args!("{pid}/status")).ok_or(Errno::NAMETOOLONG)?;
        let name = name.as_c_str().ok_or(Errno::NAMETOOLONG)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, name, flags, Mode::empty())?;
        let mut text = [0; 4096];
        let len = rustix::io::read(&file, &mut text)?;
        Ok(Self::parse(&text[..len]))
    }

    fn parse(text: &[u8]) -> Self {
        let field = |name: &[u8]| {
            let mut lines =
                text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
            lines.find_map(|line| line.strip_prefix(name))
        };
        let state = field(b"State:\t").and_then(|state| state.first().copied());
        // From the caller's namespace down to its own.
        let mut pids = field(b"NSpid:\t").unwrap_or_default().split(|&byte| byte == b'\t').map(number);
        let namespace = match (pids.next().flatten(), pids.next_back()) {
            (Some(_), None) => Namespace::Ours,
            (Some(_), Some(Some(pid))) => Namespace::Below(pid),
            _ => Namespace::Unknown,
        };
        let threads = field(b"Threads:\t").and_then(number);
        Self { state: state.unwrap_or(b'?'), namespace, threads }
    }

    /// Whether it can be the process that has this pid in its namespace, alive. What is not told speaks for it.
    fn may_be(&self, its_pid: u32) -> bool {
        // A zombie leader may still have running threads; of a dead process it is the only thread left.
        let zombie =
            matches!(self.state, b'Z' | b'X' | b'x') && self.threads.is_some_and(|threads| threads <= 1);
        let is_there = match self.namespace {
            Namespace::Ours => false,
            Namespace::Below(pid) => pid == u64::from(its_pid),
            Namespace::Unknown => true,
        };
        is_there && !zombie
    }
}

/// Whether the file's text has `word` in it, which is no longer than 16 bytes. `None` if it cannot be read.
fn has_word(path: &core::ffi::CStr, word: &[u8]) -> Option<bool> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 1024];
    let mut kept = 0;
    loop {
        let len = rustix::io::read(file.as_fd(), &mut text[kept..]).ok()?;
        if len == 0 {
            return Some(false);
        }
        let end = kept + len;
        if text[..end].windows(word.len()).any(|window| window == word) {
            return Some(true);
        }
        // It may begin in what was read and end in what comes.
        kept = end.min(word.len() - 1);
        text.copy_within(end - kept..end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_innermost_pid() {
        let status = Status::parse(b"Name:\tx\nState:\tS (sleeping)\nNSpid:\t4711\t17\t3\nThreads:\t1\n");
        assert_eq!(status, Status { state: b'S', namespace: Namespace::Below(3), threads: Some(1) });
        assert_eq!([3, 17, 4711].map(|pid| status.may_be(pid)), [true, false, false]);
        // It has no other namespace than the caller's.
        assert!(!Status::parse(b"State:\tS (sleeping)\nNSpid:\t3\nThreads:\t1\n").may_be(3));
    }

    #[test]
    fn only_a_zombie_without_threads_is_dead() {
        let parse =
            |threads| Status::parse(format!("State:\tZ (zombie)\nNSpid:\t9\t3\n{threads}").as_bytes());
        let alive =
            ["Threads:\t1\n", "Threads:\t2\n", "", "Threads:\t1"].map(|threads| parse(threads).may_be(3));
        assert_eq!(alive, [false, true, true, true]);
    }

    #[test]
    fn what_is_cut_short_may_be_anybody() {
        for text in [&b""[..], b"State:\tS (sleeping)\nNSpid:\t47", b"NSpid:\n"] {
            assert!(Status::parse(text).may_be(3), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_word_is_found_where_two_reads_meet() {
        use std::io::Write;
        for before in [0, 1000, 1016, 1020, 1023, 1024, 5000] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![b'x'; before]).unwrap();
            let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
            assert_eq!(has_word(&path, b"hidepid="), Some(false));
            file.write_all(b"hidepid=2\n").unwrap();
            assert_eq!(has_word(&path, b"hidepid="), Some(true));
        }
        assert_eq!(has_word(c"/nowhere", b"hidepid="), None);
    }
}
