//! What an image leaves to the next one, and the variable that says so.

use std::os::fd::RawFd;

use stash::{ExecToken, ProcessId};

use super::INHERITANCE;

/// What the previous image left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// The process in the arena, if it is the same.
    pub process: Option<ProcessId>,
    /// The process that made this one by vfork, and this one's pid.
    pub child_of: Option<(ProcessId, u32)>,
    /// A descriptor of the arena, for a process that has no right any more to open it.
    pub arena: Option<RawFd>,
    /// The previous image has served files, so that FDs of them may be here.
    pub serving: bool,
    /// It has used record locks of plugins, which exec keeps.
    pub locking: bool,
    /// Names the list of kept descriptors in the arena.
    pub token: Option<ExecToken>,
    /// RLIMIT_NOFILE as the program saw it.
    pub nofile: (u64, u64),
    /// Absolute path of the working directory, if that is on a mount.
    pub cwd: Vec<u8>,
    /// Absolute path of the program, if that is on a mount, or a guest.
    pub executable: Vec<u8>,
    /// Path of the program that this image is to become, if the image is a host.
    pub guest: Vec<u8>,
    /// Base name by which the program was called, where the kernel shows another one in `comm`; else empty.
    pub name: Vec<u8>,
}

impl Inheritance {
    /// Who made the calling process, which has this `pid`, if that is what was left here.
    pub fn made_by(&self, pid: u32) -> Option<ProcessId> {
        self.child_of.filter(|&(_, of)| of == pid).map(|(parent, _)| parent)
    }

    /// The variable, with its NUL.
    pub(super) fn to_variable(&self) -> Vec<u8> {
        let process = self.process.map_or(0, ProcessId::to_bits);
        let (parent, pid) = self.child_of.map_or((0, 0), |(parent, pid)| (parent.to_bits(), pid));
        let token = self.token.map_or_else(|| "-".into(), |token| token.to_string());
        let (soft, hard) = self.nofile;
        let state = u8::from(self.serving) | u8::from(self.locking) << 1;
        let (cwd, executable, guest) = (self.cwd.len(), self.executable.len(), self.guest.len());
        let arena = self.arena.map_or(0, |fd| fd + 1);
        let numbers = format!(
            "{process} {parent} {pid} {arena} {state} {token} {soft} {hard} {cwd} {executable} {guest} "
        );
        let paths = [&self.cwd, &self.executable, &self.guest, &self.name];
        [INHERITANCE, numbers.as_bytes(), &paths.map(Vec::as_slice).concat(), b"\0"].concat()
    }

    /// Of the variable's value.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut words =
            text.splitn(12, |&byte| byte == b' ').map(|word| (word, std::str::from_utf8(word).ok()));
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let process = number()?;
        let (parent, pid) = (number()? as u32, number()? as u32);
        let arena = i32::try_from(number()?).ok()?;
        let state = number()?;
        let token = words.next()?.1?;
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let nofile = (number()?, number()?);
        let lengths = [number()? as usize, number()? as usize, number()? as usize];
        let (cwd, rest) = words.next()?.0.split_at_checked(lengths[0])?;
        let (executable, rest) = rest.split_at_checked(lengths[1])?;
        let (guest, name) = rest.split_at_checked(lengths[2])?;
        Some(Self {
            process: (process != 0).then(|| ProcessId::from_bits(process as u32)),
            child_of: (parent != 0).then(|| (ProcessId::from_bits(parent), pid)),
            arena: (arena > 0).then(|| arena - 1),
            serving: state & 1 != 0,
            locking: state & 2 != 0,
            token: if token == "-" { None } else { Some(token.parse().ok()?) },
            nofile,
            cwd: cwd.to_vec(),
            executable: executable.to_vec(),
            guest: guest.to_vec(),
            name: name.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
