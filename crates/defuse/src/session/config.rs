//! The text that tells each process of a session what is mounted where.
//!
//! ```text
//! defuse-session 1
//! private-fd-base 1024
//! nofile 1024 1048576
//! dispatch auto
//! log warn - 4711:d:9
//! mount /mnt/fs /usr/lib/defuse/libpassthrough.so /srv/data backing-fd 2a:1234 folder
//! one-state 0
//! end
//! ```
//!
//! Words are separated by one space and written as [`escape`] says. `log` is followed by the level,
//! the file that lines go to (`-`: standard error), and process id of the runner, device (hexadecimal) and inode of its standard error (`-`: it has none); `mount` by the
//! point, the library, the back end, the options, the device (hexadecimal) and inode of the directory that the mount hides (`-`: none, the point
//! lies on another mount), and who makes shadows; `one-state` by the numbers of mounts (from 0 on, the line may be absent). `end` shows that nothing is missing.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use interpose::DispatchPolicy;

use super::error::SessionError;
use super::escape::{escape, unescape};
use crate::log::{Inode, Level, LogTarget, RunnerStderr};

/// The first line of a configuration that this version writes and reads.
const VERSION_LINE: &str = "defuse-session 1";
/// Begins the line that names mounts by number.
const ONE_STATE: &str = "one-state";

/// What each process of a session needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// FDs at this number and above are the interposer's and its plugins'; the program never gets one.
    pub private_fd_base: u32,
    /// The limit of open files that the program is to believe in.
    pub nofile: Nofile,
    /// When calls are caught that the rewritten sites do not make.
    pub dispatch: DispatchPolicy,
    /// What is logged, and where.
    pub log: LogTarget,
    /// The mounts, in the order in which they were asked for.
    pub mounts: Vec<Mount>,
    /// Indices, ascending, of those mounts whose library has one state for all of a process: it cannot be started once more.
    pub one_state: Vec<usize>,
}

/// A limit of open files, as `RLIMIT_NOFILE` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nofile {
    /// The limit in force: FDs are below it.
    pub soft: u64,
    /// The most that an unprivileged process may raise it to.
    pub hard: u64,
}

/// One mount of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Canonical absolute path of the directory that is served.
    pub point: PathBuf,
    /// Absolute path of the plugin.
    pub library: PathBuf,
    /// What the plugin serves; its meaning is the plugin's own.
    pub backend: OsString,
    /// Options for the plugin, separated by commas; may be empty.
    pub options: OsString,
    /// The directory that the mount hides; `None` when the point lies on another mount. Of a module's mount: its root.
    pub hidden: Option<Inode>,
    /// Who makes the shadows of its files.
    pub shadows: Shadows,
}

/// Who makes what stands in the kernel's FD table for a mount's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shadows {
    /// The session's folder.
    Folder,
    /// The kernel module: it is mounted with `mount -t defuse`.
    Module,
}

impl Shadows {
    const ALL: [Self; 2] = [Self::Folder, Self::Module];

    fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Module => "module",
        }
    }
}

