//! A small file system for the conformance kit to check, right or with one bug, named by the backend string.

use plugin_abi::{
    CStr, Capabilities, DirEntry, DirSink, Errno, FileSystem, InitError, MountPath, Open, Result, SetAttr,
    SetTime, Setup, Written, empty_stat, stat,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

pub struct Simple {
    names: Mutex<BTreeMap<Vec<u8>, Arc<Node>>>,
    bug: String,
}

#[derive(Default)]
pub struct Node {
    ino: u64,
    kind: u32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    data: Vec<u8>,
    mode: u32,
    nlink: u64,
    mtime: i64,
}

type Names<'a> = MutexGuard<'a, BTreeMap<Vec<u8>, Arc<Node>>>;

impl Simple {
    fn has(&self, bug: &str) -> bool {
        self.bug == bug
    }

    fn names(&self) -> Names<'_> {
        self.names.lock().unwrap()
    }

    fn find(&self, names: &Names<'_>, path: &MountPath) -> Result<Arc<Node>> {
        self.check_parent(names, path)?;
        names.get(path.as_bytes()).cloned().ok_or(Errno::ENOENT)
    }

    fn check_parent(&self, names: &Names<'_>, path: &MountPath) -> Result<()> {
        let path = path.as_bytes();
        for at in (1..path.len()).filter(|&at| path[at] == b'/') {
            match names.get(&path[..at]).map(|node| node.kind) {
                Some(libc::S_IFDIR) => {}
                Some(libc::S_IFLNK) if self.has("symlink in the middle is ENOENT") => {
                    return Err(Errno::ENOENT);
                }
                Some(libc::S_IFLNK) => return Err(Errno::ELOOP),
                Some(_) => return Err(Errno::ENOTDIR),
                None => return Err(Errno::ENOENT),
            }
        }
        Ok(())
    }

    fn add(
        &self,
        names: &mut Names<'_>,
        path: &MountPath,
        kind: u32,
        mode: u32,
        data: &[u8],
    ) -> Result<Arc<Node>> {
        self.check_parent(names, path)?;
        if names.contains_key(path.as_bytes()) && !self.has("mkdir over a name succeeds") {
            return Err(Errno::EEXIST);
        }
        let inner = Inner { data: data.into(), mode, nlink: 1, mtime: 0 };
        let node = Arc::new(Node {
            ino: names.values().map(|n| n.ino).max().unwrap_or(0) + 1,
            kind,
            inner: Mutex::new(inner),
        });
        names.insert(path.as_bytes().into(), Arc::clone(&node));
        Ok(node)
    }

    fn has_children(names: &Names<'_>, path: &[u8]) -> bool {
        names.keys().any(|name| name.len() > path.len() && name.starts_with(path) && name[path.len()] == b'/')
    }

    fn set_size(&self, inner: &mut Inner, size: usize) {
        let fill = if self.has("extending does not zero") { 0xaa } else { 0 };
        inner.data.resize(size, fill);
    }
}

fn is_directory(node: &Node) -> bool {
    node.kind == libc::S_IFDIR
}

