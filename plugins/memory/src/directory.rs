//! The entries of a directory, each with a cookie that stays.

use crate::node::Node;
use plugin_abi::{DirEntry, DirSink};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Cookies of "." and ".."; entries come after.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

#[derive(Debug)]
pub(crate) struct Directory {
    parent: u64,
    last_cookie: u64,
    cookies: HashMap<Box<[u8]>, u64>,
    entries: BTreeMap<u64, (Box<[u8]>, Arc<Node>)>,
}

impl Directory {
    /// An empty one in the directory of inode number `parent`.
    pub(crate) fn new(parent: u64) -> Self {
        Self { parent, last_cookie: DOT_DOT, cookies: HashMap::new(), entries: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn set_parent(&mut self, parent: u64) {
        self.parent = parent;
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        self.entries.get(self.cookies.get(name)?).map(|(_, node)| node)
    }

    /// Adds a name that is not there, or gives the one that is there to another node.
    pub(crate) fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        if let Some(cookie) = self.cookies.get(name) {
            if let Some(entry) = self.entries.get_mut(cookie) {
                entry.1 = node;
            }
            return;
        }
        self.last_cookie += 1;
        self.cookies.insert(name.into(), self.last_cookie);
        self.entries.insert(self.last_cookie, (name.into(), node));
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.cookies.remove(name) {
            self.entries.remove(&cookie);
        }
    }

    /// Every entry whose cookie is beyond `cookie`, until the sink has enough.
    pub(crate) fn list(&self, ino: u64, cookie: u64, emit: &mut DirSink<'_>) {
        let dots = [(DOT, ".", ino), (DOT_DOT, "..", self.parent)];
        for (next_cookie, name, ino) in dots {
            let entry = DirEntry { name: name.as_bytes(), ino, d_type: libc::DT_DIR, next_cookie };
            if next_cookie > cookie && emit(entry) {
                return;
            }
        }
        for (&next_cookie, (name, node)) in self.entries.range(cookie.saturating_add(1)..) {
            // DT_* are the S_IFMT bits, shifted.
            let d_type = (node.kind >> 12) as u8;
            if emit(DirEntry { name, ino: node.ino, d_type, next_cookie }) {
                return;
            }
        }
    }
}
