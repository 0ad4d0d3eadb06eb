//! Requests of the kernel become calls of the plugin.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use plugin_abi::{MountPath, SetAttr};

use crate::attributes;
use crate::served::{Cache, Entry, Served, TTL, at, c_string, done, errno, opened};

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        for flag in wanted {
            // What the kernel lacks, it does without.
            let _ = config.add_capabilities(flag);
        }
        let lacking = |what: &str| io::Error::other(format!("the kernel has no {what} for FUSE"));
        let _ = config.set_max_write(1 << 20);
        if self.cache == Cache::WrittenBack {
            config
                .add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE)
                .map_err(|_| lacking("write-back cache"))?;
        }
        if self.cache == Cache::Passthrough {
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| lacking("passthrough"))?;
            config.set_max_stack_depth(1).map_err(|_| lacking("stacking"))?;
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match c_string(name).and_then(|name| self.entry(parent, &name)) {
            Ok(entry) => reply.entry(&TTL, &entry.attr, entry.generation),
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.nodes.forget(node.0, count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node, fh) {
            Ok(st) => reply.attr(&TTL, &attributes::of(node.0, &st)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| mode & 0o7777);
        let (atime, mtime) = (atime.map(attributes::set_time), mtime.map(attributes::set_time));
        let change = SetAttr { mode, uid, gid, size, atime, mtime, no_link: false };
        let changed = match fh {
            Some(fh) => self.fs.fsetattr(&opened(fh), &change).map_err(errno),
            None => {
                self.nodes.path(node.0).and_then(|path| self.fs.setattr(at(&path), &change)).map_err(errno)
            }
        };
        match changed.and_then(|()| self.attributes(node, fh)) {
            Ok(st) => reply.attr(&TTL, &attributes::of(node.0, &st)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let mut target = [0; libc::PATH_MAX as usize];
        let read = self.nodes.path(node.0).and_then(|path| self.fs.readlink(at(&path), &mut target));
        match read {
            Ok(length) => reply.data(&target[..length]),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make(parent, name, reply, |path| self.fs.mknod(path, mode, u64::from(rdev)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.make(parent, name, reply, |path| self.fs.mkdir(path, mode));
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        match c_string(target.as_os_str()) {
            Ok(target) => self.make(parent, name, reply, |path| self.fs.symlink(&target, path)),
            Err(error) => reply.error(error),
        }
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.nodes.path(node.0) {
            Ok(old) => self.make(parent, name, reply, |path| self.fs.link(at(&old), path)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply, |path| self.fs.unlink(path));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply, |path| self.fs.rmdir(path));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = c_string(name).and_then(|name| {
            let new_name = c_string(new_name)?;
            let old = self.nodes.child(parent.0, &name).map_err(errno)?;
            let new = self.nodes.child(new_parent.0, &new_name).map_err(errno)?;
            self.fs.rename(at(&old), at(&new), flags.bits()).map_err(errno)?;
            self.nodes.rename(parent.0, &name, new_parent.0, &new_name);
            Ok(())
        });
        done(renamed, reply);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let path = self.nodes.path(node.0).map_err(errno);
        match path.and_then(|path| self.open_path(&path, flags.0, 0)) {
            Ok(fh) if self.cache == Cache::Passthrough => {
                match self.backing(node.0, fh, |fd| reply.open_backing(fd)) {
                    Some(id) => reply.opened_passthrough(fh, FopenFlags::empty(), &id),
                    None => reply.opened(fh, FopenFlags::FOPEN_DIRECT_IO),
                }
            }
            Ok(fh) => reply.opened(fh, self.open_flags()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = c_string(name).and_then(|name| {
            let path = self.nodes.child(parent.0, &name).map_err(errno)?;
            let fh = self.open_path(&path, flags | libc::O_CREAT, mode)?;
            let st = self.fs.fgetattr(&opened(fh)).map_err(errno)?;
            Ok((fh, self.tell(parent, &name, &st)))
        });
        match created {
            Ok((fh, Entry { node, generation, attr })) => {
                if self.cache == Cache::Passthrough {
                    match self.backing(node, fh, |fd| reply.open_backing(fd)) {
                        Some(id) => {
                            reply.created_passthrough(&TTL, &attr, generation, fh, FopenFlags::empty(), &id);
                        }
                        None => reply.created(&TTL, &attr, generation, fh, FopenFlags::FOPEN_DIRECT_IO),
                    }
                } else {
                    reply.created(&TTL, &attr, generation, fh, self.open_flags());
                }
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            let room = &mut buffer[..size as usize];
            match self.fs.read(&opened(fh), room, offset) {
                Ok(count) => reply.data(&room[..count]),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.fs.write(&opened(fh), data, offset, false) {
            Ok(written) => reply.written(written.count as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        done(self.fs.flush(&opened(fh)).map_err(errno), reply);
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if self.cache == Cache::Passthrough {
            self.backings.close(node.0, fh.0);
        }
        done(self.fs.close(ManuallyDrop::into_inner(opened(fh))).map_err(errno), reply);
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        done(self.fs.fsync(&opened(fh), datasync).map_err(errno), reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let path = self.nodes.path(node.0).map_err(errno);
        match path.and_then(|path| self.open_path(&path, flags.0 | libc::O_DIRECTORY, 0)) {
            Ok(fh) => reply.opened(fh, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.fs.readdir(&opened(fh), offset, &mut |entry| {
            let kind = attributes::kind(u32::from(entry.d_type) << 12);
            reply.add(INodeNo(entry.ino), entry.next_cookie, kind, OsStr::from_bytes(entry.name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let read = self.fs.readdir(&opened(fh), offset, &mut |entry| {
            let name = OsStr::from_bytes(entry.name);
            let own = matches!(entry.name, b"." | b"..");
            // The kernel counts no look-up of the directory itself and of its parent.
            let found = c_string(name).and_then(|name| {
                if own {
                    let attr = attributes::of(node.0, &self.attributes(node, Some(fh))?);
                    return Ok(Entry { node: node.0, generation: Generation(0), attr });
                }
                self.entry(node, &name)
            });
            let Ok(Entry { node: child, generation, attr }) = found else { return false };
            let full = reply.add(INodeNo(child), entry.next_cookie, name, &TTL, &attr, generation);
            if full && !own {
                self.nodes.forget(child, 1);
            }
            full
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        done(self.fs.close(ManuallyDrop::into_inner(opened(fh))).map_err(errno), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs(MountPath::ROOT) {
            Ok(st) => reply.statfs(
                st.f_blocks,
                st.f_bfree,
                st.f_bavail,
                st.f_files,
                st.f_ffree,
                st.f_bsize as u32,
                st.f_namelen as u32,
                st.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks by itself (default_permissions), and asks no more.
        reply.error(Errno::ENOSYS);
    }
}