impl FileSystem for Simple {
    type Handle = Box<(Arc<Node>, Vec<u8>)>;
    const NAME: &'static CStr = c"simple";
    const CAPABILITIES: Capabilities = Capabilities::APPEND;

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        let root = Node { ino: 1, kind: libc::S_IFDIR, ..Node::default() };
        let names = BTreeMap::from([(b"/".to_vec(), Arc::new(root))]);
        Ok(Self { names: Mutex::new(names), bug: setup.backend.to_string_lossy().into_owned() })
    }

    fn getattr(&self, path: &MountPath) -> Result<stat> {
        let node = self.find(&self.names(), path)?;
        self.fgetattr(&Box::new((node, Vec::new())))
    }

    fn fgetattr(&self, handle: &Self::Handle) -> Result<stat> {
        let (node, inner) = (&handle.0, handle.0.inner.lock().unwrap());
        let mut st = empty_stat();
        st.st_ino = if self.has("all inodes are one") { 7 } else { node.ino };
        // The process's own, so that the default of `access` grants what the mode does.
        (st.st_uid, st.st_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        st.st_mode = node.kind | inner.mode;
        st.st_size = inner.data.len() as i64;
        st.st_nlink = if self.has("link does not count") { 1 } else { inner.nlink };
        st.st_mtime = inner.mtime;
        Ok(st)
    }

    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        let node = self.find(&self.names(), path)?;
        if attr.size.is_some() && node.kind != libc::S_IFREG {
            return Err(if is_directory(&node) { Errno::EISDIR } else { Errno::ELOOP });
        }
        self.fsetattr(&Box::new((node, Vec::new())), attr)
    }

    fn fsetattr(&self, handle: &Self::Handle, attr: &SetAttr) -> Result<()> {
        let mut inner = handle.0.inner.lock().unwrap();
        if let Some(size) = attr.size {
            self.set_size(&mut inner, size as usize);
        }
        inner.mode = attr.mode.unwrap_or(inner.mode);
        if let (Some(SetTime::At(at)), false) = (attr.mtime, self.has("mtime is not kept")) {
            inner.mtime = at.tv_sec;
        }
        Ok(())
    }

    fn open(&self, path: &MountPath, flags: i32, mode: u32) -> Result<Open<Self::Handle>> {
        let mut names = self.names();
        let node = match self.find(&names, path) {
            Ok(_)
                if flags & libc::O_CREAT != 0
                    && flags & libc::O_EXCL != 0
                    && !self.has("O_EXCL is ignored") =>
            {
                return Err(Errno::EEXIST);
            }
            Ok(node) => node,
            Err(Errno::ENOENT) if flags & libc::O_CREAT != 0 => {
                self.add(&mut names, path, libc::S_IFREG, mode, b"")?
            }
            Err(errno) => return Err(errno),
        };
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_CREAT != 0;
        match node.kind {
            libc::S_IFLNK => return Err(Errno::ELOOP),
            libc::S_IFDIR if writes => return Err(Errno::EISDIR),
            libc::S_IFREG if flags & libc::O_DIRECTORY != 0 => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if flags & libc::O_TRUNC != 0 && !self.has("O_TRUNC is ignored") {
            node.inner.lock().unwrap().data.clear();
        }
        Ok(Open::served(Box::new((node, path.as_bytes().into()))))
    }

    fn close(&self, _: Self::Handle) -> Result<()> {
        Ok(())
    }

    fn read(&self, handle: &Self::Handle, buf: &mut [u8], offset: u64) -> Result<usize> {
        let inner = handle.0.inner.lock().unwrap();
        let start = inner.data.len().min(offset as usize);
        let mut count = buf.len().min(inner.data.len() - start);
        if self.has("reads stop at 4096") {
            count = count.min(4096);
        }
        buf[..count].copy_from_slice(&inner.data[start..start + count]);
        Ok(count)
    }

    fn write(&self, handle: &Self::Handle, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        let mut inner = handle.0.inner.lock().unwrap();
        let append = append && !self.has("append goes to the offset");
        let start = if append { inner.data.len() } else { offset as usize };
        let end = start + buf.len();
        if inner.data.len() < end && !buf.is_empty() {
            self.set_size(&mut inner, end);
        }
        if self.has("every write truncates") {
            inner.data.truncate(end);
        }
        if !buf.is_empty() {
            inner.data[start..end].copy_from_slice(buf);
        }
        Ok(Written { count: buf.len(), end: end as u64 })
    }

    fn readdir(&self, handle: &Self::Handle, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let names = self.names();
        let dir = handle.1.as_slice();
        let children = names.iter().filter(|(name, _)| {
            name.len() > dir.len() + 1
                && name.starts_with(dir)
                && name[dir.len()] == b'/'
                && !name[dir.len() + 1..].contains(&b'/')
        });
        let dots = [(&b"."[..], libc::S_IFDIR), (&b".."[..], libc::S_IFDIR)];
        let entries =
            dots.into_iter().chain(children.map(|(name, node)| (&name[dir.len() + 1..], node.kind)));
        for (at, (name, kind)) in entries.enumerate().skip(cookie as usize) {
            let next = if self.has("a cookie is one too far") { at + 2 } else { at + 1 };
            if emit(DirEntry { name, ino: 1, d_type: (kind >> 12) as u8, next_cookie: next as u64 }) {
                break;
            }
        }
        Ok(())
    }

    fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        self.add(&mut self.names(), path, libc::S_IFDIR, mode, b"").map(drop)
    }

    fn rmdir(&self, path: &MountPath) -> Result<()> {
        let mut names = self.names();
        if !is_directory(&*self.find(&names, path)?) {
            return Err(Errno::ENOTDIR);
        }
        if Self::has_children(&names, path.as_bytes()) && !self.has("rmdir takes full directories") {
            return Err(Errno::ENOTEMPTY);
        }
        names.remove(path.as_bytes());
        Ok(())
    }

    fn unlink(&self, path: &MountPath) -> Result<()> {
        let mut names = self.names();
        let node = self.find(&names, path)?;
        if is_directory(&node) {
            return Err(Errno::EISDIR);
        }
        let mut inner = node.inner.lock().unwrap();
        inner.nlink = inner.nlink.saturating_sub(1);
        if self.has("unlink empties open files") {
            inner.data.clear();
        }
        names.remove(path.as_bytes());
        Ok(())
    }

    fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let mut names = self.names();
        let node = self.find(&names, old)?;
        self.check_parent(&names, new)?;
        let (from, to) = (old.as_bytes().to_vec(), new.as_bytes().to_vec());
        if to.starts_with(&[&from[..], b"/"].concat()) {
            return Err(Errno::EINVAL);
        }
        if from.starts_with(&[&to[..], b"/"].concat()) {
            return Err(Errno::ENOTEMPTY);
        }
        if let Some(target) = names.get(&to).cloned() {
            if Arc::ptr_eq(&target, &node) {
                return Ok(());
            }
            match (is_directory(&node), is_directory(&target)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if Self::has_children(&names, &to) => return Err(Errno::ENOTEMPTY),
                _ => target.inner.lock().unwrap().nlink -= 1,
            }
        }
        let below = [&from[..], b"/"].concat();
        let moving: Vec<_> =
            names.keys().filter(|name| **name == from || name.starts_with(&below)).cloned().collect();
        for name in moving {
            if self.has("rename leaves children behind") && name != from {
                continue;
            }
            let moved = names.get(&name).cloned().unwrap();
            if !(self.has("rename keeps the old name") && name == from) {
                names.remove(&name);
            }
            names.insert([&to[..], &name[from.len()..]].concat(), moved);
        }
        Ok(())
    }

    fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        let mut names = self.names();
        let node = self.find(&names, path)?;
        self.check_parent(&names, new)?;
        if names.contains_key(new.as_bytes()) {
            return Err(Errno::EEXIST);
        }
        if is_directory(&node) {
            return Err(Errno::EPERM);
        }
        node.inner.lock().unwrap().nlink += 1;
        names.insert(new.as_bytes().into(), node);
        Ok(())
    }

    fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        self.add(&mut self.names(), path, libc::S_IFLNK, 0o777, target.to_bytes()).map(drop)
    }

    fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let node = self.find(&self.names(), path)?;
        if node.kind != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let inner = node.inner.lock().unwrap();
        if inner.data.len() > buf.len() && self.has("readlink does not cut") {
            return Err(Errno::ERANGE);
        }
        let len = inner.data.len().min(buf.len());
        buf[..len].copy_from_slice(&inner.data[..len]);
        Ok(len)
    }
}
