//! Does a step in the plugin and in the model, and compares.

mod compare;
mod data;
mod names;
mod xattr;

use super::Failed;
use super::generate::SLOTS;
use super::model::{Kind, Model, NodeId, Wrong};
use super::step::{Access, Step};
use crate::errno::{Errno, Result};
use crate::instance::{Handle, Instance};
use crate::path::MountPath;
use crate::types::{Capabilities, SetAttr, SetTime};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt::Debug;

/// What the model says and what the plugin did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::conformance) struct Difference {
    pub(in crate::conformance) expected: String,
    pub(in crate::conformance) got: String,
    pub(in crate::conformance) afterwards: Option<String>,
}

type Checked<T = ()> = std::result::Result<T, Difference>;

struct OpenFile {
    handle: Handle,
    node: NodeId,
    access: Access,
}

/// One sequence, in a directory of its own.
pub(in crate::conformance) struct Session<'a> {
    fs: &'a Instance,
    base: String,
    model: Model,
    slots: [Option<OpenFile>; SLOTS],
    inodes: BTreeMap<NodeId, u64>,
    supported: BTreeSet<&'static str>,
    unsupported: BTreeSet<&'static str>,
}

fn differ<T>(expected: impl Into<String>, got: impl Into<String>) -> Checked<T> {
    Err(Difference { expected: expected.into(), got: got.into(), afterwards: None })
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, got: &T) -> Checked {
    if expected == got { Ok(()) } else { differ(format!("{what} {expected:?}"), format!("{what} {got:?}")) }
}

fn same_bytes(expected: &[u8], got: &[u8]) -> Checked {
    if expected == got {
        return Ok(());
    }
    let first = expected.iter().zip(got).position(|(a, b)| a != b).unwrap_or(expected.len().min(got.len()));
    let show = |bytes: &[u8]| match bytes.get(first) {
        Some(byte) => format!("{} bytes, with {byte:#04x} at index {first}", bytes.len()),
        None => format!("{} bytes", bytes.len()),
    };
    differ(show(expected), show(got))
}

/// The bytes a write step writes: never zero, and different at every place.
fn pattern(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|at| ((at + at / 255 + usize::from(fill)) % 255) as u8 + 1).collect()
}

impl<'a> Session<'a> {
    /// `None`: the directory of this number is there, left by a run that could not clean up.
    pub(in crate::conformance) fn start(
        fs: &'a Instance,
        number: u64,
    ) -> std::result::Result<Option<Self>, Failed> {
        // The process's own umask counts for a plugin that leaves modes to the kernel.
        let umask = if fs.capabilities().contains(Capabilities::UMASK) { umask() } else { 0 };
        let session = Self {
            fs,
            base: format!("/defuse-check-{number}"),
            model: Model::new(umask),
            slots: Default::default(),
            inodes: BTreeMap::new(),
            supported: BTreeSet::new(),
            unsupported: BTreeSet::new(),
        };
        match fs.mkdir(MountPath::from_normalised(&session.path("")), 0o755) {
            Ok(()) => Ok(Some(session)),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(Failed::CannotStart { attempt: "mkdir of a directory to work in", errno }),
        }
    }

