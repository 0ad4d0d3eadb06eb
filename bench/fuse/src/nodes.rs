//! The kernel names files by node numbers, a plugin by paths: which is which.
//!
//! A node has the number of the plugin's inode, as programs compare those (tar, rsync, find), so the plugin's files must lie on
//! one file system. A number that a new file uses again has a new generation, by which the kernel tells the two apart.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use plugin_abi::Errno;

/// The root's number, as the kernel has it.
pub const ROOT: u64 = 1;
/// Of a file whose inode has the root's number.
const INSTEAD_OF_ROOT: u64 = u64::MAX;

/// All nodes that the kernel knows.
pub struct Nodes(RwLock<Tree>);

#[derive(Default)]
struct Tree {
    nodes: HashMap<u64, Node>,
    by_name: HashMap<Name, u64>,
    generations: u64,
}

/// The directory's number and the entry in it.
type Name = (u64, CString);

struct Node {
    /// None: it was deleted, and is at most open.
    names: Vec<Name>,
    generation: u64,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
}

impl Nodes {
    /// The root alone.
    pub fn new() -> Self {
        Self(RwLock::default())
    }

    /// Where a node is.
    pub fn path(&self, node: u64) -> Result<CString, Errno> {
        self.tree().path(node, None)
    }

    /// Where the entry `name` of a directory is.
    pub fn child(&self, parent: u64, name: &CStr) -> Result<CString, Errno> {
        self.tree().path(parent, Some(name))
    }

    /// Number and generation of an entry that exists and has that inode, counted as told to the kernel.
    pub fn tell(&self, parent: u64, name: &CStr, inode: u64) -> (u64, u64) {
        let mut tree = self.change();
        let tree = &mut *tree;
        let number = if inode == ROOT { INSTEAD_OF_ROOT } else { inode };
        let name = (parent, name.to_owned());
        if tree.by_name.get(&name).is_some_and(|known| *known != number) {
            // Replaced behind our back.
            tree.unlink(&name);
        }
        let node = tree.nodes.entry(number).or_insert(Node { names: Vec::new(), generation: 0, lookups: 0 });
        if node.names.is_empty() {
            tree.generations += 1;
            node.generation = tree.generations;
        }
        node.lookups += 1;
        if !node.names.contains(&name) {
            node.names.push(name.clone());
            tree.by_name.insert(name, number);
        }
        (number, node.generation)
    }

    /// The kernel forgot a node `count` times.
    pub fn forget(&self, number: u64, count: u64) {
        let mut tree = self.change();
        let Some(node) = tree.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0
            && let Some(node) = tree.nodes.remove(&number)
        {
            for name in &node.names {
                tree.by_name.remove(name);
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
        let (from, to) = ((parent, name.to_owned()), (new_parent, new_name.to_owned()));
        let number = tree.by_name.get(&from).copied();
        tree.unlink(&to);
        if let Some(number) = number {
            tree.by_name.remove(&from);
            if let Some(node) = tree.nodes.get_mut(&number) {
                node.names.retain(|known| *known != from);
                node.names.push(to.clone());
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
            let (parent, name) =
                self.nodes.get(&node).and_then(|node| node.names.last()).ok_or(Errno::ENOENT)?;
            names.push(name.to_bytes());
            node = *parent;
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

    fn unlink(&mut self, name: &Name) {
        if let Some(number) = self.by_name.remove(name)
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.names.retain(|known| known != name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Nodes, ROOT};

    #[test]
    fn paths_follow_renames_of_directories() {
        let nodes = Nodes::new();
        let (directory, _) = nodes.tell(ROOT, c"a", 10);
        let (file, _) = nodes.tell(directory, c"f", 11);
        assert_eq!(nodes.path(ROOT).unwrap().as_c_str(), c"/");
        assert_eq!(nodes.path(file).unwrap().as_c_str(), c"/a/f");
        nodes.rename(ROOT, c"a", ROOT, c"b");
        assert_eq!(nodes.path(file).unwrap().as_c_str(), c"/b/f");
        assert_eq!(nodes.child(directory, c"g").unwrap().as_c_str(), c"/b/g");
    }

    #[test]
    fn an_inode_used_again_has_another_generation() {
        let nodes = Nodes::new();
        let (old, generation) = nodes.tell(ROOT, c"f", 10);
        nodes.unlink(ROOT, c"f");
        assert!(nodes.path(old).is_err());
        let (new, other) = nodes.tell(ROOT, c"g", 10);
        assert_eq!(old, new);
        assert_ne!(generation, other);
        nodes.forget(old, 1);
        assert_eq!(nodes.path(new).unwrap().as_c_str(), c"/g");
    }

    #[test]
    fn a_node_keeps_its_number_when_it_is_forgotten() {
        let nodes = Nodes::new();
        let (number, _) = nodes.tell(ROOT, c"d", 10);
        nodes.forget(number, 1);
        assert!(nodes.path(number).is_err());
        assert_eq!(nodes.tell(ROOT, c"d", 10).0, number);
    }

    #[test]
    fn a_file_of_two_names_lives_as_long_as_one_of_them() {
        let nodes = Nodes::new();
        let (one, _) = nodes.tell(ROOT, c"one", 10);
        let (two, _) = nodes.tell(ROOT, c"two", 10);
        assert_eq!(one, two);
        nodes.unlink(ROOT, c"two");
        assert_eq!(nodes.path(one).unwrap().as_c_str(), c"/one");
    }

    #[test]
    fn what_is_renamed_over_is_gone() {
        let nodes = Nodes::new();
        let ((from, _), (over, _)) = (nodes.tell(ROOT, c"from", 10), nodes.tell(ROOT, c"to", 11));
        nodes.rename(ROOT, c"from", ROOT, c"to");
        assert_eq!(nodes.path(from).unwrap().as_c_str(), c"/to");
        assert!(nodes.path(over).is_err());
    }
}
