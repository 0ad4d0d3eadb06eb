//! The program that is measured: plain calls of libc on files. It knows nothing of DEFUSE.
//!
//! `defuse-bench-workload DIRECTORY FOREIGN [DIVISOR]`: DIRECTORY is where the work is done, FOREIGN a file elsewhere; all is done
//! on DIVISOR times fewer files, bytes and calls. Each line of standard input names a piece of work; the answer is a line
//! `CALLS NANOSECONDS CPU-NANOSECONDS WAITS [P50 P99 P99.9]`, or `!` and why it cannot be done here.

mod calls;
mod files;
mod foreign;
mod latency;
mod mapped;
mod metadata;
mod processes;
mod single;
mod threads;

use std::ffi::CString;
use std::io::{self, BufRead, Write};
use std::mem::MaybeUninit;

/// What a piece of work gave, if it is one that the module knows.
type Done = Option<io::Result<Answer>>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(foreign)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: defuse-bench-workload DIRECTORY FOREIGN [DIVISOR]");
        std::process::exit(2);
    };
    let divisor = arguments.next().map_or(1, |divisor| divisor.parse().expect("DIVISOR is a number"));
    let work = Work {
        directory,
        foreign: CString::new(foreign).expect("a path"),
        zero: calls::open(c"/dev/zero", libc::O_RDONLY),
        null: calls::open(c"/dev/null", libc::O_WRONLY),
        divisor,
    };
    for line in io::stdin().lock().lines() {
        let line = line.expect("read a command");
        let answer = work.run(&line).unwrap_or_else(|| panic!("no work is called {line:?}"));
        let mut out = io::stdout().lock();
        match answer {
            Ok(Answer { calls, wall, cpu, waits, percentiles }) => {
                let more: Vec<String> = percentiles.iter().map(u64::to_string).collect();
                writeln!(out, "{calls} {wall} {cpu} {waits} {}", more.join(" "))
            }
            Err(error) => writeln!(out, "! {error}"),
        }
        .expect("answer");
        out.flush().expect("answer");
    }
}

/// Where to work, and on how much.
struct Work {
    directory: String,
    foreign: CString,
    zero: i32,
    null: i32,
    divisor: usize,
}

struct Answer {
    calls: u64,
    wall: u64,
    cpu: u64,
    waits: i64,
    /// Of single calls, where those were timed.
    percentiles: Vec<u64>,
}

/// In a full run, where one call is made again and again.
const CALLS: usize = 50_000;

impl Work {
    fn run(&self, name: &str) -> Done {
        if name == "nothing" {
            return Some(Ok(timed(0, || {})));
        }
        (single::run(self, name))
            .or_else(|| foreign::run(self, name))
            .or_else(|| files::run(self, name))
            .or_else(|| metadata::run(self, name))
            .or_else(|| latency::run(self, name))
            .or_else(|| threads::run(self, name))
            .or_else(|| mapped::run(self, name))
            .or_else(|| processes::run(self, name))
    }

    /// One call again and again.
    fn repeated(&self, call: &mut dyn FnMut()) -> Answer {
        let calls = self.count(CALLS);
        timed(calls as u64, || (0..calls).for_each(|_| call()))
    }

    /// So many in a full run.
    fn count(&self, full: usize) -> usize {
        (full / self.divisor).max(1)
    }

    fn path(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.directory)).expect("no NUL")
    }

    fn paths(&self, prefix: &str, count: usize) -> Vec<CString> {
        (0..count).map(|n| self.path(&format!("{prefix}{n}"))).collect()
    }

    /// A file of `size` bytes, made if it is not there.
    fn file(&self, name: &str, size: usize) -> CString {
        let path = self.path(name);
        if calls::size(&path) != Some(size as u64) {
            calls::put(&path, &vec![b'x'; size], false);
        }
        path
    }
}

fn timed(calls: u64, work: impl FnOnce()) -> Answer {
    let waits = voluntary_switches();
    let cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let wall = clock(libc::CLOCK_MONOTONIC);
    work();
    Answer {
        calls,
        wall: clock(libc::CLOCK_MONOTONIC) - wall,
        cpu: clock(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu,
        waits: voluntary_switches() - waits,
        percentiles: Vec::new(),
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the structure, and these clocks exist.
    let now = unsafe {
        assert_eq!(libc::clock_gettime(id, now.as_mut_ptr()), 0);
        now.assume_init()
    };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn voluntary_switches() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the structure.
    unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init().ru_nvcsw
    }
}

/// A cheap sequence without order (xorshift), the same in each run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
