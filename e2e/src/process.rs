//! Runs one command with a time limit, its output in files.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, setrlimit,
};

/// After this a command hangs: many times what any takes on a machine that is busy with other things.
pub const LIMIT: Duration = Duration::from_secs(300);

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the standard output.
    pub stdout: Vec<u8>,
    /// Bytes of the standard error output.
    pub stderr: Vec<u8>,
    /// Exit code or signal.
    pub end: End,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It called exit with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
    /// It exceeded its time and was killed; the text tells what its processes were doing.
    TimedOut(String),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Exit)
    }
}

impl End {
    /// Whether it is exit code 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Exit(0)
    }

    /// Describes the end in a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Exit(code) => format!("exit code {code}"),
            Self::Signal(number) => format!("signal {number}"),
            Self::TimedOut(report) => report.clone(),
        }
    }
}

impl Outcome {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    /// Standard error output as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs `command` in a process group of its own, with an empty standard input, and kills the whole group
/// when it takes longer than `limit`. Output goes through files in `dir`, so a background process that
/// keeps them open does not hold the caller up. Nothing dumps core, which would be a file in the working directory.
///
/// `DEFUSE_E2E_LIMIT` (seconds) shortens all limits, for work on a product that still hangs.
pub fn run(command: &mut Command, dir: &Path, limit: Duration) -> io::Result<Outcome> {
    let shorter = env::var("DEFUSE_E2E_LIMIT").ok().and_then(|seconds| seconds.parse().ok());
    let limit = slowed(limit);
    let limit = shorter.map_or(limit, |seconds| limit.min(Duration::from_secs(seconds)));
    setrlimit(Resource::Core, Rlimit { current: Some(0), ..getrlimit(Resource::Core) })?;
    let (stdout, stderr) = (dir.join("stdout"), dir.join("stderr"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .process_group(0)
        .spawn()?;
    let end = wait(&mut child, limit)?;
    Ok(Outcome { stdout: fs::read(stdout)?, stderr: fs::read(stderr)?, end })
}

/// What takes `normal` at most on a machine, here: `DEFUSE_E2E_SLOWNESS` says how many times slower an emulated one is.
pub fn slowed(normal: Duration) -> Duration {
    let slowness = env::var("DEFUSE_E2E_SLOWNESS").ok().and_then(|times| times.parse().ok());
    normal * slowness.unwrap_or(1)
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<End> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => break,
            Ok(_) => return Ok(child.wait()?.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let report = describe_group(pid);
    // The group may be gone already; the wait below tells in any case.
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait()?;
    Ok(End::TimedOut(format!("killed after {} s; its processes were\n{report}", limit.as_secs())))
}

/// Lists command line, state and kernel wait of each process in the group of `leader`.
fn describe_group(leader: Pid) -> String {
    let mut report = String::new();
    for process in live_processes().filter(|process| process.group == leader.as_raw_nonzero().get()) {
        let read = |name| fs::read_to_string(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
        let _ = writeln!(
            report,
            "  {} {} in {} syscall {}: {}",
            process.pid,
            process.state,
            read("wchan"),
            read("syscall").trim(),
            read("cmdline").replace('\0', " ")
        );
    }
    report
}

/// One line of /proc.
#[derive(Debug)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// One-letter state, as in proc(5).
    pub state: char,
    /// Process group.
    pub group: i32,
}

/// The processes that have not ended; zombies are left out.
pub fn live_processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in parentheses may hold anything, the fields are counted from its end.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let group = fields.nth(1)?.parse().ok()?;
        (!matches!(state, 'Z' | 'X')).then_some(Process { pid, state, group })
    })
}