    /// Closes and removes everything; returns what was found unsupported.
    pub(in crate::conformance) fn finish(mut self) -> std::result::Result<BTreeSet<&'static str>, Failed> {
        for slot in 0..SLOTS {
            if let Some(file) = self.slots[slot].take() {
                let _ = self.fs.close(file.handle);
            }
        }
        self.empty("")
            .map_err(|errno| Failed::CannotStart { attempt: "removing the directory of a run", errno })?;
        Ok(self.unsupported)
    }

    fn path(&self, path: &str) -> CString {
        CString::new(format!("{}{path}", self.base)).unwrap_or_default()
    }

    /// Removes a directory and all below it, if it exists.
    fn empty(&self, path: &str) -> Result<()> {
        let name = self.path(path);
        let name = MountPath::from_normalised(&name);
        match self.fs.getattr(name) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
            Ok(st) if st.st_mode & libc::S_IFMT != libc::S_IFDIR => return self.fs.unlink(name),
            Ok(_) => {}
        }
        let mut names = Vec::new();
        self.list(name, usize::MAX, &mut |entry| names.push(entry.0.clone()))?;
        for child in names.iter().filter(|name| !matches!(name.as_str(), "." | "..")) {
            self.empty(&format!("{path}/{child}"))?;
        }
        self.fs.rmdir(name)
    }

    /// Compares an answer with what may be. `None`: both failed, or the plugin does not support it.
    fn verdict<T>(
        &mut self,
        kind: &'static str,
        got: Result<T>,
        expected: std::result::Result<(), Wrong>,
    ) -> Checked<Option<T>> {
        let names = |wrong: &Wrong| wrong.iter().map(Errno::to_string).collect::<Vec<_>>().join(" or ");
        match (got, expected) {
            (Ok(value), Ok(())) => {
                self.supported.insert(kind);
                Ok(Some(value))
            }
            (Err(errno), Err(wrong)) if wrong.contains(&errno) => Ok(None),
            (Err(errno @ (Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EROFS)), expected) => {
                self.unsupported.insert(kind);
                match expected {
                    Ok(()) if self.supported.contains(kind) => {
                        differ("success, as before", format!("{errno}"))
                    }
                    _ => Ok(None),
                }
            }
            (Err(errno), Ok(())) => differ("success", errno.to_string()),
            (Err(errno), Err(wrong)) => differ(names(&wrong), errno.to_string()),
            (Ok(_), Err(wrong)) => differ(names(&wrong), "success"),
        }
    }

    /// A plugin that follows links itself may do anything with a path through one.
    fn is_out_of_scope(&self, path: &str) -> bool {
        self.fs.capabilities().contains(Capabilities::FOLLOWS_SYMLINKS) && self.model.passes_symlink(path)
    }

    fn file(&mut self, slot: usize) -> Option<&mut Vec<u8>> {
        let node = self.slots[slot].as_ref()?.node;
        match &mut self.model.nodes[node].kind {
            Kind::File(data) => Some(data),
            _ => None,
        }
    }

    /// The open plain file of a slot, if it may be used so.
    fn usable(&self, slot: usize, unusable: Access) -> Option<(&Handle, &Vec<u8>)> {
        let file = self.slots[slot].as_ref().filter(|file| file.access != unusable)?;
        match &self.model.nodes[file.node].kind {
            Kind::File(data) => Some((&file.handle, data)),
            _ => None,
        }
    }

    fn changed(&mut self, slot: usize) {
        if let Some(file) = &self.slots[slot] {
            self.model.nodes[file.node].mtime = None;
        }
    }

    /// Does one step.
    pub(in crate::conformance) fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Open { slot, path, access, create, exclusive, truncate } => {
                self.open(*slot, path, *access, *create, *exclusive, *truncate)
            }
            Step::Close { slot } => match self.slots[*slot].take() {
                None => Ok(()),
                Some(file) => {
                    let got = self.fs.flush(&file.handle).and(self.fs.close(file.handle));
                    self.verdict("close", got, Ok(())).map(drop)
                }
            },
            Step::Read { slot, offset, len } => self.read(*slot, *offset, &[*len]),
            Step::ReadVector { slot, offset, lens } => self.read(*slot, *offset, lens),
            Step::Write { slot, offset, len, fill } => self.write(*slot, *offset, &[*len], *fill, false),
            Step::WriteVector { slot, offset, lens, fill } => self.write(*slot, *offset, lens, *fill, false),
            Step::Append { slot, len, fill } => self.write(*slot, 0, &[*len], *fill, true),
            Step::Stat { path } => self.stat(path),
            Step::StatOpen { slot } => self.stat_open(*slot),
            Step::Truncate { path, size } => self.truncate(path, *size),
            Step::TruncateOpen { slot, size } => self.truncate_open(*slot, *size),
            Step::Chmod { path, mode } => {
                let attr = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                self.set(path, "chmod", &attr, |node| node.mode = *mode)
            }
            Step::Utime { path, seconds } => {
                let at = SetTime::At(libc::timespec { tv_sec: *seconds, tv_nsec: 0 });
                let attr = SetAttr { mtime: Some(at), ..SetAttr::default() };
                self.set(path, "utime", &attr, |node| node.mtime = Some(*seconds))
            }
            Step::Mkdir { path, mode } => {
                let expected = self.model.may_add(path);
                let done = self.named("mkdir", path, |fs, name| fs.mkdir(name, *mode), expected)?;
                if done {
                    self.model.add(path, Kind::Directory, *mode);
                }
                Ok(())
            }
            Step::Rmdir { path } => {
                let expected = self.model.may_rmdir(path);
                if self.named("rmdir", path, Instance::rmdir, expected)? {
                    self.model.remove(path);
                }
                Ok(())
            }
            Step::Unlink { path } => {
                let expected = self.model.may_unlink(path);
                if self.named("unlink", path, Instance::unlink, expected)? {
                    self.model.remove(path);
                }
                Ok(())
            }
            Step::Rename { old, new, flags } => self.rename(old, new, *flags),
            Step::Link { old, new } => self.link(old, new),
            Step::Symlink { target, path } => {
                let expected = self.model.may_add(path);
                let text = CString::new(target.as_str()).unwrap_or_default();
                if self.named("symlink", path, |fs, name| fs.symlink(&text, name), expected)? {
                    self.model.add(path, Kind::Symlink(target.clone()), 0o777);
                }
                Ok(())
            }
            Step::Readlink { path, size } => self.readlink(path, *size),
            Step::List { path, at_once } => self.check_list(path, *at_once),
            Step::Access { path, mode } => {
                if self.model.kind_at(path).is_some_and(|kind| matches!(kind, Kind::Symlink(_))) {
                    return Ok(());
                }
                let expected = match self.model.find(path) {
                    Err(errno) => Err(vec![errno]),
                    Ok(id) if mode & 1 != 0 && self.model.nodes[id].mode & 0o111 == 0 => {
                        Err(vec![Errno::EACCES])
                    }
                    Ok(_) => Ok(()),
                };
                self.named("access", path, |fs, name| fs.access(name, *mode, 0), expected).map(drop)
            }
            Step::SetXattr { path, name, len, flags } => self.set_xattr(path, name, *len, *flags),
            Step::GetXattr { path, name, size } => self.get_xattr(path, name, *size),
            Step::ListXattr { path } => self.list_xattr(path),
            Step::RemoveXattr { path, name } => self.remove_xattr(path, name),
            Step::Allocate { slot, mode, offset, len } => self.allocate(*slot, *mode, *offset, *len),
            Step::Seek { slot, offset, hole } => self.seek(*slot, *offset, *hole),
            Step::Copy { from, from_at, to, to_at, len } => self.copy(*from, *from_at, *to, *to_at, *len),
            Step::Sync { slot, datasync } => {
                let Some(file) = &self.slots[*slot] else { return Ok(()) };
                let got = self.fs.fsync(&file.handle, *datasync);
                self.verdict("fsync", got, Ok(())).map(drop)
            }
            Step::SaveRestore { slot } => self.save_restore(*slot),
        }
    }
}

/// The process's umask, without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0)
}
