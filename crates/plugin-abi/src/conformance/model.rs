//! The file system as it should be: plain collections, no concern for speed.

use super::step::Access;
use crate::errno::Errno;
use std::collections::BTreeMap;

pub(super) type NodeId = usize;

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    /// Set explicitly and not changed since.
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<&'static str, Vec<u8>>,
}

/// Every name that exists, as a path; the directory itself is "".
#[derive(Debug)]
pub(super) struct Model {
    pub(super) names: BTreeMap<String, NodeId>,
    pub(super) nodes: Vec<Node>,
    pub(super) umask: u32,
}

/// The errors that may be the answer: when several things are wrong, any may be named.
pub(super) type Wrong = Vec<Errno>;

impl Model {
    pub(super) fn new(umask: u32) -> Self {
        let root = Node { kind: Kind::Directory, mode: 0o755, mtime: None, xattrs: BTreeMap::new() };
        Self { names: BTreeMap::from([(String::new(), 0)]), nodes: vec![root], umask }
    }

    pub(super) fn add(&mut self, path: &str, kind: Kind, mode: u32) -> NodeId {
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode & !self.umask };
        self.nodes.push(Node { kind, mode, mtime: None, xattrs: BTreeMap::new() });
        self.names.insert(path.into(), self.nodes.len() - 1);
        self.touch_parent(path);
        self.nodes.len() - 1
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.names.remove(path);
        self.touch_parent(path);
    }

    pub(super) fn touch_parent(&mut self, path: &str) {
        if let Some(&parent) = self.names.get(parent(path)) {
            self.nodes[parent].mtime = None;
        }
    }

    /// Whether a symbolic link lies before the last component.
    pub(super) fn passes_symlink(&self, path: &str) -> bool {
        ancestors(path).any(|above| matches!(self.kind_at(above), Some(Kind::Symlink(_))))
    }

    pub(super) fn kind_at(&self, path: &str) -> Option<&Kind> {
        self.names.get(path).map(|&id| &self.nodes[id].kind)
    }

    /// The directory a name would be in exists and is one.
    pub(super) fn check_parent(&self, path: &str) -> Result<(), Errno> {
        for above in ancestors(path) {
            match self.kind_at(above) {
                None => return Err(Errno::ENOENT),
                Some(Kind::Symlink(_)) => return Err(Errno::ELOOP),
                Some(Kind::File(_)) => return Err(Errno::ENOTDIR),
                Some(Kind::Directory) => {}
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, path: &str) -> Result<NodeId, Errno> {
        self.check_parent(path)?;
        self.names.get(path).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn links(&self, id: NodeId) -> u64 {
        self.names.values().filter(|&&other| other == id).count() as u64
    }

    pub(super) fn children(&self, path: &str) -> impl Iterator<Item = (&str, NodeId)> {
        let depth = path.matches('/').count() + 1;
        let prefix = format!("{path}/");
        self.names.iter().filter_map(move |(name, &id)| {
            let rest = name.strip_prefix(&prefix)?;
            (name.matches('/').count() == depth).then_some((rest, id))
        })
    }

    fn is_empty(&self, path: &str) -> bool {
        self.children(path).next().is_none()
    }

    pub(super) fn open(
        &self,
        path: &str,
        access: Access,
        create: bool,
        exclusive: bool,
        truncate: bool,
    ) -> Result<Option<NodeId>, Wrong> {
        let writes = access != Access::Read || truncate;
        match self.find(path) {
            Ok(_) if create && exclusive => Err(vec![Errno::EEXIST]),
            Ok(id) => match self.nodes[id].kind {
                Kind::Symlink(_) => Err(vec![Errno::ELOOP]),
                Kind::Directory if writes || create => Err(vec![Errno::EISDIR]),
                Kind::File(_) | Kind::Directory => Ok(Some(id)),
            },
            Err(Errno::ENOENT) if create && self.check_parent(path).is_ok() => Ok(None),
            Err(errno) => Err(vec![errno]),
        }
    }

    pub(super) fn may_add(&self, path: &str) -> Result<(), Wrong> {
        self.check_parent(path).map_err(|errno| vec![errno])?;
        if self.names.contains_key(path) { Err(vec![Errno::EEXIST]) } else { Ok(()) }
    }

    pub(super) fn may_unlink(&self, path: &str) -> Result<(), Wrong> {
        let id = self.find(path).map_err(|errno| vec![errno])?;
        if self.nodes[id].kind == Kind::Directory { Err(vec![Errno::EISDIR, Errno::EPERM]) } else { Ok(()) }
    }

    pub(super) fn may_rmdir(&self, path: &str) -> Result<(), Wrong> {
        let id = self.find(path).map_err(|errno| vec![errno])?;
        if self.nodes[id].kind != Kind::Directory {
            Err(vec![Errno::ENOTDIR])
        } else if !self.is_empty(path) {
            Err(vec![Errno::ENOTEMPTY, Errno::EEXIST])
        } else {
            Ok(())
        }
    }

    pub(super) fn may_link(&self, old: &str, new: &str) -> Result<NodeId, Wrong> {
        let mut wrong = Wrong::new();
        let id = self.find(old).map_err(|errno| wrong.push(errno));
        wrong.extend(self.may_add(new).err().into_iter().flatten());
        if id.is_ok_and(|id| self.nodes[id].kind == Kind::Directory) {
            wrong.push(Errno::EPERM);
        }
        match id {
            Ok(id) if wrong.is_empty() => Ok(id),
            _ => Err(wrong),
        }
    }

    pub(super) fn may_rename(&self, old: &str, new: &str, flags: u32) -> Result<(), Wrong> {
        let mut wrong = Wrong::new();
        let source = self.find(old).map_err(|errno| wrong.push(errno)).ok();
        wrong.extend(self.check_parent(new).err());
        let target = self.find(new).ok();
        let is_directory = |id: Option<NodeId>| id.is_some_and(|id| self.nodes[id].kind == Kind::Directory);
        if target.is_some() && flags == libc::RENAME_NOREPLACE {
            wrong.push(Errno::EEXIST);
        }
        if target.is_none() && flags == libc::RENAME_EXCHANGE {
            wrong.push(Errno::ENOENT);
        }
        if new.starts_with(&format!("{old}/")) {
            wrong.push(Errno::EINVAL);
        }
        if old.starts_with(&format!("{new}/")) {
            wrong.extend([Errno::ENOTEMPTY, Errno::EEXIST, Errno::EINVAL]);
        }
        let (Some(source), Some(target)) = (source, target) else {
            return if wrong.is_empty() { Ok(()) } else { Err(wrong) };
        };
        if wrong.is_empty() && source == target {
            return Ok(());
        }
        if flags != libc::RENAME_EXCHANGE {
            match (is_directory(Some(source)), is_directory(Some(target))) {
                (true, false) => wrong.push(Errno::ENOTDIR),
                (false, true) => wrong.push(Errno::EISDIR),
                (true, true) if !self.is_empty(new) => wrong.extend([Errno::ENOTEMPTY, Errno::EEXIST]),
                _ => {}
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Carries out a rename that `may_rename` allows.
    pub(super) fn rename(&mut self, old: &str, new: &str, flags: u32) {
        if self.names.get(old) == self.names.get(new) {
            return;
        }
        let (moving, staying) = (self.take(old), self.take(new));
        self.put(new, moving);
        if flags == libc::RENAME_EXCHANGE {
            self.put(old, staying);
        }
        self.touch_parent(old);
        self.touch_parent(new);
    }

    /// Everything at and below a path, with what follows the path.
    fn take(&mut self, path: &str) -> Vec<(String, NodeId)> {
        let below = format!("{path}/");
        let names: Vec<_> =
            self.names.keys().filter(|name| *name == path || name.starts_with(&below)).cloned().collect();
        names
            .into_iter()
            .filter_map(|name| Some((name[path.len()..].to_owned(), self.names.remove(&name)?)))
            .collect()
    }

    fn put(&mut self, path: &str, names: Vec<(String, NodeId)>) {
        self.names.extend(names.into_iter().map(|(rest, id)| (format!("{path}{rest}"), id)));
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

/// The directories above a path, from the top.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(slash, _)| &path[..slash])
}

pub(super) fn write(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    if bytes.is_empty() {
        return;
    }
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn read(data: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = data.len().min(offset as usize);
    &data[start..data.len().min(start + len)]
}
