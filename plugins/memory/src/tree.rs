//! Names: finding nodes, and changing which names they have.

use crate::directory::Directory;
use crate::node::{Body, Node};
use crate::space::Space;
use core::sync::atomic::{AtomicU64, Ordering};
use plugin_abi::{Errno, MountPath, Result, permission};
use rustix::process::geteuid;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const NAME_MAX: usize = 255;
const LINK_MAX: u64 = 65000;

/// Who finds names takes the lock shared, who changes them takes it alone. A node's own lock is taken inside
/// this one, one node at a time.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
    names: RwLock<()>,
    next_ino: AtomicU64,
    pub(crate) space: Arc<Space>,
}

impl Tree {
    pub(crate) fn new(space: Space) -> Self {
        let space = Arc::new(space);
        let owner = (geteuid().as_raw(), rustix::process::getegid().as_raw());
        let root = Node::new(1, libc::S_IFDIR | 0o755, owner, Body::Directory(Directory::new(1)), &space);
        Self { root: Arc::new(root), names: RwLock::new(()), next_ino: AtomicU64::new(2), space }
    }

    pub(crate) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of a path.
    pub(crate) fn find(&self, path: &MountPath) -> Result<Arc<Node>> {
        let _names = self.shared();
        self.walk(path)
    }

    /// Opens or creates a plain file or opens a directory; says whether it was created.
    pub(crate) fn find_or_create(
        &self,
        path: &MountPath,
        exclusive: bool,
        mode: u32,
    ) -> Result<(Arc<Node>, bool)> {
        let existing = |node: Arc<Node>| if exclusive { Err(Errno::EEXIST) } else { Ok((node, false)) };
        match self.find(path) {
            Ok(node) => return existing(node),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let _names = self.alone();
        if let Ok(node) = self.walk(path) {
            return existing(node);
        }
        let node =
            self.add(path, libc::S_IFREG | mode & 0o7777, Body::File(crate::content::Content::default()))?;
        Ok((node, true))
    }

    /// Makes a node under a name that is free.
    pub(crate) fn create(&self, path: &MountPath, mode: u32, rdev: u64, body: Body) -> Result<()> {
        let _names = self.alone();
        let node = self.add(path, mode, body)?;
        node.write().rdev = rdev;
        Ok(())
    }

    /// A plain file without a name, in the directory `path`.
    pub(crate) fn nameless(&self, path: &MountPath, mode: u32) -> Result<Arc<Node>> {
        let directory = self.find(path)?;
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        may(&directory, libc::W_OK | libc::X_OK)?;
        let node = self.make(
            &directory,
            libc::S_IFREG | mode & 0o7777,
            Body::File(crate::content::Content::default()),
        );
        node.write().nlink = 0;
        Ok(node)
    }

    /// Removes a name of something that is no directory.
    pub(crate) fn unlink(&self, path: &MountPath) -> Result<()> {
        let _names = self.alone();
        let (parent, name) = self.parent(path, Errno::EISDIR)?;
        let node = child(&parent, name)?;
        may_remove(&parent, &node)?;
        if node.is_directory() {
            return Err(Errno::EISDIR);
        }
        forget(&parent, name)?;
        node.relink(-1);
        Ok(())
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&self, path: &MountPath) -> Result<()> {
        let _names = self.alone();
        let (parent, name) = self.parent(path, Errno::EBUSY)?;
        let node = child(&parent, name)?;
        may_remove(&parent, &node)?;
        must_be_empty_directory(&node)?;
        forget(&parent, name)?;
        node.relink(-2);
        parent.relink(-1);
        Ok(())
    }

    /// Gives a node another name.
    pub(crate) fn link(&self, node: &Arc<Node>, new: &MountPath) -> Result<()> {
        let _names = self.alone();
        self.link_locked(node, new)
    }

    /// Gives the node of a path another name.
    pub(crate) fn link_path(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        let _names = self.alone();
        let node = self.walk(path)?;
        self.link_locked(&node, new)
    }

    fn link_locked(&self, node: &Arc<Node>, new: &MountPath) -> Result<()> {
        let (parent, name) = self.parent(new, Errno::EEXIST)?;
        match child(&parent, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        if node.is_directory() {
            return Err(Errno::EPERM);
        }
        may(&parent, libc::W_OK | libc::X_OK)?;
        if node.read().nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        enter(&parent, name, node)?;
        node.relink(1);
        Ok(())
    }

    /// renameat2(2).
    pub(crate) fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        let (noreplace, exchange) = (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE);
        if flags & !(noreplace | exchange) != 0 || flags == noreplace | exchange {
            return Err(Errno::EINVAL);
        }
        let _names = self.alone();
        let (old_parent, old_name) = self.parent(old, Errno::EBUSY)?;
        let (new_parent, new_name) = self.parent(new, Errno::EBUSY)?;
        let node = child(&old_parent, old_name)?;
        let target = match child(&new_parent, new_name) {
            Ok(_) if flags == noreplace => return Err(Errno::EEXIST),
            Ok(target) => Some(target),
            Err(Errno::ENOENT) if flags != exchange => None,
            Err(errno) => return Err(errno),
        };
        // A directory cannot move into itself; there is one path to each, so the paths tell.
        if node.is_directory() && is_below(new, old) {
            return Err(Errno::EINVAL);
        }
        if target.as_ref().is_some_and(|target| target.is_directory()) && is_below(old, new) {
            return Err(if flags == exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target.as_ref().is_some_and(|target| Arc::ptr_eq(target, &node)) {
            return Ok(());
        }
        may_remove(&old_parent, &node)?;
        match &target {
            Some(target) => may_remove(&new_parent, target)?,
            None => may(&new_parent, libc::W_OK | libc::X_OK)?,
        }
        if flags == exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            enter(&old_parent, old_name, &target)?;
            moved(&target, &new_parent, &old_parent)?;
        } else {
            if let Some(target) = target {
                replaced(&node, &target, &new_parent)?;
            }
            forget(&old_parent, old_name)?;
        }
        enter(&new_parent, new_name, &node)?;
        moved(&node, &old_parent, &new_parent)
    }

    fn walk(&self, path: &MountPath) -> Result<Arc<Node>> {
        let mut node = Arc::clone(&self.root);
        let root = geteuid().is_root();
        for name in path.components() {
            if node.kind == libc::S_IFLNK {
                return Err(Errno::ELOOP);
            }
            if node.is_directory() && !root {
                may(&node, libc::X_OK)?;
            }
            node = child(&node, name)?;
        }
        Ok(node)
    }

    fn parent<'a>(&self, path: &'a MountPath, for_root: Errno) -> Result<(Arc<Node>, &'a [u8])> {
        let (parent, name) = path.split().ok_or(for_root)?;
        let mut node = Arc::clone(&self.root);
        for name in parent.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            if node.is_directory() {
                may(&node, libc::X_OK)?;
            }
            node = child(&node, name)?;
            if node.kind == libc::S_IFLNK {
                return Err(Errno::ELOOP);
            }
        }
        if !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok((node, name.to_bytes()))
    }