impl SessionConfig {
    /// The text of this configuration.
    pub fn to_text(&self) -> String {
        let mut text = String::from(VERSION_LINE);
        let log_file = self.log.file.as_ref().map_or(OsStr::new(""), |file| file.as_os_str());
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\nprivate-fd-base {}\nnofile {} {}\ndispatch {}\nlog {} {} {}\n",
            self.private_fd_base,
            self.nofile.soft,
            self.nofile.hard,
            self.dispatch.name(),
            self.log.level.name(),
            escape(log_file.as_bytes()),
            self.log.stderr.map_or("-".into(), |at| format!("{}:{}", at.runner, inode_word(at.inode))),
        );
        for mount in &self.mounts {
            text.push_str("mount");
            for word in [mount.point.as_os_str(), mount.library.as_os_str(), &mount.backend, &mount.options] {
                text.push(' ');
                text.push_str(&escape(word.as_bytes()));
            }
            let hidden = mount.hidden.map_or("-".into(), inode_word);
            let _ = writeln!(text, " {hidden} {}", mount.shadows.name());
        }
        if !self.one_state.is_empty() {
            text.push_str(ONE_STATE);
            for number in &self.one_state {
                let _ = write!(text, " {number}");
            }
            text.push('\n');
        }
        text.push_str("end\n");
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote, and nothing else: every line in its place, every word in its one form.
    ///
    /// # Errors
    ///
    /// [`SessionError::Config`] with the first line that is not as it must be.
    pub fn parse(text: &[u8]) -> Result<Self, SessionError> {
        let Some(body) = text.strip_suffix(b"\n") else {
            return Err(SessionError::config(0, "it is cut short"));
        };
        let mut lines = Lines { rest: body.split(|&byte| byte == b'\n').enumerate() };

        let (line, version) = lines.next()?;
        if version != [&b"defuse-session"[..], b"1"] {
            let why = format!("'{VERSION_LINE}' expected: written by another version of defuse");
            return Err(SessionError::config(line, why));
        }
        let [base] = lines.expect("private-fd-base")?;
        let private_fd_base = base.number()?;
        let [soft, hard] = lines.expect("nofile")?;
        let nofile = Nofile { soft: soft.number()?, hard: hard.number()? };
        let [policy] = lines.expect("dispatch")?;
        let dispatch = DispatchPolicy::ALL.into_iter().find(|known| known.name().as_bytes() == policy.text);
        let dispatch = dispatch.ok_or_else(|| policy.wrong("a dispatch policy"))?;
        let [level, file, stderr] = lines.expect("log")?;
        let level = std::str::from_utf8(level.text).ok().and_then(Level::from_name);
        let level = level.ok_or_else(|| SessionError::config(file.line, "not the name of a log level"))?;
        let file = if file.text == b"-" { PathBuf::new() } else { file.absolute()? };
        let file = (!file.as_os_str().is_empty()).then_some(file);
        let log = LogTarget { level, file, stderr: stderr.optional(Word::stderr)? };

        let mut mounts = Vec::new();
        let mut one_state = Vec::new();
        loop {
            let (line, words) = lines.next()?;
            if words == [b"end"] {
                break;
            }
            if words[0] == ONE_STATE.as_bytes() && one_state.is_empty() {
                one_state = numbers_below(mounts.len(), line, &words[1..])?;
                continue;
            }
            if !one_state.is_empty() {
                return Err(SessionError::config(line, "'end' expected"));
            }
            let &[keyword, point, library, backend, options, hidden, shadows] = words.as_slice() else {
                return Err(SessionError::config(line, "'mount' with six words, or 'end', expected"));
            };
            if keyword != b"mount" {
                return Err(SessionError::config(line, "'mount' or 'end' expected"));
            }
            let word = |text| Word { line, text };
            mounts.push(Mount {
                point: word(point).absolute()?,
                library: word(library).absolute()?,
                backend: word(backend).bytes()?,
                options: word(options).bytes()?,
                hidden: word(hidden).optional(Word::inode)?,
                shadows: word(shadows).shadows()?,
            });
        }
        if lines.rest.next().is_some() {
            return Err(SessionError::config(0, "there is text after its end"));
        }
        Ok(Self { private_fd_base, nofile, dispatch, log, mounts, one_state })
    }
}

/// The numbers in `words`, at least one: ascending, and all below `limit`.
fn numbers_below(limit: usize, line: usize, words: &[&[u8]]) -> Result<Vec<usize>, SessionError> {
    let numbers = words.iter().map(|text| Word { line, text }.number());
    let numbers: Vec<usize> = numbers.collect::<Result<_, _>>()?;
    let ascending = numbers.is_sorted_by(|a, b| a < b) && numbers.last().is_some_and(|&last| last < limit);
    if ascending { Ok(numbers) } else { Err(SessionError::config(line, "numbers of mounts expected")) }
}

/// The lines of a configuration, numbered from 0.
struct Lines<L> {
    rest: std::iter::Enumerate<L>,
}

