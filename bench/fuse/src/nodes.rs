//! The kernel names files by node numbers, a plugin by paths: which is which.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use plugin_abi::Errno;

/// The root's number, as the kernel has it.
pub const ROOT: u64 = 1;

/// All nodes that the kernel knows.
pub struct Nodes(RwLock<Tree>);

struct Tree {
    nodes: HashMap<u64, Node>,
    by_name: HashMap<(u64, CString), u64>,
    next: u64,
}

struct Node {
    parent: u64,
    name: CString,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
    /// Whether the name still leads here.
    linked: bool,
}

impl Nodes {
    /// The root alone.
    pub fn new() -> Self {
        let root = Node { parent: ROOT, name: CString::default(), lookups: 1, linked: true };
        Self(RwLock::new(Tree {
            nodes: HashMap::from([(ROOT, root)]),
            by_name: HashMap::new(),
            next: ROOT + 1,
        }))
    }

    /// Where a node is.
    pub fn path(&self, node: u64) -> Result<CString, Errno> {
        self.tree().path(node, None)
    }

    /// Where the entry `name` of a directory is.
    pub fn child(&self, parent: u64, name: &CStr) -> Result<CString, Errno> {
        self.tree().path(parent, Some(name))
    }

    /// The number of an entry that exists, counted as told to the kernel.
    pub fn tell(&self, parent: u64, name: &CStr) -> u64 {
        let mut tree = self.change();
        let tree = &mut *tree;
        let key = (parent, name.to_owned());
        if let Some(&node) = tree.by_name.get(&key) {
            if let Some(node) = tree.nodes.get_mut(&node) {
                node.lookups += 1;
            }
            return node;
        }
        let number = tree.next;
        tree.next += 1;
        tree.nodes.insert(number, Node { parent, name: key.1.clone(), lookups: 1, linked: true });
        tree.by_name.insert(key, number);
        number
    }

    /// The kernel forgot a node `count` times.
    pub fn forget(&self, number: u64, count: u64) {
        let mut tree = self.change();
        let Some(node) = tree.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && number != ROOT {
            let key = (node.parent, node.name.clone());
            let linked = node.linked;
            tree.nodes.remove(&number);
            if linked {
                tree.by_name.remove(&key);
            }
        }
    }

    /// A name is gone.
    pub fn unlink(&self, parent: u64, name: &CStr) {
        self.change().unlink(&(parent, name.to_owned()));
    }

    /// A name has become another one, in place of what was there.
    pub fn rename(&self, parent: u64, name: &CStr, new_parent: u64, new_name: &CStr) {
        let mut tree = self.change();
        let to = (new_parent, new_name.to_owned());
        tree.unlink(&to);
        if let Some(number) = tree.by_name.remove(&(parent, name.to_owned())) {
            if let Some(node) = tree.nodes.get_mut(&number) {
                node.parent = new_parent;
                new_name.clone_into(&mut node.name);
            }
            tree.by_name.insert(to, number);
        }
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Tree> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    fn path(&self, mut node: u64, last: Option<&CStr>) -> Result<CString, Errno> {
        let mut names = Vec::from_iter(last.map(CStr::to_bytes));
        while node != ROOT {
            let found = self.nodes.get(&node).filter(|node| node.linked).ok_or(Errno::ENOENT)?;
            names.push(found.name.to_bytes());
            node = found.parent;
        }
        let mut path = Vec::with_capacity(64);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        CString::new(path).map_err(|_| Errno::EINVAL)
    }

    fn unlink(&mut self, key: &(u64, CString)) {
        if let Some(number) = self.by_name.remove(key)
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.linked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Nodes, ROOT};

    #[test]
    fn paths_follow_renames_of_directories() {
        let nodes = Nodes::new();
        let directory = nodes.tell(ROOT, c"a");
        let file = nodes.tell(directory, c"f");
        assert_eq!(nodes.path(ROOT).unwrap().as_c_str(), c"/");
        assert_eq!(nodes.path(file).unwrap().as_c_str(), c"/a/f");
        nodes.rename(ROOT, c"a", ROOT, c"b");
        assert_eq!(nodes.path(file).unwrap().as_c_str(), c"/b/f");
        assert_eq!(nodes.child(directory, c"g").unwrap().as_c_str(), c"/b/g");
    }

    #[test]
    fn a_name_used_again_is_another_file() {
        let nodes = Nodes::new();
        let old = nodes.tell(ROOT, c"f");
        nodes.unlink(ROOT, c"f");
        let new = nodes.tell(ROOT, c"f");
        assert_ne!(old, new);
        assert!(nodes.path(old).is_err());
        nodes.forget(old, 1);
        assert_eq!(nodes.path(new).unwrap().as_c_str(), c"/f");
    }

    #[test]
    fn what_is_renamed_over_is_gone() {
        let nodes = Nodes::new();
        let (from, over) = (nodes.tell(ROOT, c"from"), nodes.tell(ROOT, c"to"));
        nodes.rename(ROOT, c"from", ROOT, c"to");
        assert_eq!(nodes.path(from).unwrap().as_c_str(), c"/to");
        assert!(nodes.path(over).is_err());
    }
}
