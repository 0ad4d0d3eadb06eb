//! One file of any kind.

use crate::content::Content;
use crate::directory::Directory;
use crate::space::Space;
use core::sync::atomic::{AtomicBool, Ordering};
use libc::timespec;
use plugin_abi::{CStr, Errno, Result, SetAttr, SetTime, empty_stat, stat};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ino: u64,
    /// `S_IFMT` bits; a file never changes its kind.
    pub(crate) kind: u32,
    inner: RwLock<Inner>,
    /// The file was changed since it was last read: the next read sets atime ("relatime").
    unread: AtomicBool,
    space: Arc<Space>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u64,
    pub(crate) rdev: u64,
    pub(crate) atime: timespec,
    pub(crate) mtime: timespec,
    pub(crate) ctime: timespec,
    pub(crate) xattrs: BTreeMap<CString, Vec<u8>>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(CString),
    Other,
}

impl Node {
    pub(crate) fn new(ino: u64, mode: u32, owner: (u32, u32), body: Body, space: &Arc<Space>) -> Self {
        let (kind, now) = (mode & libc::S_IFMT, now());
        let inner = Inner {
            mode: mode & 0o7777,
            uid: owner.0,
            gid: owner.1,
            nlink: if kind == libc::S_IFDIR { 2 } else { 1 },
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body,
        };
        Self {
            ino,
            kind,
            inner: RwLock::new(inner),
            unread: AtomicBool::new(false),
            space: Arc::clone(space),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // A panic while the lock was held was reported as EIO; the data is as consistent as it was.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    pub(crate) fn stat(&self) -> stat {
        let inner = self.read();
        let mut st = empty_stat();
        st.st_ino = self.ino;
        st.st_mode = self.kind | inner.mode;
        (st.st_uid, st.st_gid, st.st_nlink, st.st_rdev) = (inner.uid, inner.gid, inner.nlink, inner.rdev);
        (st.st_atime, st.st_atime_nsec) = (inner.atime.tv_sec, inner.atime.tv_nsec);
        (st.st_mtime, st.st_mtime_nsec) = (inner.mtime.tv_sec, inner.mtime.tv_nsec);
        (st.st_ctime, st.st_ctime_nsec) = (inner.ctime.tv_sec, inner.ctime.tv_nsec);
        st.st_blksize = 4096;
        match &inner.body {
            Body::File(content) => {
                st.st_size = content.size() as i64;
                st.st_blocks = content.pages() as i64 * 8;
            }
            Body::Directory(directory) => st.st_size = directory.len() as i64 * 32,
            Body::Symlink(target) => st.st_size = target.count_bytes() as i64,
            Body::Other => {}
        }
        st
    }

    /// Reads a file.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_by(|content| content.read(buf, offset))
    }