    fn add(&self, path: &MountPath, mode: u32, body: Body) -> Result<Arc<Node>> {
        let (parent, name) = self.parent(path, Errno::EEXIST)?;
        match child(&parent, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        may(&parent, libc::W_OK | libc::X_OK)?;
        let node = self.make(&parent, mode, body);
        enter(&parent, name, &node)?;
        if node.is_directory() {
            parent.relink(1);
        }
        Ok(node)
    }

    /// A node that inherits what it should from the directory it will be in.
    fn make(&self, parent: &Node, mode: u32, mut body: Body) -> Arc<Node> {
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let mut mode = mode;
        let mut owner = (geteuid().as_raw(), rustix::process::getegid().as_raw());
        let above = parent.read();
        if above.mode & libc::S_ISGID != 0 {
            owner.1 = above.gid;
            mode |= if mode & libc::S_IFMT == libc::S_IFDIR { libc::S_ISGID } else { 0 };
        }
        if let Body::Directory(directory) = &mut body {
            directory.set_parent(parent.ino);
        }
        Arc::new(Node::new(ino, mode, owner, body, &self.space))
    }
}

/// Whether this process may use the node so.
pub(crate) fn may(node: &Node, mode: i32) -> Result<()> {
    permission::check(&node.stat(), mode, libc::AT_EACCESS)
}

fn may_remove(parent: &Node, node: &Node) -> Result<()> {
    may(parent, libc::W_OK | libc::X_OK)?;
    let euid = geteuid();
    let above = parent.read();
    if above.mode & libc::S_ISVTX == 0 || euid.is_root() || above.uid == euid.as_raw() {
        return Ok(());
    }
    drop(above);
    if node.read().uid == euid.as_raw() { Ok(()) } else { Err(Errno::EPERM) }
}

fn child(parent: &Node, name: &[u8]) -> Result<Arc<Node>> {
    let inner = parent.read();
    let directory = inner.directory()?;
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    directory.get(name).cloned().ok_or(Errno::ENOENT)
}

fn enter(parent: &Node, name: &[u8], node: &Arc<Node>) -> Result<()> {
    let mut inner = parent.write();
    inner.directory_mut()?.insert(name, Arc::clone(node));
    inner.changed();
    Ok(())
}

fn forget(parent: &Node, name: &[u8]) -> Result<()> {
    let mut inner = parent.write();
    inner.directory_mut()?.remove(name);
    inner.changed();
    Ok(())
}

fn must_be_empty_directory(node: &Node) -> Result<()> {
    if node.read().directory()?.len() == 0 { Ok(()) } else { Err(Errno::ENOTEMPTY) }
}

/// What rename puts `node` over goes away.
fn replaced(node: &Node, target: &Node, parent: &Node) -> Result<()> {
    match (node.is_directory(), target.is_directory()) {
        (true, true) => {
            must_be_empty_directory(target)?;
            target.relink(-2);
            parent.relink(-1);
        }
        (true, false) => return Err(Errno::ENOTDIR),
        (false, true) => return Err(Errno::EISDIR),
        (false, false) => target.relink(-1),
    }
    Ok(())
}

/// A directory in another place has another "..", and each counts it as a link.
fn moved(node: &Node, from: &Node, to: &Node) -> Result<()> {
    let mut inner = node.write();
    inner.ctime = crate::node::now();
    if node.is_directory() && from.ino != to.ino {
        inner.directory_mut()?.set_parent(to.ino);
        drop(inner);
        from.relink(-1);
        to.relink(1);
    }
    Ok(())
}

fn is_below(path: &MountPath, above: &MountPath) -> bool {
    path.as_bytes().strip_prefix(above.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}
