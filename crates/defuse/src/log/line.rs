//! One line, put together on the stack.

use std::fmt::{self, Write};

use rustix::process::getpid;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};

use super::Level;

/// Bytes of the longest line. A pipe takes as much in one piece (`PIPE_BUF`), so lines of several processes do not mix.
const CAPACITY: usize = 4096;
/// What a line that was cut off ends in.
const CUT: &[u8] = b"...\n";

/// The line for `text`, with time, process and level, and a newline.
pub fn compose(level: Level, text: fmt::Arguments<'_>) -> Line {
    let mut line = Line { bytes: [0; CAPACITY], used: 0 };
    let now = clock_gettime(ClockId::Realtime);
    let (pid, tid) = (getpid().as_raw_nonzero(), gettid().as_raw_nonzero());
    let written =
        writeln!(line, "{}.{:06} {pid}/{tid} {} {text}", now.tv_sec, now.tv_nsec / 1000, level.name());
    if written.is_err() {
        line.cut_off();
    }
    line
}

/// A line in a buffer of its own.
pub struct Line {
    bytes: [u8; CAPACITY],
    used: usize,
}

impl Line {
    /// What is to be written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    fn cut_off(&mut self) {
        self.used = self.used.min(CAPACITY - CUT.len());
        self.bytes[self.used..self.used + CUT.len()].copy_from_slice(CUT);
        self.used += CUT.len();
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.used..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.used += length;
        if length == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Bytes between quotation marks, with anything that is not printable ASCII escaped: no path can break a line or a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, CUT, Level, Quoted, compose};
    use std::process;

    #[test]
    fn a_line_names_process_and_level() {
        let line = compose(Level::Warn, format_args!("no {}", 1));
        let text = std::str::from_utf8(line.as_bytes()).unwrap();
        let words: Vec<_> = text.split(' ').collect();
        assert!(words[0].parse::<f64>().unwrap() > 1e9);
        assert!(words[1].starts_with(&format!("{}/", process::id())));
        assert_eq!(words[2..], ["warn", "no", "1\n"]);
    }

    #[test]
    fn a_line_too_long_is_cut_and_says_so() {
        for length in CAPACITY - 80..CAPACITY + 10 {
            let line = compose(Level::Error, format_args!("{}", "x".repeat(length)));
            assert!(line.as_bytes().len() <= CAPACITY);
            assert!(line.as_bytes().ends_with(b"x\n") || line.as_bytes().ends_with(CUT));
        }
        let line = compose(Level::Error, format_args!("{}", "x".repeat(CAPACITY)));
        assert!(line.as_bytes().ends_with(CUT));
    }

    #[test]
    fn quoting_leaves_no_control_character() {
        assert_eq!(Quoted(b"a\"\n\xff\x1b").to_string(), r#""a\"\n\xff\x1b""#);
    }
}
