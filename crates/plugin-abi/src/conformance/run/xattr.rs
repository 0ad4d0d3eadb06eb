//! Steps on extended attributes.

use super::super::model::{Kind, NodeId, Wrong};
use super::{Checked, Session, pattern, same, same_bytes};
use crate::errno::Errno;
use crate::path::MountPath;
use std::collections::BTreeSet;
use std::ffi::CString;

impl Session<'_> {
    /// Plain files and directories have user attributes.
    pub(super) fn xattr_node(&self, path: &str) -> Option<std::result::Result<NodeId, Wrong>> {
        if self.is_out_of_scope(path) {
            return None;
        }
        match self.model.find(path) {
            Ok(id) if matches!(self.model.nodes[id].kind, Kind::Symlink(_)) => None,
            Ok(id) => Some(Ok(id)),
            Err(errno) => Some(Err(vec![errno])),
        }
    }

    pub(super) fn set_xattr(&mut self, path: &str, name: &'static str, len: usize, flags: i32) -> Checked {
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

    pub(super) fn get_xattr(&mut self, path: &str, name: &'static str, size: usize) -> Checked {
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

    pub(super) fn list_xattr(&mut self, path: &str) -> Checked {
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

    pub(super) fn remove_xattr(&mut self, path: &str, name: &'static str) -> Checked {
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
}