    /// As [`read_at`](Self::read_at), into several buffers, as the file is at one moment.
    pub(crate) fn readv_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        self.read_by(|content| {
            let mut done = 0;
            for buf in bufs {
                let count = content.read(buf, offset + done as u64);
                done += count;
                if count < buf.len() {
                    break;
                }
            }
            done
        })
    }

    fn read_by(&self, read: impl FnOnce(&Content) -> usize) -> Result<usize> {
        let inner = self.read();
        let Body::File(content) = &inner.body else { return Err(self.no_data()) };
        let count = read(content);
        drop(inner);
        if self.unread.load(Ordering::Relaxed) {
            self.unread.store(false, Ordering::Relaxed);
            self.write().atime = now();
        }
        Ok(count)
    }

    /// Writes a file at `offset`, or at its end; returns how much, and where it ended.
    pub(crate) fn write_at(&self, buf: &[u8], offset: u64, append: bool) -> Result<(usize, u64)> {
        self.write_by(offset, append, |content, at| content.write(buf, at, &self.space))
    }

    /// As [`write_at`](Self::write_at), from several buffers in one step.
    pub(crate) fn writev_at(&self, bufs: &[IoSlice<'_>], offset: u64, append: bool) -> Result<(usize, u64)> {
        self.write_by(offset, append, |content, at| {
            let mut done = 0;
            for buf in bufs {
                match content.write(buf, at + done as u64, &self.space) {
                    Ok(count) => {
                        done += count;
                        if count < buf.len() {
                            break;
                        }
                    }
                    Err(errno) if done == 0 => return Err(errno),
                    Err(_) => break,
                }
            }
            Ok(done)
        })
    }

    fn write_by(
        &self,
        offset: u64,
        append: bool,
        write: impl FnOnce(&mut Content, u64) -> Result<usize>,
    ) -> Result<(usize, u64)> {
        let mut inner = self.write();
        let Body::File(content) = &mut inner.body else { return Err(self.no_data()) };
        let at = if append { content.size() } else { offset };
        let count = write(content, at)?;
        if count > 0 {
            inner.changed();
            if inner.mode & 0o6000 != 0 {
                inner.drop_privileges();
            }
        }
        drop(inner);
        self.unread.store(true, Ordering::Relaxed);
        Ok((count, at + count as u64))
    }

    /// Works on a file's bytes and marks it as changed.
    pub(crate) fn with_content<T>(&self, work: impl FnOnce(&mut Content, &Space) -> Result<T>) -> Result<T> {
        let mut inner = self.write();
        let Body::File(content) = &mut inner.body else { return Err(self.no_data()) };
        let result = work(content, &self.space)?;
        inner.changed();
        drop(inner);
        self.unread.store(true, Ordering::Relaxed);
        Ok(result)
    }

    pub(crate) fn no_data(&self) -> Errno {
        if self.is_directory() { Errno::EISDIR } else { Errno::EINVAL }
    }

    /// Changes attributes; all of them or none.
    pub(crate) fn set(&self, attr: &SetAttr) -> Result<()> {
        let euid = rustix::process::geteuid();
        // Who may write may set both times to now, and nothing else (utimensat(2)).
        let now_only = matches!((attr.atime, attr.mtime), (Some(SetTime::Now), Some(SetTime::Now)));
        if now_only && self.read().uid != euid.as_raw() {
            crate::tree::may(self, libc::W_OK)?;
        }
        let mut inner = self.write();
        let owner = euid.is_root() || inner.uid == euid.as_raw();
        let times = !now_only && (attr.atime.is_some() || attr.mtime.is_some());
        if !owner && (attr.mode.is_some() || times) {
            return Err(Errno::EPERM);
        }
        if !euid.is_root() && attr.uid.is_some_and(|uid| uid != inner.uid) {
            return Err(Errno::EPERM);
        }
        if !owner && attr.gid.is_some() {
            return Err(Errno::EPERM);
        }
        if attr.mode.is_some() && self.kind == libc::S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(size) = attr.size {
            let Body::File(content) = &mut inner.body else { return Err(self.no_data()) };
            content.set_size(size, &self.space)?;
            inner.mtime = now();
            self.unread.store(true, Ordering::Relaxed);
        }
        if attr.uid.is_some() || attr.gid.is_some() {
            inner.uid = attr.uid.unwrap_or(inner.uid);
            inner.gid = attr.gid.unwrap_or(inner.gid);
            if self.kind == libc::S_IFREG {
                inner.drop_set_ids();
            }
        }
        if let Some(mode) = attr.mode {
            inner.mode = mode & 0o7777;
        }
        let time = |time, old| match time {
            None => old,
            Some(SetTime::Now) => now(),
            Some(SetTime::At(at)) => at,
        };
        inner.atime = time(attr.atime, inner.atime);
        inner.mtime = time(attr.mtime, inner.mtime);
        inner.ctime = now();
        Ok(())
    }

    /// A name more or less; without one the bytes live as long as the node.
    pub(crate) fn relink(&self, difference: i64) {
        let mut inner = self.write();
        inner.nlink = inner.nlink.saturating_add_signed(difference);
        inner.ctime = now();
    }
}

impl Inner {
    pub(crate) fn changed(&mut self) {
        self.mtime = now();
        self.ctime = self.mtime;
    }

    pub(crate) fn directory(&self) -> Result<&Directory> {
        if let Body::Directory(directory) = &self.body { Ok(directory) } else { Err(Errno::ENOTDIR) }
    }

    pub(crate) fn directory_mut(&mut self) -> Result<&mut Directory> {
        if let Body::Directory(directory) = &mut self.body { Ok(directory) } else { Err(Errno::ENOTDIR) }
    }

    pub(crate) fn xattr(&self, name: &CStr) -> Result<&[u8]> {
        self.xattrs.get(name).map(Vec::as_slice).ok_or(Errno::ENODATA)
    }

    /// A write by somebody else than root ends set-user-ID and set-group-ID.
    fn drop_privileges(&mut self) {
        if !rustix::process::geteuid().is_root() {
            self.drop_set_ids();
        }
    }

    fn drop_set_ids(&mut self) {
        self.mode &= !libc::S_ISUID;
        if self.mode & libc::S_IXGRP != 0 {
            self.mode &= !libc::S_ISGID;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Body::File(content) = &mut inner.body {
            content.clear(&self.space);
        }
    }
}

/// The time of the last tick, as the kernel stamps files; read without a system call.
pub(crate) fn now() -> timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    timespec { tv_sec: now.tv_sec, tv_nsec: now.tv_nsec }
}
