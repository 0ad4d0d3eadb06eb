//! Steps on names and attributes.

use super::super::model::{Kind, Node, NodeId, Wrong};
use super::super::step::Access;
use super::{Checked, Session, differ, same, same_bytes};
use crate::errno::{Errno, Result};
use crate::instance::Instance;
use crate::path::MountPath;
use crate::types::{Capabilities, Open, SetAttr};
use libc::stat;

impl Session<'_> {
    /// Every entry, asked for a few at a time. Ends when a directory does not.
    pub(super) fn list(
        &self,
        path: &MountPath,
        at_once: usize,
        each: &mut dyn FnMut(&(String, u8)),
    ) -> Result<()> {
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

    /// An operation on one path; whether it was done.
    pub(super) fn named(
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

    pub(super) fn stat(&mut self, path: &str) -> Checked {
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

    pub(super) fn stat_open(&mut self, slot: usize) -> Checked {
        let Some(file) = &self.slots[slot] else { return Ok(()) };
        let (got, node) = (self.fs.fgetattr(&file.handle), file.node);
        // What no name leads to, a plugin without fgetattr cannot find.
        match self.verdict("fgetattr", got, Ok(()))? {
            Some(st) => self.compare_stat(node, &st),
            None => Ok(()),
        }
    }

    pub(super) fn compare_stat(&mut self, id: NodeId, st: &stat) -> Checked {
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

    pub(super) fn truncate(&mut self, path: &str, size: u64) -> Checked {
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

    pub(super) fn truncate_open(&mut self, slot: usize, size: u64) -> Checked {
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

    pub(super) fn set(
        &mut self,
        path: &str,
        kind: &'static str,
        attr: &SetAttr,
        apply: impl FnOnce(&mut Node),
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
        if self.named(kind, path, |fs, name| fs.setattr(name, attr), expected)?
            && let Some(&id) = self.model.names.get(path)
        {
            apply(&mut self.model.nodes[id]);
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, old: &str, new: &str, flags: u32) -> Checked {
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

    pub(super) fn link(&mut self, old: &str, new: &str) -> Checked {
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

    pub(super) fn readlink(&mut self, path: &str, size: usize) -> Checked {
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

    pub(super) fn check_list(&mut self, path: &str, at_once: usize) -> Checked {
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
}
