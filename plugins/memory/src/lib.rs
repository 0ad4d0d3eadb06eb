//! Keeps files in the memory of the process.
//!
//! A complete file system for benchmarks and tests: hard and symbolic links, unlinked open files, sparse files,
//! extended attributes, times, permissions. Reading and writing make no system call. The files are the
//! process's own: a forked child has a copy from then on, and the next program image starts empty.
//!
//! The backend string is not used. Option: `size=N` with an optional `k`, `m` or `g`, after which writing
//! fails with `ENOSPC`. Access times follow "relatime". FIFOs, sockets and devices can be made and listed, not
//! opened. Record locks and flock are the host's.

#![deny(unsafe_code)]

mod content;
mod directory;
mod gate;
mod heap;
mod node;
mod open;
mod space;
mod tree;
mod xattr;

use content::PAGE;
use directory::Directory;
use gate::Gate;
use node::Body;
pub use open::OpenFile;
use open::check_open;
use plugin_abi::{
    CStr, Capabilities, DirSink, Errno, FileSystem, InitError, MountPath, Open, Result, SetAttr, Setup,
    Written, empty_statfs, permission, stat, statfs,
};
use space::Space;
use std::ffi::c_int;
use std::io::{IoSlice, IoSliceMut};
use tree::Tree;

plugin_abi::export_plugin!(Memory);

/// A file system in memory.
#[derive(Debug)]
pub struct Memory {
    tree: Tree,
    gate: Gate,
}

impl FileSystem for Memory {
    type Handle = Box<OpenFile>;

