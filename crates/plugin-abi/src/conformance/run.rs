//! Does a step in the plugin and in the model, and compares.

use super::Failed;
use super::generate::SLOTS;
use super::model::{Kind, Model, NodeId, Wrong, read, write};
use super::step::{Access, Step};
use crate::errno::{Errno, Result};
use crate::filesystem::{Capabilities, Open, SetAttr, SetTime};
use crate::instance::{Handle, Instance, Saved};
use crate::path::MountPath;
use libc::stat;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt::Debug;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, IntoRawFd};

/// What the model says and what the plugin did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) expected: String,
    pub(super) got: String,
    pub(super) afterwards: Option<String>,
}

type Checked<T = ()> = std::result::Result<T, Difference>;

struct OpenFile {
    handle: Handle,
    node: NodeId,
    access: Access,
}

/// One sequence, in a directory of its own.
pub(super) struct Session<'a> {
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
    pub(super) fn start(fs: &'a Instance, number: u64) -> std::result::Result<Self, Failed> {
        // The process's own umask counts for a plugin that leaves modes to the kernel.
        let umask = if fs.capabilities().contains(Capabilities::UMASK) { umask() } else { 0 };
        let base = format!("/defuse-check-{number}");
        let session = Self {
            fs,
            base,
            model: Model::new(umask),
            slots: Default::default(),
            inodes: BTreeMap::new(),
            supported: BTreeSet::new(),
            unsupported: BTreeSet::new(),
        };
        session
            .empty("")
            .map_err(|errno| Failed::CannotStart { attempt: "emptying an old directory", errno })?;
        fs.mkdir(MountPath::from_normalised(&session.path("")), 0o755)
            .map_err(|errno| Failed::CannotStart { attempt: "mkdir of a directory to work in", errno })?;
        Ok(session)
    }

    /// Closes and removes everything; returns what was found unsupported.
    pub(super) fn finish(mut self) -> std::result::Result<BTreeSet<&'static str>, Failed> {
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

    /// Every entry, asked for a few at a time. Ends when a directory does not.
    fn list(&self, path: &MountPath, at_once: usize, each: &mut dyn FnMut(&(String, u8))) -> Result<()> {
        const MOST: usize = 10_000;
        let dir = match self.fs.open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0)? {
            Open::Served { handle, .. } => handle,
            Open::Native { .. } => return Err(Errno::ENOSYS),
        };
        let (mut cookie, mut seen) = (0, 0);
        let answer = loop {
            let mut batch = Vec::new();
            let answer = self.fs.readdir(&dir, cookie, &mut |entry| {
                batch.push((String::from_utf8_lossy(entry.name).into_owned(), entry.d_type));
                cookie = entry.next_cookie;
                batch.len() == at_once
            });
            batch.iter().for_each(&mut *each);
            seen += batch.len();
            if answer.is_err() || batch.is_empty() || at_once == usize::MAX {
                break answer;
            }
            if seen > MOST {
                break Err(Errno::EOVERFLOW);
            }
        };
        self.fs.close(dir).and(answer)
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
    pub(super) fn step(&mut self, step: &Step) -> Checked {
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

    /// An operation on one path; whether it was done.
    fn named(
        &mut self,
        kind: &'static str,
        path: &str,
        call: impl FnOnce(&Instance, &MountPath) -> Result<()>,
        expected: std::result::Result<(), Wrong>,
    ) -> Checked<bool> {
        if self.is_out_of_scope(path) {
            return Ok(false);
        }
        let name = self.path(path);
        let got = call(self.fs, MountPath::from_normalised(&name));
        self.verdict(kind, got, expected).map(|done| done.is_some())
    }

    fn open(
        &mut self,
        slot: usize,
        path: &str,
        access: Access,
        create: bool,
        exclusive: bool,
        truncate: bool,
    ) -> Checked {
        // Without O_CREAT, O_EXCL means nothing; O_RDONLY with O_TRUNC means whatever it means.
        let exclusive = exclusive && create;
        let truncate = truncate && access != Access::Read;
        if self.is_out_of_scope(path) {
            return Ok(());
        }
        if let Some(old) = self.slots[slot].take() {
            let got = self.fs.close(old.handle);
            self.verdict("close", got, Ok(()))?;
        }
        let expected = self.model.open(path, access, create, exclusive, truncate);
        let mut flags = match access {
            Access::Read => libc::O_RDONLY,
            Access::Write => libc::O_WRONLY,
            Access::Both => libc::O_RDWR,
        };
        flags |= if create { libc::O_CREAT } else { 0 };
        flags |= if exclusive { libc::O_EXCL } else { 0 };
        flags |= if truncate { libc::O_TRUNC } else { 0 };
        let name = self.path(path);
        let got = self.fs.open(MountPath::from_normalised(&name), flags, 0o644);
        let found = expected.as_ref().ok().copied().flatten();
        let kind = if create { "open with O_CREAT" } else { "open" };
        let Some(opened) = self.verdict(kind, got, expected.map(drop))? else { return Ok(()) };
        let node = match found {
            None => self.model.add(path, Kind::File(Vec::new()), 0o644),
            Some(node) => node,
        };
        if let (Kind::File(data), true) = (&mut self.model.nodes[node].kind, truncate) {
            data.clear();
            self.model.nodes[node].mtime = None;
        }
        match opened {
            Open::Served { handle, mode_type, .. } => {
                let is_directory = self.model.nodes[node].kind == Kind::Directory;
                let right = if is_directory { libc::S_IFDIR } else { libc::S_IFREG };
                self.slots[slot] = Some(OpenFile { handle, node, access });
                if mode_type != 0 && mode_type != right {
                    return differ(format!("file type {right:#o}"), format!("file type {mode_type:#o}"));
                }
            }
            // The kernel serves it; there is nothing of the plugin's to check.
            Open::Native { .. } => {
                self.unsupported.insert("handles (native descriptors are given)");
            }
        }
        Ok(())
    }

    fn read(&mut self, slot: usize, offset: u64, lens: &[usize]) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Write) else { return Ok(()) };
        let total: usize = lens.iter().sum();
        let right = read(data, offset, total).to_vec();
        let mut got = vec![0xee; total];
        let answer = if let [_] = lens {
            self.fs.read(handle, &mut got, offset)
        } else {
            let (mut pieces, mut rest) = (Vec::new(), got.as_mut_slice());
            for len in lens {
                let (piece, tail) = rest.split_at_mut(*len);
                pieces.push(IoSliceMut::new(piece));
                rest = tail;
            }
            self.fs.readv(handle, &mut pieces, offset)
        };
        let Some(count) = self.verdict("read", answer, Ok(()))? else { return Ok(()) };
        same_bytes(&right, &got[..count])
    }

    fn write(&mut self, slot: usize, offset: u64, lens: &[usize], fill: u8, append: bool) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Read) else { return Ok(()) };
        let at = if append { data.len() as u64 } else { offset };
        let bytes = pattern(lens.iter().sum(), fill);
        let answer = if let [_] = lens {
            self.fs.write(handle, &bytes, offset, append)
        } else {
            let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
            for len in lens {
                let (piece, tail) = rest.split_at(*len);
                pieces.push(IoSlice::new(piece));
                rest = tail;
            }
            self.fs.writev(handle, &pieces, offset, append)
        };
        let kind = if append { "append" } else { "write" };
        let Some(written) = self.verdict(kind, answer, Ok(()))? else { return Ok(()) };
        same("bytes written", &bytes.len(), &written.count)?;
        if !bytes.is_empty() {
            same("end", &(at + bytes.len() as u64), &written.end)?;
            self.changed(slot);
        }
        if let Some(data) = self.file(slot) {
            write(data, at, &bytes);
        }
        Ok(())
    }

    fn stat(&mut self, path: &str) -> Checked {
        if self.is_out_of_scope(path) {
            return Ok(());
        }
        let name = self.path(path);
        let got = self.fs.getattr(MountPath::from_normalised(&name));
        let found = self.model.find(path);
        let expected = found.map(drop).map_err(|errno| vec![errno]);
        let Some(st) = self.verdict("getattr", got, expected)? else { return Ok(()) };
        found.map_or(Ok(()), |id| self.compare_stat(id, &st))
    }

    fn stat_open(&mut self, slot: usize) -> Checked {
        let Some(file) = &self.slots[slot] else { return Ok(()) };
        let (got, node) = (self.fs.fgetattr(&file.handle), file.node);
        // What no name leads to, a plugin without fgetattr cannot find.
        match self.verdict("fgetattr", got, Ok(()))? {
            Some(st) => self.compare_stat(node, &st),
            None => Ok(()),
        }
    }

    fn compare_stat(&mut self, id: NodeId, st: &stat) -> Checked {
        let node = &self.model.nodes[id];
        let (kind, size) = match &node.kind {
            Kind::File(data) => (libc::S_IFREG, Some(data.len() as i64)),
            Kind::Directory => (libc::S_IFDIR, None),
            Kind::Symlink(target) => (libc::S_IFLNK, Some(target.len() as i64)),
        };
        same("file type", &kind, &(st.st_mode & libc::S_IFMT))?;
        if kind != libc::S_IFLNK {
            same("permission bits", &(node.mode & 0o777), &(st.st_mode & 0o777))?;
        }
        if let Some(size) = size {
            same("size", &size, &st.st_size)?;
        }
        if kind != libc::S_IFDIR {
            same("link count", &self.model.links(id), &st.st_nlink)?;
        }
        if let Some(mtime) = node.mtime {
            same("mtime", &mtime, &st.st_mtime)?;
        }
        let known = *self.inodes.entry(id).or_insert(st.st_ino);
        same("inode number", &known, &st.st_ino)?;
        let living = |other: &NodeId| self.model.names.values().any(|named| named == other);
        let twin = self.inodes.iter().any(|(other, ino)| *other != id && living(other) && *ino == st.st_ino);
        if twin && st.st_ino != 0 && living(&id) {
            return differ("an inode number of its own", format!("{}, which another file has", st.st_ino));
        }
        Ok(())
    }

    fn truncate(&mut self, path: &str, size: u64) -> Checked {
        let expected = match self.model.find(path) {
            Err(errno) => Err(vec![errno]),
            Ok(id) => match self.model.nodes[id].kind {
                Kind::File(_) => Ok(()),
                Kind::Directory => Err(vec![Errno::EISDIR, Errno::EINVAL]),
                Kind::Symlink(_) if self.fs.capabilities().contains(Capabilities::FOLLOWS_SYMLINKS) => {
                    return Ok(());
                }
                Kind::Symlink(_) => Err(vec![Errno::ELOOP, Errno::EINVAL]),
            },
        };
        let attr = SetAttr { size: Some(size), ..SetAttr::default() };
        if self.named("truncate", path, |fs, name| fs.setattr(name, &attr), expected)? {
            let node = self.model.names.get(path).map(|&id| &mut self.model.nodes[id]);
            if let Some((Kind::File(data), mtime)) = node.map(|node| (&mut node.kind, &mut node.mtime)) {
                data.resize(size as usize, 0);
                *mtime = None;
            }
        }
        Ok(())
    }

    fn truncate_open(&mut self, slot: usize, size: u64) -> Checked {
        let Some((handle, _)) = self.usable(slot, Access::Read) else { return Ok(()) };
        let got = self.fs.fsetattr(handle, &SetAttr { size: Some(size), ..SetAttr::default() });
        if self.verdict("ftruncate", got, Ok(()))?.is_some() {
            self.changed(slot);
            if let Some(data) = self.file(slot) {
                data.resize(size as usize, 0);
            }
        }
        Ok(())
    }

    fn set(
        &mut self,
        path: &str,
        kind: &'static str,
        attr: &SetAttr,
        apply: impl FnOnce(&mut super::model::Node),
    ) -> Checked {
        let expected = match self.model.find(path) {
            Err(errno) => Err(vec![errno]),
            // Links have attributes of their own, or not; both is common.
            Ok(id) if matches!(self.model.nodes[id].kind, Kind::Symlink(_)) => return Ok(()),
            // Without the owner's x a directory cannot be entered, and later steps would fail for that.
            Ok(id)
                if self.model.nodes[id].kind == Kind::Directory
                    && attr.mode.is_some_and(|mode| mode & 0o100 == 0) =>
            {
                return Ok(());
            }
            Ok(_) => Ok(()),
        };
        if self.named(kind, path, |fs, name| fs.setattr(name, attr), expected)? {
            if let Some(&id) = self.model.names.get(path) {
                apply(&mut self.model.nodes[id]);
            }
        }
        Ok(())
    }

    fn rename(&mut self, old: &str, new: &str, flags: u32) -> Checked {
        if self.is_out_of_scope(old) || self.is_out_of_scope(new) {
            return Ok(());
        }
        let kind = match flags {
            0 => "rename",
            libc::RENAME_NOREPLACE => "rename with RENAME_NOREPLACE",
            _ => "rename with RENAME_EXCHANGE",
        };
        let expected = self.model.may_rename(old, new, flags);
        let (from, to) = (self.path(old), self.path(new));
        let mut got =
            self.fs.rename(MountPath::from_normalised(&from), MountPath::from_normalised(&to), flags);
        // EINVAL is how flags are refused that are not known.
        if flags != 0 && got == Err(Errno::EINVAL) && expected.is_ok() {
            got = Err(Errno::EOPNOTSUPP);
        }
        if flags != 0 && got == Err(Errno::EINVAL) {
            return Ok(());
        }
        if self.verdict(kind, got, expected)?.is_some() {
            self.model.rename(old, new, flags);
        }
        Ok(())
    }

    fn link(&mut self, old: &str, new: &str) -> Checked {
        if self.is_out_of_scope(old) || self.is_out_of_scope(new) {
            return Ok(());
        }
        let expected = self.model.may_link(old, new);
        let (from, to) = (self.path(old), self.path(new));
        let got = self.fs.link(MountPath::from_normalised(&from), MountPath::from_normalised(&to));
        let id = expected.as_ref().ok().copied();
        if let (Some(()), Some(id)) = (self.verdict("link", got, expected.map(drop))?, id) {
            self.model.names.insert(new.into(), id);
            self.model.touch_parent(new);
        }
        Ok(())
    }

    fn readlink(&mut self, path: &str, size: usize) -> Checked {
        if self.is_out_of_scope(path) {
            return Ok(());
        }
        let found = self.model.find(path).map(|id| self.model.nodes[id].kind.clone());
        let expected = match &found {
            Err(errno) => Err(vec![*errno]),
            Ok(Kind::Symlink(_)) => Ok(()),
            Ok(_) => Err(vec![Errno::EINVAL]),
        };
        let (name, mut buf) = (self.path(path), vec![0; size]);
        let got = self.fs.readlink(MountPath::from_normalised(&name), &mut buf);
        if let (Some(len), Ok(Kind::Symlink(target))) = (self.verdict("readlink", got, expected)?, &found) {
            return same_bytes(&target.as_bytes()[..target.len().min(size)], &buf[..len]);
        }
        Ok(())
    }

    fn check_list(&mut self, path: &str, at_once: usize) -> Checked {
        if self.is_out_of_scope(path) {
            return Ok(());
        }
        let expected = match self.model.find(path) {
            Err(errno) => Err(vec![errno]),
            Ok(id) => match self.model.nodes[id].kind {
                Kind::Directory => Ok(()),
                Kind::File(_) => Err(vec![Errno::ENOTDIR]),
                Kind::Symlink(_) => Err(vec![Errno::ELOOP, Errno::ENOTDIR]),
            },
        };
        let name = self.path(path);
        let mut seen = Vec::new();
        let got =
            self.list(MountPath::from_normalised(&name), at_once, &mut |entry| seen.push(entry.clone()));
        if self.verdict("readdir", got, expected)?.is_none() {
            return Ok(());
        }
        let directory = (String::new(), libc::DT_DIR);
        let mut right: Vec<_> = [".", ".."].map(|name| (name.to_owned(), directory.1)).to_vec();
        right.extend(self.model.children(path).map(|(name, id)| {
            let d_type = match self.model.nodes[id].kind {
                Kind::File(_) => libc::DT_REG,
                Kind::Directory => libc::DT_DIR,
                Kind::Symlink(_) => libc::DT_LNK,
            };
            (name.to_owned(), d_type)
        }));
        right.sort();
        seen.sort();
        for (right, seen) in right.iter_mut().zip(&seen) {
            if seen.1 == libc::DT_UNKNOWN {
                right.1 = libc::DT_UNKNOWN;
            }
        }
        same("entries (name, d_type)", &right, &seen)
    }

    /// Plain files and directories have user attributes.
    fn xattr_node(&self, path: &str) -> Option<std::result::Result<NodeId, Wrong>> {
        if self.is_out_of_scope(path) {
            return None;
        }
        match self.model.find(path) {
            Ok(id) if matches!(self.model.nodes[id].kind, Kind::Symlink(_)) => None,
            Ok(id) => Some(Ok(id)),
            Err(errno) => Some(Err(vec![errno])),
        }
    }

    fn set_xattr(&mut self, path: &str, name: &'static str, len: usize, flags: i32) -> Checked {
        let Some(node) = self.xattr_node(path) else { return Ok(()) };
        let expected = node.clone().and_then(|id| match self.model.nodes[id].xattrs.contains_key(name) {
            true if flags & libc::XATTR_CREATE != 0 => Err(vec![Errno::EEXIST]),
            false if flags & libc::XATTR_REPLACE != 0 => Err(vec![Errno::ENODATA]),
            _ => Ok(()),
        });
        let (value, key) = (pattern(len, name.len() as u8), CString::new(name).unwrap_or_default());
        let done = self.named("xattr", path, |fs, path| fs.setxattr(path, &key, &value, flags), expected)?;
        if let (true, Ok(id)) = (done, node) {
            self.model.nodes[id].xattrs.insert(name, value);
        }
        Ok(())
    }

    fn get_xattr(&mut self, path: &str, name: &'static str, size: usize) -> Checked {
        let Some(node) = self.xattr_node(path) else { return Ok(()) };
        let value = node.clone().map(|id| self.model.nodes[id].xattrs.get(name).cloned());
        let expected = match &value {
            Err(wrong) => Err(wrong.clone()),
            Ok(None) => Err(vec![Errno::ENODATA]),
            Ok(Some(value)) if size != 0 && size < value.len() => Err(vec![Errno::ERANGE]),
            Ok(Some(_)) => Ok(()),
        };
        let (full, key, mut buf) = (self.path(path), CString::new(name).unwrap_or_default(), vec![0; size]);
        let got = self.fs.getxattr(MountPath::from_normalised(&full), &key, &mut buf);
        match (self.verdict("xattr", got, expected)?, value) {
            (Some(len), Ok(Some(value))) if size == 0 => same("length", &value.len(), &len),
            (Some(len), Ok(Some(value))) => same_bytes(&value, &buf[..len]),
            _ => Ok(()),
        }
    }

    fn list_xattr(&mut self, path: &str) -> Checked {
        let Some(node) = self.xattr_node(path) else { return Ok(()) };
        let (full, mut buf) = (self.path(path), vec![0; 65536]);
        let got = self.fs.listxattr(MountPath::from_normalised(&full), &mut buf);
        let expected = node.clone().map(drop);
        if let (Some(len), Ok(id)) = (self.verdict("xattr", got, expected)?, node) {
            let names = String::from_utf8_lossy(&buf[..len]).into_owned();
            let seen: BTreeSet<_> = names.split('\0').filter(|name| name.starts_with("user.")).collect();
            return same("attributes", &self.model.nodes[id].xattrs.keys().copied().collect(), &seen);
        }
        Ok(())
    }

    fn remove_xattr(&mut self, path: &str, name: &'static str) -> Checked {
        let Some(node) = self.xattr_node(path) else { return Ok(()) };
        let there = |id: NodeId| self.model.nodes[id].xattrs.contains_key(name);
        let expected = node.clone().and_then(|id| if there(id) { Ok(()) } else { Err(vec![Errno::ENODATA]) });
        let key = CString::new(name).unwrap_or_default();
        let done = self.named("xattr", path, |fs, path| fs.removexattr(path, &key), expected)?;
        if let (true, Ok(id)) = (done, node) {
            self.model.nodes[id].xattrs.remove(name);
        }
        Ok(())
    }

    fn allocate(&mut self, slot: usize, mode: i32, offset: u64, len: u64) -> Checked {
        let Some((handle, _)) = self.usable(slot, Access::Read) else { return Ok(()) };
        let got = self.fs.fallocate(handle, mode, offset, len);
        let kind = match mode {
            0 => "fallocate",
            libc::FALLOC_FL_KEEP_SIZE => "fallocate with FALLOC_FL_KEEP_SIZE",
            libc::FALLOC_FL_ZERO_RANGE => "fallocate with FALLOC_FL_ZERO_RANGE",
            _ => "fallocate with FALLOC_FL_PUNCH_HOLE",
        };
        if self.verdict(kind, got, Ok(()))?.is_none() {
            return Ok(());
        }
        self.changed(slot);
        if let Some(data) = self.file(slot) {
            let end = (offset + len) as usize;
            if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && data.len() < end {
                data.resize(end, 0);
            }
            if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
                let range = data.len().min(offset as usize)..data.len().min(end);
                data[range].fill(0);
            }
        }
        Ok(())
    }

    /// A hole must read as zeros; more than that no file system owes.
    fn seek(&mut self, slot: usize, offset: u64, hole: bool) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Write) else { return Ok(()) };
        let data = data.clone();
        let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
        let got = self.fs.lseek(handle, offset, whence);
        let size = data.len() as u64;
        let zero_from = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|&byte| byte == 0);
        let expected = match got {
            _ if offset >= size => Err(vec![Errno::ENXIO]),
            Err(Errno::ENXIO) if !hole && zero_from(offset, size) => return Ok(()),
            _ => Ok(()),
        };
        let Some(found) = self.verdict("lseek", got, expected)? else { return Ok(()) };
        if found > size {
            return differ(format!("at most the size, {size}"), found.to_string());
        }
        if !hole && !zero_from(offset, found) {
            return differ("the first data", format!("{found}, but there is data before"));
        }
        Ok(())
    }

    fn copy(&mut self, from: usize, from_at: u64, to: usize, to_at: u64, len: usize) -> Checked {
        let (Some((source, data)), Some((target, _))) =
            (self.usable(from, Access::Write), self.usable(to, Access::Read))
        else {
            return Ok(());
        };
        let node = |slot: usize| self.slots[slot].as_ref().map(|file| file.node);
        if node(from) == node(to) && from_at.abs_diff(to_at) < len as u64 {
            return Ok(());
        }
        let bytes = read(data, from_at, len).to_vec();
        let mut got = self.fs.copy_range(source, from_at, target, to_at, len);
        // What cannot be copied so, the host copies by reading and writing.
        if matches!(got, Err(Errno::EXDEV | Errno::EINVAL)) {
            got = Err(Errno::EOPNOTSUPP);
        }
        let Some(count) = self.verdict("copy_range", got, Ok(()))? else { return Ok(()) };
        if count > bytes.len() || (count == 0 && !bytes.is_empty()) {
            return differ(format!("1 to {} bytes copied", bytes.len()), format!("{count} bytes copied"));
        }
        if count > 0 {
            self.changed(to);
        }
        if let Some(data) = self.file(to) {
            write(data, to_at, &bytes[..count]);
        }
        Ok(())
    }

    fn save_restore(&mut self, slot: usize) -> Checked {
        let Some(file) = &self.slots[slot] else { return Ok(()) };
        let (mut blob, mut keep, mut saved) = (vec![0; 8192], [-1; 8], Saved::default());
        let got = self.fs.save(&file.handle, &mut blob, &mut keep, &mut saved);
        if self.verdict("save", got, Ok(()))?.is_none() {
            return Ok(());
        }
        // In this process the old handle lives on, so the new one gets descriptors of its own.
        let mut fds = Vec::new();
        for &fd in &keep[..saved.kept] {
            // SAFETY: only duplicates the number; a closed one is answered with an error.
            match rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(fd) }, 0) {
                Ok(copy) => fds.push(copy.into_raw_fd()),
                Err(_) => {
                    return differ("open descriptors to keep", format!("descriptor {fd}, which is closed"));
                }
            }
        }
        let got = self.fs.restore(&blob[..saved.len], &fds);
        let Some(opened) = self.verdict("restore", got, Ok(()))? else { return Ok(()) };
        let Open::Served { handle, .. } = opened else { return differ("a handle", "a native descriptor") };
        let Some(file) = &mut self.slots[slot] else { return Ok(()) };
        let old = std::mem::replace(&mut file.handle, handle);
        if fds.is_empty() {
            // It may be the same file under the same number, which the next image would not see closed.
            let _left_open = old.into_raw();
            return Ok(());
        }
        let got = self.fs.close(old);
        self.verdict("close", got, Ok(())).map(drop)
    }

    /// After the last step: every name, attribute and byte.
    pub(super) fn compare_everything(&mut self) -> Checked {
        let explain =
            |what: String| move |difference: Difference| Difference { afterwards: Some(what), ..difference };
        let names: Vec<_> = self.model.names.iter().map(|(name, &id)| (name.clone(), id)).collect();
        for (path, id) in names {
            let shown = if path.is_empty() { "the directory itself" } else { &path };
            if !path.is_empty() {
                self.stat(&path).map_err(explain(format!("getattr({shown})")))?;
            }
            match self.model.nodes[id].kind.clone() {
                Kind::Directory => {
                    self.check_list(&path, usize::MAX).map_err(explain(format!("readdir({shown})")))?
                }
                Kind::Symlink(_) => {
                    self.readlink(&path, 4096).map_err(explain(format!("readlink({shown})")))?
                }
                Kind::File(data) => {
                    self.compare_file(&path, &data).map_err(explain(format!("reading {shown}")))?
                }
            }
        }
        for slot in 0..SLOTS {
            let len = self.file(slot).map_or(0, |data| data.len() + 1);
            self.read(slot, 0, &[len]).map_err(explain(format!("read(h{slot}, everything)")))?;
            self.stat_open(slot).map_err(explain(format!("fgetattr(h{slot})")))?;
        }
        Ok(())
    }

    fn compare_file(&mut self, path: &str, data: &[u8]) -> Checked {
        let name = self.path(path);
        let got = self.fs.open(MountPath::from_normalised(&name), libc::O_RDONLY, 0);
        let Some(Open::Served { handle, .. }) = self.verdict("open", got, Ok(()))? else { return Ok(()) };
        let mut buf = vec![0; data.len() + 1];
        let got = self.fs.read(&handle, &mut buf, 0);
        let closed = self.fs.close(handle);
        let Some(count) = self.verdict("read", got, Ok(()))? else { return Ok(()) };
        same_bytes(data, &buf[..count])?;
        self.verdict("close", closed, Ok(())).map(drop)
    }
}

/// The process's umask, without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0)
}
