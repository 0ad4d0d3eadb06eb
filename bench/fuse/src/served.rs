//! A plugin as FUSE wants it: nodes instead of paths, one answer with the attributes of what was made.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, ReplyEmpty, ReplyEntry,
};
use plugin_abi::{Handle, Instance, MountPath, Open, Purpose, stat};

use crate::attributes;
use crate::nodes::Nodes;
use crate::passthrough::Backings;

/// How long the kernel may believe names and attributes: libfuse's default.
pub const TTL: Duration = Duration::from_secs(1);

/// What the kernel keeps of files.
#[derive(Clone, Copy, PartialEq)]
pub enum Cache {
    /// Its page cache, also from one opening to the next.
    Kept,
    /// The same, and writes are collected there.
    WrittenBack,
    /// Nothing.
    None,
    /// It reads and writes the plugin's descriptors by itself.
    Passthrough,
}

impl FromStr for Cache {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "kept" => Self::Kept,
            "written-back" => Self::WrittenBack,
            "none" => Self::None,
            "passthrough" => Self::Passthrough,
            _ => return Err(format!("{word:?} is none of kept, written-back, none, passthrough")),
        })
    }
}

/// A plugin behind FUSE.
pub struct Served {
    pub fs: Instance,
    pub nodes: Nodes,
    pub cache: Cache,
    pub backings: Backings,
}

/// A file as the kernel knows it.
pub struct Entry {
    pub node: u64,
    pub generation: Generation,
    pub attr: FileAttr,
}

pub type Answer<T> = Result<T, Errno>;

impl Served {
    pub fn new(fs: Instance, cache: Cache) -> Self {
        Self { fs, nodes: Nodes::new(), cache, backings: Backings::default() }
    }

    /// What the kernel is told of an entry that exists.
    pub fn entry(&self, parent: INodeNo, name: &CStr) -> Answer<Entry> {
        let path = self.nodes.child(parent.0, name).map_err(errno)?;
        let st = self.fs.getattr(at(&path)).map_err(errno)?;
        Ok(self.tell(parent, name, &st))
    }

    /// The same, when its attributes are known.
    pub fn tell(&self, parent: INodeNo, name: &CStr, st: &stat) -> Entry {
        let (node, generation) = self.nodes.tell(parent.0, name, st.st_ino);
        Entry { node, generation: Generation(generation), attr: attributes::of(node, st) }
    }

    pub fn attributes(&self, node: INodeNo, fh: Option<FileHandle>) -> Answer<stat> {
        match fh {
            Some(fh) => self.fs.fgetattr(&opened(fh)).map_err(errno),
            None => self.fs.getattr(at(&self.nodes.path(node.0).map_err(errno)?)).map_err(errno),
        }
    }

    /// The plugin's own handle is the kernel's.
    pub fn open_path(&self, path: &CStr, flags: i32, mode: u32) -> Answer<FileHandle> {
        let mut flags = flags & !libc::O_NOFOLLOW;
        if self.cache == Cache::WrittenBack {
            // The kernel reads what surrounds a store, and knows the end of the file itself.
            flags &= !libc::O_APPEND;
            if flags & libc::O_ACCMODE == libc::O_WRONLY {
                flags = flags & !libc::O_ACCMODE | libc::O_RDWR;
            }
        }
        match self.fs.open(at(path), flags, mode).map_err(errno)? {
            Open::Served { handle, .. } => Ok(FileHandle(handle.into_raw())),
            Open::Native { .. } => Err(Errno::ENOSYS),
        }
    }

    pub fn open_flags(&self) -> FopenFlags {
        match self.cache {
            Cache::Kept | Cache::WrittenBack => FopenFlags::FOPEN_KEEP_CACHE,
            Cache::None => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
            Cache::Passthrough => FopenFlags::empty(),
        }
    }

    pub fn backing(
        &self,
        node: u64,
        fh: FileHandle,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let handle = opened(fh);
        let fd = self.fs.backing_fd(&handle, Purpose::Map).ok()?;
        self.backings.open(node, fh.0, || register(fd)).ok()
    }

    pub fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
        make: impl FnOnce(&MountPath) -> plugin_abi::Result<()>,
    ) {
        let made = c_string(name).and_then(|name| {
            let path = self.nodes.child(parent.0, &name).map_err(errno)?;
            make(at(&path)).map_err(errno)?;
            self.entry(parent, &name)
        });
        match made {
            Ok(entry) => reply.entry(&TTL, &entry.attr, entry.generation),
            Err(error) => reply.error(error),
        }
    }

    pub fn remove(
        &self,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: impl FnOnce(&MountPath) -> plugin_abi::Result<()>,
    ) {
        let removed = c_string(name).and_then(|name| {
            let path = self.nodes.child(parent.0, &name).map_err(errno)?;
            remove(at(&path)).map_err(errno)?;
            self.nodes.unlink(parent.0, &name);
            Ok(())
        });
        done(removed, reply);
    }
}

pub fn done(result: Answer<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// The handle that the kernel was given; the kernel's `release` is what closes it.
pub fn opened(fh: FileHandle) -> ManuallyDrop<Handle> {
    // SAFETY: the kernel names only what `open_path` gave it and it has not released, and closes it once.
    ManuallyDrop::new(unsafe { Handle::from_raw(fh.0) })
}

pub fn at(path: &CStr) -> &MountPath {
    MountPath::from_normalised(path)
}

pub fn errno(error: plugin_abi::Errno) -> Errno {
    Errno::from_i32(error.raw())
}

pub fn c_string(name: &OsStr) -> Answer<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}