    const NAME: &'static CStr = c"memory";
    const CAPABILITIES: Capabilities = Capabilities::FORK_HOOKS
        .union(Capabilities::APPEND)
        .union(Capabilities::ATOMIC_IO)
        .union(Capabilities::PROCESS_LOCAL);

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        let mut limit = u64::MAX;
        for option in setup.options() {
            limit = parse_size(option).ok_or_else(|| {
                let option = option.escape_ascii();
                InitError::new(Errno::EINVAL, format!("unknown option `{option}`; there is size=N[k|m|g]"))
            })?;
        }
        Ok(Self { tree: Tree::new(Space::limited(limit.div_ceil(PAGE as u64))), gate: Gate::default() })
    }

    fn getattr(&self, path: &MountPath) -> Result<stat> {
        let _pass = self.gate.enter();
        Ok(self.tree.find(path)?.stat())
    }

    fn fgetattr(&self, file: &Box<OpenFile>) -> Result<stat> {
        let _pass = self.gate.enter();
        Ok(file.node.stat())
    }

    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        let _pass = self.gate.enter();
        let node = self.tree.find(path)?;
        if attr.size.is_some() {
            if node.kind == libc::S_IFLNK {
                return Err(Errno::ELOOP);
            }
            tree::may(&node, libc::W_OK)?;
        }
        node.set(attr)
    }

    fn fsetattr(&self, file: &Box<OpenFile>, attr: &SetAttr) -> Result<()> {
        let _pass = self.gate.enter();
        if attr.size.is_some() && file.writable().is_err() {
            return Err(if file.access == libc::O_PATH { Errno::EBADF } else { Errno::EINVAL });
        }
        file.node.set(attr)
    }

    fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<Box<OpenFile>>> {
        let _pass = self.gate.enter();
        let access = if flags & libc::O_PATH != 0 { libc::O_PATH } else { flags & libc::O_ACCMODE };
        let (node, created) = if access != libc::O_PATH && flags & libc::O_TMPFILE == libc::O_TMPFILE {
            (self.tree.nameless(path, mode)?, true)
        } else if access != libc::O_PATH && flags & libc::O_CREAT != 0 {
            if flags & libc::O_DIRECTORY != 0 {
                return Err(Errno::EINVAL);
            }
            self.tree.find_or_create(path, flags & libc::O_EXCL != 0, mode)?
        } else {
            (self.tree.find(path)?, false)
        };
        if !created {
            check_open(&node, flags, access)?;
        }
        let mode_type = node.kind;
        let handle = Box::new(OpenFile { node, access });
        Ok(Open::Served { handle, backing_fd: None, mode_type, locks: false })
    }

    fn close(&self, file: Box<OpenFile>) -> Result<()> {
        let _pass = self.gate.enter();
        drop(file);
        Ok(())
    }

    #[inline]
    fn read(&self, file: &Box<OpenFile>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let _pass = self.gate.enter();
        file.readable()?.read_at(buf, offset)
    }

    #[inline]
    fn write(&self, file: &Box<OpenFile>, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        let _pass = self.gate.enter();
        let (count, end) = file.writable()?.write_at(buf, offset, append)?;
        Ok(Written { count, end })
    }

    fn readv(&self, file: &Box<OpenFile>, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        let _pass = self.gate.enter();
        file.readable()?.readv_at(bufs, offset)
    }

    fn writev(
        &self,
        file: &Box<OpenFile>,
        bufs: &[IoSlice<'_>],
        offset: u64,
        append: bool,
    ) -> Result<Written> {
        let _pass = self.gate.enter();
        let (count, end) = file.writable()?.writev_at(bufs, offset, append)?;
        Ok(Written { count, end })
    }

    fn fallocate(&self, file: &Box<OpenFile>, mode: c_int, offset: u64, len: u64) -> Result<()> {
        let _pass = self.gate.enter();
        let end = offset.checked_add(len).filter(|&end| end <= content::MAX_SIZE).ok_or(Errno::EFBIG)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let (keep, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        let node = file.writable()?;
        if node.kind != libc::S_IFREG {
            return Err(if node.is_directory() { Errno::EISDIR } else { Errno::ENODEV });
        }
        if mode & !(keep | punch | zero) != 0 || (mode & punch != 0 && mode != punch | keep) {
            return Err(Errno::EOPNOTSUPP);
        }
        node.with_content(|content, space| {
            if mode & (punch | zero) != 0 {
                content.punch(offset, len, space);
            }
            if mode & keep == 0 && end > content.size() {
                content.set_size(end, space)?;
            }
            Ok(())
        })
    }

    fn lseek(&self, file: &Box<OpenFile>, offset: u64, whence: c_int) -> Result<u64> {
        let _pass = self.gate.enter();
        let inner = file.node.read();
        let Body::File(content) = &inner.body else { return Err(Errno::EINVAL) };
        match whence {
            libc::SEEK_DATA => content.seek_data(offset),
            libc::SEEK_HOLE => content.seek_hole(offset),
            _ => Err(Errno::EINVAL),
        }
    }

    fn copy_range(
        &self,
        source: &Box<OpenFile>,
        from: u64,
        target: &Box<OpenFile>,
        to: u64,
        len: usize,
    ) -> Result<usize> {
        let _pass = self.gate.enter();
        let (source, target) = (source.readable()?, target.writable()?);
        // What lies behind the end is not copied, and does not overlap.
        let len64 = (source.stat().st_size as u64).saturating_sub(from).min(len as u64);
        let len = len64 as usize;
        let overlap = from < to.saturating_add(len64) && to < from.saturating_add(len64);
        if source.ino == target.ino && overlap {
            return Err(Errno::EINVAL);
        }
        let mut buf = [0; 16 * 1024];
        let mut done = 0;
        while done < len {
            let piece = buf.len().min(len - done);
            let count = source.read_at(&mut buf[..piece], from + done as u64)?;
            if count == 0 {
                break;
            }
            match target.write_at(&buf[..count], to + done as u64, false) {
                Ok((written, _)) if written == count => done += count,
                Ok((written, _)) => return Ok(done + written),
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn readdir(&self, file: &Box<OpenFile>, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let _pass = self.gate.enter();
        let node = file.readable()?;
        let _names = self.tree.shared();
        node.read().directory()?.list(node.ino, cookie, emit);
        Ok(())
    }

    fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        let _pass = self.gate.enter();
        let body = Body::Directory(Directory::new(0));
        self.tree.create(path, libc::S_IFDIR | mode & 0o1777, 0, body)
    }

    fn rmdir(&self, path: &MountPath) -> Result<()> {
        let _pass = self.gate.enter();
        self.tree.rmdir(path)
    }

    fn unlink(&self, path: &MountPath) -> Result<()> {
        let _pass = self.gate.enter();
        self.tree.unlink(path)
    }

    fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        let _pass = self.gate.enter();
        self.tree.rename(old, new, flags)
    }

    fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        let _pass = self.gate.enter();
        self.tree.link_path(path, new)
    }

    fn flink(&self, file: &Box<OpenFile>, new: &MountPath) -> Result<()> {
        let _pass = self.gate.enter();
        self.tree.link(&file.node, new)
    }

    fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        let _pass = self.gate.enter();
        match target.count_bytes() {
            0 => Err(Errno::ENOENT),
            4096.. => Err(Errno::ENAMETOOLONG),
            _ => self.tree.create(path, libc::S_IFLNK | 0o777, 0, Body::Symlink(target.to_owned())),
        }
    }

    fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let _pass = self.gate.enter();
        let node = self.tree.find(path)?;
        let inner = node.read();
        let Body::Symlink(target) = &inner.body else { return Err(Errno::EINVAL) };
        let len = target.count_bytes().min(buf.len());
        buf[..len].copy_from_slice(&target.to_bytes()[..len]);
        Ok(len)
    }

    fn mknod(&self, path: &MountPath, mode: u32, dev: u64) -> Result<()> {
        let _pass = self.gate.enter();
        let permissions = mode & 0o7777;
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG => self.tree.create(
                path,
                libc::S_IFREG | permissions,
                0,
                Body::File(content::Content::default()),
            ),
            kind @ (libc::S_IFIFO | libc::S_IFSOCK) => {
                self.tree.create(path, kind | permissions, 0, Body::Other)
            }
            kind @ (libc::S_IFCHR | libc::S_IFBLK) => {
                if !rustix::process::geteuid().is_root() {
                    return Err(Errno::EPERM);
                }
                self.tree.create(path, kind | permissions, dev, Body::Other)
            }
            libc::S_IFDIR => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }

    fn access(&self, path: &MountPath, mode: c_int, flags: c_int) -> Result<()> {
        let _pass = self.gate.enter();
        permission::check(&self.tree.find(path)?.stat(), mode, flags)
    }

    fn statfs(&self, path: &MountPath) -> Result<statfs> {
        let _pass = self.gate.enter();
        self.tree.find(path)?;
        Ok(self.space())
    }

    fn fstatfs(&self, _file: &Box<OpenFile>) -> Result<statfs> {
        Ok(self.space())
    }

    fn getxattr(&self, path: &MountPath, name: &CStr, value: &mut [u8]) -> Result<usize> {
        let _pass = self.gate.enter();
        xattr::get(&*self.tree.find(path)?, name, value)
    }

    fn setxattr(&self, path: &MountPath, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        let _pass = self.gate.enter();
        xattr::set(&*self.tree.find(path)?, name, value, flags)
    }

    fn listxattr(&self, path: &MountPath, list: &mut [u8]) -> Result<usize> {
        let _pass = self.gate.enter();
        xattr::list(&*self.tree.find(path)?, list)
    }

    fn removexattr(&self, path: &MountPath, name: &CStr) -> Result<()> {
        let _pass = self.gate.enter();
        xattr::remove(&*self.tree.find(path)?, name)
    }

    fn fgetxattr(&self, file: &Box<OpenFile>, name: &CStr, value: &mut [u8]) -> Result<usize> {
        let _pass = self.gate.enter();
        xattr::get(&file.node, name, value)
    }

    fn fsetxattr(&self, file: &Box<OpenFile>, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
        let _pass = self.gate.enter();
        xattr::set(&file.node, name, value, flags)
    }

    fn flistxattr(&self, file: &Box<OpenFile>, list: &mut [u8]) -> Result<usize> {
        let _pass = self.gate.enter();
        xattr::list(&file.node, list)
    }

    fn fremovexattr(&self, file: &Box<OpenFile>, name: &CStr) -> Result<()> {
        let _pass = self.gate.enter();
        xattr::remove(&file.node, name)
    }

    fn fork_prepare(&self) {
        self.gate.close();
        heap::before_fork();
    }

    fn fork_parent(&self) {
        heap::after_fork();
        self.gate.open();
    }

    fn fork_child(&self) {
        heap::after_fork();
        self.gate.reset();
    }
}

impl Memory {
    fn space(&self) -> statfs {
        let (limit, used) = (self.tree.space.limit(), self.tree.space.used());
        let mut out = empty_statfs();
        // As tmpfs: no limit is shown as no blocks.
        out.f_type = libc::TMPFS_MAGIC;
        out.f_bsize = PAGE as i64;
        out.f_frsize = PAGE as i64;
        out.f_namelen = 255;
        if limit < u64::MAX / PAGE as u64 {
            out.f_blocks = limit;
            out.f_bfree = limit - used;
            out.f_bavail = out.f_bfree;
        }
        out
    }
}

/// `size=N` with `k`, `m` or `g`, in bytes.
fn parse_size(option: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(option.strip_prefix(b"size=")?).ok()?;
    let (digits, unit) = match value.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (digits, value.as_bytes()[digits.len()]),
        None => (value, b' '),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