impl<'t, L: Iterator<Item = &'t [u8]>> Lines<L> {
    /// Number (from 1) and words of the next line.
    fn next(&mut self) -> Result<(usize, Vec<&'t [u8]>), SessionError> {
        let (index, line) = self.rest.next().ok_or_else(|| SessionError::config(0, "it is cut short"))?;
        Ok((index + 1, line.split(|&byte| byte == b' ').collect()))
    }

    /// The words after `keyword` on the next line, exactly `N`.
    fn expect<const N: usize>(&mut self, keyword: &str) -> Result<[Word<'t>; N], SessionError> {
        let (line, words) = self.next()?;
        if words[0] != keyword.as_bytes() || words.len() != N + 1 {
            return Err(SessionError::config(line, format!("'{keyword}' with {N} word(s) expected")));
        }
        Ok(std::array::from_fn(|index| Word { line, text: words[index + 1] }))
    }
}

/// One word and the line that it stands on.
#[derive(Clone, Copy)]
struct Word<'t> {
    line: usize,
    text: &'t [u8],
}

impl Word<'_> {
    fn wrong(&self, what: &str) -> SessionError {
        SessionError::config(self.line, format!("'{}' is not {what}", String::from_utf8_lossy(self.text)))
    }

    /// A decimal number without sign or leading zeros.
    fn number<N: std::str::FromStr + ToString>(&self) -> Result<N, SessionError> {
        std::str::from_utf8(self.text)
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|number: &N| number.to_string().as_bytes() == self.text)
            .ok_or_else(|| self.wrong("a number in range"))
    }

    fn bytes(&self) -> Result<OsString, SessionError> {
        unescape(self.text).map(OsString::from_vec).ok_or_else(|| self.wrong("an escaped word"))
    }

    fn path(&self) -> Result<PathBuf, SessionError> {
        let path = PathBuf::from(self.bytes()?);
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(self.wrong("a path"));
        }
        Ok(path)
    }

    fn absolute(&self) -> Result<PathBuf, SessionError> {
        let path = self.path()?;
        if !path.is_absolute() {
            return Err(self.wrong("an absolute path"));
        }
        Ok(path)
    }

    /// What `read` makes of the word, or `None` of a `-`.
    fn optional<T>(
        self,
        read: impl FnOnce(&Self) -> Result<T, SessionError>,
    ) -> Result<Option<T>, SessionError> {
        if self.text == b"-" { Ok(None) } else { read(&self).map(Some) }
    }

    /// Device and inode number, joined by a colon.
    fn inode(&self) -> Result<Inode, SessionError> {
        let mut parts = self.text.split(|&byte| byte == b':').map(|text| Word { line: self.line, text });
        match (parts.next(), parts.next(), parts.next()) {
            (Some(dev), Some(ino), None) => Ok(Inode { dev: dev.hexadecimal()?, ino: ino.number()? }),
            _ => Err(self.wrong("a device and an inode number")),
        }
    }

    fn shadows(&self) -> Result<Shadows, SessionError> {
        let known = Shadows::ALL.into_iter().find(|shadows| shadows.name().as_bytes() == self.text);
        known.ok_or_else(|| self.wrong("'folder' or 'module'"))
    }

    /// Process id, device and inode number, joined by colons.
    fn stderr(&self) -> Result<RunnerStderr, SessionError> {
        let colon = self.text.iter().position(|&byte| byte == b':');
        let colon = colon.ok_or_else(|| self.wrong("a process id and an inode"))?;
        let part = |text| Word { line: self.line, text };
        let runner = part(&self.text[..colon]).number()?;
        Ok(RunnerStderr { runner, inode: part(&self.text[colon + 1..]).inode()? })
    }

    fn hexadecimal(&self) -> Result<u64, SessionError> {
        std::str::from_utf8(self.text)
            .ok()
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .filter(|number| format!("{number:x}").as_bytes() == self.text)
            .ok_or_else(|| self.wrong("a hexadecimal number in range"))
    }
}

fn inode_word(inode: Inode) -> String {
    format!("{:x}:{}", inode.dev, inode.ino)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
