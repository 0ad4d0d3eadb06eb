//! Names: directories, links, and what is asked of a path.

use super::{Handle, Instance, missing};
use crate::abi::{self, RawMore};
use crate::errno::{Errno, Result};
use crate::path::MountPath;
use crate::types::{DirEntry, DirSink, MoreAttributes, empty_statfs};
use core::ffi::{CStr, c_int, c_void};
use libc::statfs;

impl Instance {
    /// Hands entries from `cookie` on to `emit` until it returns `true`.
    ///
    /// A name that is empty, longer than 255 bytes, or holds `/` or NUL ends the call with `EIO`.
    /// `emit` must not call this instance: a serialised plugin is locked meanwhile, and others may be.
    pub fn readdir(&self, handle: &Handle, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let mut relay = Relay { emit, stopped: false, wrong: false };
        let answer = op!(self.readdir(handle.0, cookie, relay_entry, (&raw mut relay).cast()));
        if relay.wrong {
            return Err(self.impossible("readdir", format_args!("gave a name that no file can have")));
        }
        answer
    }

    /// What [`getattr`](Self::getattr) cannot tell; nothing, if the plugin has no more to say.
    pub fn getmore(&self, path: &MountPath) -> Result<MoreAttributes> {
        let mut more = RawMore::EMPTY;
        let answer = op!(self.getmore(path.as_c_str().as_ptr(), &raw mut more));
        self.more("getmore", answer, more)
    }

    /// The same of an open file.
    pub fn fgetmore(&self, handle: &Handle) -> Result<MoreAttributes> {
        let mut more = RawMore::EMPTY;
        let answer = op!(self.fgetmore(handle.0, &raw mut more));
        self.more("fgetmore", answer, more)
    }

    fn more(&self, operation: &str, answer: Result<()>, more: RawMore) -> Result<MoreAttributes> {
        match answer {
            Err(Errno::ENOSYS) => Ok(MoreAttributes::default()),
            Err(other) => Err(other),
            Ok(()) if !(0..1_000_000_000).contains(&more.btime.tv_nsec) => {
                Err(self.impossible(operation, format_args!("gave {} nanoseconds", more.btime.tv_nsec)))
            }
            Ok(()) => Ok(more.into()),
        }
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        op!(self.mkdir(path.as_c_str().as_ptr(), mode))
    }

    /// Removes a directory.
    pub fn rmdir(&self, path: &MountPath) -> Result<()> {
        op!(self.rmdir(path.as_c_str().as_ptr()))
    }

    /// Removes a name.
    pub fn unlink(&self, path: &MountPath) -> Result<()> {
        op!(self.unlink(path.as_c_str().as_ptr()))
    }

    /// renameat2(2).
    pub fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        op!(self.rename(old.as_c_str().as_ptr(), new.as_c_str().as_ptr(), flags))
    }

    /// Another name for a file.
    pub fn link(&self, path: &MountPath, new: &MountPath) -> Result<()> {
        op!(self.link(path.as_c_str().as_ptr(), new.as_c_str().as_ptr()))
    }

    /// A name for an open file.
    pub fn flink(&self, handle: &Handle, new: &MountPath) -> Result<()> {
        op!(self.flink(handle.0, new.as_c_str().as_ptr()))
    }

    /// Makes a symbolic link at `path`.
    pub fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        op!(self.symlink(target.as_ptr(), path.as_c_str().as_ptr()))
    }

    /// Reads a symbolic link into `buf`; returns how many bytes, cut at the buffer's length.
    pub fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let mut len = 0;
        op!(self.readlink(path.as_c_str().as_ptr(), buf.as_mut_ptr().cast(), buf.len(), &raw mut len))?;
        let len = self.at_most("readlink", len, buf.len())?;
        if buf[..len].contains(&0) {
            return Err(self.impossible("readlink", format_args!("gave a target with a NUL in it")));
        }
        Ok(len)
    }

    /// mknod(2).
    pub fn mknod(&self, path: &MountPath, mode: u32, dev: u64) -> Result<()> {
        op!(self.mknod(path.as_c_str().as_ptr(), mode, dev))
    }

    /// faccessat2(2) on the file itself; `flags` may hold `AT_EACCESS`.
    pub fn access(&self, path: &MountPath, mode: c_int, flags: c_int) -> Result<()> {
        match op!(self.access(path.as_c_str().as_ptr(), mode, flags)) {
            Err(Errno::ENOSYS) => crate::permission::check(&self.getattr(path)?, mode, flags),
            answer => answer,
        }
    }

    /// statfs(2).
    pub fn statfs(&self, path: &MountPath) -> Result<statfs> {
        let mut out = empty_statfs();
        let answer = op!(self.statfs(path.as_c_str().as_ptr(), &raw mut out)).map(|()| out);
        missing(answer, Ok(default_statfs()))
    }

    /// fstatfs(2).
    pub fn fstatfs(&self, handle: &Handle) -> Result<statfs> {
        let mut out = empty_statfs();
        let answer = op!(self.fstatfs(handle.0, &raw mut out)).map(|()| out);
        missing(answer, Ok(default_statfs()))
    }

    /// syncfs(2).
    pub fn syncfs(&self) -> Result<()> {
        missing(op!(self.syncfs()), Ok(()))
    }
}

struct Relay<'a, 'b> {
    emit: &'a mut DirSink<'b>,
    stopped: bool,
    wrong: bool,
}

unsafe extern "C" fn relay_entry(
    ctx: *mut c_void,
    name: *const core::ffi::c_char,
    len: usize,
    ino: u64,
    d_type: u32,
    next_cookie: u64,
) -> c_int {
    // SAFETY: `ctx` is the relay on the stack of `Instance::readdir`, used by this thread only.
    let relay = unsafe { &mut *ctx.cast::<Relay<'_, '_>>() };
    if relay.stopped || relay.wrong {
        return 1;
    }
    if name.is_null() || len == 0 || len > 255 {
        relay.wrong = true;
        return 1;
    }
    // SAFETY: the plugin passes `len` readable bytes, and `len` is no more than a name may have.
    let name = unsafe { core::slice::from_raw_parts(name.cast::<u8>(), len) };
    if name.iter().any(|&b| b == b'/' || b == 0) {
        relay.wrong = true;
        return 1;
    }
    // A reader that finds inode 0 takes the entry for a deleted one.
    let ino = if ino == 0 { u64::from(u32::MAX) } else { ino };
    relay.stopped = (relay.emit)(DirEntry { name, ino, d_type: d_type as u8, next_cookie });
    c_int::from(relay.stopped)
}

/// For a plugin that has no statfs: nothing is known but the limits of names.
fn default_statfs() -> statfs {
    let mut out = empty_statfs();
    out.f_type = i64::from(abi::DEFUSE_MAGIC);
    out.f_bsize = 4096;
    out.f_frsize = 4096;
    out.f_namelen = 255;
    out
}
