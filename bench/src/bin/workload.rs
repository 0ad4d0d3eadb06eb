//! The program that is measured: plain calls of libc on files. It knows nothing of DEFUSE.
//!
//! `defuse-bench-workload DIRECTORY FOREIGN`: DIRECTORY is where the work is done, FOREIGN a file elsewhere. Each line of standard input
//! names a piece of work; the answer is a line `CALLS NANOSECONDS CPU-NANOSECONDS WAITS`.

use std::ffi::{CStr, CString};
use std::io::{BufRead, Write};
use std::mem::MaybeUninit;

const SMALL_FILES: usize = 4096;
const SMALL: usize = 128;
const LARGE: usize = 128 << 20;
const CHUNK: usize = 128 << 10;
const MIXED_FILES: usize = 2048;
/// Bytes of the file that single reads and writes go through.
const STREAM: usize = 1 << 20;
const CALLS: u64 = 50_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(foreign)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: defuse-bench-workload DIRECTORY FOREIGN");
        std::process::exit(2);
    };
    let work = Work::new(directory, &foreign);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("read a command");
        let answer = work.run(&line).unwrap_or_else(|| panic!("no work is called {line:?}"));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{} {} {} {}", answer.calls, answer.wall, answer.cpu, answer.waits).expect("answer");
        out.flush().expect("answer");
    }
}

struct Work {
    directory: String,
    foreign: CString,
    zero: i32,
    null: i32,
}

struct Answer {
    calls: u64,
    wall: u64,
    cpu: u64,
    waits: i64,
}

impl Work {
    fn new(directory: String, foreign: &str) -> Self {
        let foreign = CString::new(foreign).expect("a path");
        Self {
            directory,
            foreign,
            zero: open(c"/dev/zero", libc::O_RDONLY),
            null: open(c"/dev/null", libc::O_WRONLY),
        }
    }

    fn run(&self, name: &str) -> Option<Answer> {
        let mut byte = [0; 1];
        Some(match name {
            "nothing" => timed(0, || {}),
            // SAFETY: no preconditions.
            "getppid" => repeated(|| assert!(unsafe { libc::getppid() } > 0)),
            "read-foreign" => repeated(|| read(self.zero, &mut byte)),
            "write-foreign" => repeated(|| write(self.null, &byte)),
            "stat-foreign" => repeated(|| stat(&self.foreign)),
            "open-foreign" => repeated(|| close(open(&self.foreign, libc::O_RDONLY))),
            "small-write" => {
                self.unlink("s", SMALL_FILES);
                let paths = self.paths("s", SMALL_FILES);
                let content = [b'x'; SMALL];
                timed(SMALL_FILES as u64, || paths.iter().for_each(|path| put(path, &content)))
            }
            "small-read" => {
                let paths = self.paths("s", SMALL_FILES);
                let mut content = [0; SMALL];
                timed(SMALL_FILES as u64, || paths.iter().for_each(|path| take(path, &mut content)))
            }
            "large-write" => {
                let path = self.path("large");
                let content = vec![b'x'; CHUNK];
                let fd = open(&path, libc::O_CREAT | libc::O_WRONLY);
                let answer =
                    timed((LARGE / CHUNK) as u64, || (0..LARGE / CHUNK).for_each(|_| write(fd, &content)));
                close(fd);
                answer
            }
            "large-read" => {
                let mut content = vec![0; CHUNK];
                let fd = open(&self.path("large"), libc::O_RDONLY);
                let answer =
                    timed((LARGE / CHUNK) as u64, || (0..LARGE / CHUNK).for_each(|_| read(fd, &mut content)));
                close(fd);
                answer
            }
            "mixed-write" => {
                self.unlink("m", MIXED_FILES);
                let paths = self.paths("m", MIXED_FILES);
                let content = vec![b'x'; CHUNK];
                timed(MIXED_FILES as u64, || {
                    paths.iter().enumerate().for_each(|(n, path)| put(path, &content[..mixed_size(n)]));
                })
            }
            "mixed-read" => {
                let paths = self.paths("m", MIXED_FILES);
                let mut content = vec![0; CHUNK];
                timed(MIXED_FILES as u64, || {
                    paths.iter().enumerate().for_each(|(n, path)| take(path, &mut content[..mixed_size(n)]));
                })
            }
            "write-128" => self.stream(128, |fd, content| write(fd, content)),
            "read-128" => self.stream(128, read),
            "write-4096" => self.stream(4096, |fd, content| write(fd, content)),
            "read-4096" => self.stream(4096, read),
            _ => return None,
        })
    }

    /// Calls on one open file, from its beginning to its end, again and again.
    fn stream(&self, size: usize, call: impl Fn(i32, &mut [u8])) -> Answer {
        let path = self.path("stream");
        put(&path, &vec![b'x'; STREAM]);
        let fd = open(&path, libc::O_RDWR);
        let mut content = vec![0; size];
        let per_pass = (STREAM / size) as u64;
        let passes = CALLS.div_ceil(per_pass);
        let answer = timed(passes * per_pass, || {
            for _ in 0..passes {
                // SAFETY: no memory is involved.
                assert_eq!(unsafe { libc::lseek(fd, 0, libc::SEEK_SET) }, 0);
                (0..per_pass).for_each(|_| call(fd, &mut content));
            }
        });
        close(fd);
        answer
    }

    fn path(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.directory)).expect("no NUL")
    }

    fn paths(&self, prefix: &str, count: usize) -> Vec<CString> {
        (0..count).map(|n| self.path(&format!("{prefix}{n}"))).collect()
    }

    fn unlink(&self, prefix: &str, count: usize) {
        for path in self.paths(prefix, count) {
            // Not there the first time.
            // SAFETY: a C string.
            unsafe { libc::unlink(path.as_ptr()) };
        }
    }
}

/// Spread evenly over the powers of two from 64 bytes to 128 KiB.
fn mixed_size(n: usize) -> usize {
    let step = n * 7 % 12;
    let low = 64 << step.min(10);
    (low + n * 977 % low).min(CHUNK)
}

fn repeated(mut call: impl FnMut()) -> Answer {
    timed(CALLS, || (0..CALLS).for_each(|_| call()))
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

fn put(path: &CStr, content: &[u8]) {
    let fd = open(path, libc::O_CREAT | libc::O_WRONLY);
    write(fd, content);
    close(fd);
}

fn take(path: &CStr, content: &mut [u8]) {
    let fd = open(path, libc::O_RDONLY);
    read(fd, content);
    close(fd);
}

fn open(path: &CStr, flags: i32) -> i32 {
    // SAFETY: a C string.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    assert!(fd >= 0, "open {}: {}", path.to_string_lossy(), std::io::Error::last_os_error());
    fd
}

fn close(fd: i32) {
    // SAFETY: closes what the caller opened.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

fn stat(path: &CStr) {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string, and room for the answer.
    assert_eq!(unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) }, 0);
}

fn read(fd: i32, content: &mut [u8]) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::read(fd, content.as_mut_ptr().cast(), content.len()) };
    assert_eq!(count, content.len() as isize, "read: {}", std::io::Error::last_os_error());
}

fn write(fd: i32, content: &[u8]) {
    // SAFETY: the buffer is as long as it says.
    let count = unsafe { libc::write(fd, content.as_ptr().cast(), content.len()) };
    assert_eq!(count, content.len() as isize, "write: {}", std::io::Error::last_os_error());
}
