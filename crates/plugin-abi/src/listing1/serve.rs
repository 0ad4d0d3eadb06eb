//! The trait over the listing.

use super::Listing1;
use crate::errno::{Errno, Result};
use crate::filesystem::FileSystem;
use crate::host::Level;
use crate::path::MountPath;
use crate::types::{
    Capabilities, DirEntry, DirSink, InitError, Open, SaveSink, SetAttr, SetTime, Setup, Written, empty_stat,
};
use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering;
use libc::{off_t, stat, utimbuf};
use std::ffi::CString;
use std::sync::Mutex;

/// An open file or directory. The listing knows directories by path only.
pub(super) struct OpenFile {
    fh: Option<u64>,
    path: CString,
    /// As they were when the listing was last begun; none when this handle has not listed yet.
    entries: Mutex<Option<Vec<Entry>>>,
}

/// The most entries that room is made for because the plugin says that there are so many.
const MOST_COUNTED: usize = 1 << 16;
/// Room for the most entries of a directory, one of which must stay free: a gigabyte of the listing's records.
const MOST_ENTRIES: usize = 1 << 22;

struct Entry {
    name: Vec<u8>,
    ino: u64,
    d_type: u8,
}

/// Calls a function of the listing, if it is there.
macro_rules! call {
    ($self:ident.$name:ident($($arg:expr),*)) => {
        match $self.library.functions.$name {
            None => Err(Errno::ENOSYS),
            // SAFETY: the listing's prototype; strings and buffers outlive the call.
            Some(function) => $self.checked(stringify!($name), unsafe { function($($arg),*) }),
        }
    };
}

impl Listing1 {
    fn checked(&self, name: &str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            1..=4095 => Err(Errno::from_raw(code)),
            _ => {
                let line = format_args!("plugin: {name} returned {code}, which is no errno; reported as EIO");
                self.host.log(Level::Error, line);
                Err(Errno::EIO)
            }
        }
    }

    /// As the paper has it: `access` is asked before a file is opened.
    fn check_access(&self, path: &MountPath, flags: c_int) -> Result<()> {
        let exclusive = libc::O_CREAT | libc::O_EXCL;
        if flags & exclusive == exclusive {
            // Nothing may be there, not even a symbolic link that `access` would follow.
            return Ok(());
        }
        let mode = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => libc::R_OK,
            libc::O_WRONLY => libc::W_OK,
            _ => libc::R_OK | libc::W_OK,
        };
        match self.access(path, mode, libc::AT_EACCESS) {
            // A file that is not there is `open`'s to make or to miss.
            Err(Errno::ENOSYS | Errno::ENOENT) => Ok(()),
            answer => answer,
        }
    }

    fn list(&self, path: &CStr) -> Result<Vec<Entry>> {
        let mut count: c_int = 0;
        let mut room = match call!(self.getdircount(path.as_ptr(), &raw mut count)) {
            Ok(()) => usize::try_from(count).map_err(|_| {
                let line = format_args!("plugin: getdircount reports {count} entries; reported as EIO");
                self.host.log(Level::Error, line);
                Errno::EIO
            })?,
            Err(_) => 240,
        };
        // The count is a hint: what it says is not taken of the program's memory before there are as many.
        room = room.min(MOST_COUNTED) + 16;
        loop {
            room = room.min(MOST_ENTRIES);
            let mut buf: Vec<libc::dirent> = Vec::new();
            buf.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
            // SAFETY: `dirent` is integers only.
            buf.resize(room, unsafe { core::mem::zeroed() });
            let (start, bytes, mut written) = (buf.as_mut_ptr(), room * size_of::<libc::dirent>(), 0);
            call!(self.getdirents(path.as_ptr(), start.cast(), bytes, &raw mut written))?;
            if written > room {
                let line = format_args!(
                    "plugin: getdirents reports {written} entries in room for {room}; reported as EIO"
                );
                self.host.log(Level::Error, line);
                return Err(Errno::EIO);
            }
            if written < room {
                buf.truncate(written);
                return Ok(buf.iter().map(Entry::from).filter(Entry::is_child).collect());
            }
            if room == MOST_ENTRIES {
                let line = format_args!(
                    "plugin: getdirents fills the room for {room} entries, which is all there is; reported as EIO"
                );
                self.host.log(Level::Error, line);
                return Err(Errno::EIO);
            }
            room *= 4;
        }
    }

    fn set_times(&self, path: &CStr, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let old = self.getattr(MountPath::from_normalised(path))?;
        let now = || rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let seconds = |time: Option<SetTime>, old| match time {
            None => old,
            Some(SetTime::Now) => now(),
            Some(SetTime::At(at)) => at.tv_sec,
        };
        let times = utimbuf { actime: seconds(atime, old.st_atime), modtime: seconds(mtime, old.st_mtime) };
        call!(self.utime(path.as_ptr(), &raw const times))
    }
}

impl From<&libc::dirent> for Entry {
    fn from(raw: &libc::dirent) -> Self {
        let name = raw.d_name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
        Self { name, ino: raw.d_ino, d_type: raw.d_type }
    }
}

impl Entry {
    fn is_child(&self) -> bool {
        !matches!(self.name.as_slice(), b"." | b"..")
    }
}

impl FileSystem for Listing1 {
    type Handle = Box<OpenFile>;
    const NAME: &'static CStr = c"listing1";
    const CAPABILITIES: Capabilities = Capabilities::FOLLOWS_SYMLINKS;

    /// Instances are made by [`Library::instantiate`], which knows the functions.
    fn init(_: &Setup<'_>) -> Result<Self, InitError> {
        Err(Errno::ENOSYS.into())
    }

    fn finalize(self) {
        if let Some(finalize) = self.library.functions.finalize {
            // SAFETY: the listing's prototype; the last call.
            unsafe { finalize() };
        }
        self.library.in_use.store(false, Ordering::Release);
    }

    fn getattr(&self, path: &MountPath) -> Result<stat> {
        let mut st = empty_stat();
        call!(self.getattr(path.as_c_str().as_ptr(), &raw mut st, libc::AT_SYMLINK_NOFOLLOW)).map(|()| st)
    }

    fn fgetattr(&self, handle: &Self::Handle) -> Result<stat> {
        if let Some(fh) = handle.fh {
            let mut st = empty_stat();
            match call!(self.fgetattr(fh, &raw mut st)) {
                Err(Errno::ENOSYS) => {}
                answer => return answer.map(|()| st),
            }
        }
        self.getattr(MountPath::from_normalised(&handle.path))
    }

    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        let name = path.as_c_str();
        if let Some(size) = attr.size {
            call!(self.trunc(name.as_ptr(), size as off_t))?;
        }
        if attr.uid.is_some() || attr.gid.is_some() {
            let keep = u32::MAX;
            call!(self.chown(name.as_ptr(), attr.uid.unwrap_or(keep), attr.gid.unwrap_or(keep)))?;
        }
        if let Some(mode) = attr.mode {
            call!(self.chmod(name.as_ptr(), mode))?;
        }
        if attr.atime.is_some() || attr.mtime.is_some() {
            self.set_times(name, attr.atime, attr.mtime)?;
        }
        Ok(())
    }

    fn fsetattr(&self, handle: &Self::Handle, attr: &SetAttr) -> Result<()> {
        let mut rest = *attr;
        if let (Some(size), Some(fh)) = (attr.size, handle.fh) {
            match call!(self.ftruncate(fh, size as off_t)) {
                Err(Errno::ENOSYS) => {}
                answer => {
                    answer?;
                    rest.size = None;
                }
            }
        }
        self.setattr(MountPath::from_normalised(&handle.path), &rest)
    }

    fn open(&self, path: &MountPath, flags: c_int, mode: u32) -> Result<Open<Self::Handle>> {
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return Err(Errno::EOPNOTSUPP);
        }
        let opened = |fh| {
            let path = path.as_c_str().to_owned();
            Ok(Open::served(Box::new(OpenFile { fh, path, entries: Mutex::new(None) })))
        };
        if flags & libc::O_PATH != 0 {
            self.getattr(path)?;
            return opened(None);
        }
        if flags & libc::O_DIRECTORY != 0 {
            let is_directory = self.getattr(path)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            return if is_directory { opened(None) } else { Err(Errno::ENOTDIR) };
        }
        self.check_access(path, flags)?;
        let mut fh = 0;
        let flags = flags | libc::O_NOFOLLOW;
        match call!(self.open(path.as_c_str().as_ptr(), flags, mode, &raw mut fh)) {
            Ok(()) => opened(Some(fh)),
            // A library that opens only files; the directory is served by its path.
            Err(Errno::EISDIR)
                if flags & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) == libc::O_RDONLY =>
            {
                opened(None)
            }
            Err(errno) => Err(errno),
        }
    }

    fn close(&self, handle: Self::Handle) -> Result<()> {
        handle.fh.map_or(Ok(()), |fh| call!(self.close(fh)))
    }

    fn read(&self, handle: &Self::Handle, buf: &mut [u8], offset: u64) -> Result<usize> {
        let fh = handle.fh.ok_or(Errno::EISDIR)?;
        let mut count = 0;
        call!(self.read(fh, buf.as_mut_ptr().cast(), buf.len(), offset as off_t, &raw mut count))
            .map(|()| count)
    }

    fn write(&self, handle: &Self::Handle, buf: &[u8], offset: u64, _append: bool) -> Result<Written> {
        let fh = handle.fh.ok_or(Errno::EBADF)?;
        let mut count = 0;
        call!(self.write(fh, buf.as_ptr().cast(), buf.len(), offset as off_t, &raw mut count))?;
        Ok(Written { count, end: offset + count as u64 })
    }

    fn fsync(&self, handle: &Self::Handle, datasync: bool) -> Result<()> {
        handle.fh.map_or(Ok(()), |fh| call!(self.fsync(fh, c_int::from(datasync))))
    }

    fn readdir(&self, handle: &Self::Handle, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let mut entries = handle.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A handle that was made anew, by exec or in a child, goes on where another one has begun.
        if cookie == 0 || entries.is_none() {
            *entries = None;
            *entries = Some(self.list(&handle.path)?);
        }
        let ino = self.getattr(MountPath::from_normalised(&handle.path)).map_or(0, |st| st.st_ino);
        let dots = [b".", b"..".as_slice()].map(|name| (name, ino, libc::DT_DIR));
        let children = entries.iter().flatten().map(|entry| (entry.name.as_slice(), entry.ino, entry.d_type));
        let from = usize::try_from(cookie).map_err(|_| Errno::EINVAL)?;
        for (at, (name, ino, d_type)) in dots.into_iter().chain(children).enumerate().skip(from) {
            if emit(DirEntry { name, ino, d_type, next_cookie: at as u64 + 1 }) {
                break;
            }
        }
        Ok(())
    }

    fn mkdir(&self, path: &MountPath, mode: u32) -> Result<()> {
        call!(self.mkdir(path.as_c_str().as_ptr(), mode))
    }

    fn rmdir(&self, path: &MountPath) -> Result<()> {
        call!(self.rmdir(path.as_c_str().as_ptr()))
    }

    fn unlink(&self, path: &MountPath) -> Result<()> {
        call!(self.unlink(path.as_c_str().as_ptr()))
    }

    fn rename(&self, old: &MountPath, new: &MountPath, flags: u32) -> Result<()> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        call!(self.rename(old.as_c_str().as_ptr(), new.as_c_str().as_ptr()))
    }

    fn symlink(&self, target: &CStr, path: &MountPath) -> Result<()> {
        call!(self.symlink(target.as_ptr(), path.as_c_str().as_ptr()))
    }

    fn readlink(&self, path: &MountPath, buf: &mut [u8]) -> Result<usize> {
        let mut len = 0;
        call!(self.readlink(path.as_c_str().as_ptr(), buf.as_mut_ptr().cast(), buf.len(), &raw mut len))
            .map(|()| len)
    }

    fn mknod(&self, path: &MountPath, mode: u32, _dev: u64) -> Result<()> {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::EPERM);
        }
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        let mut fh = 0;
        call!(self.open(path.as_c_str().as_ptr(), flags, mode & 0o7777, &raw mut fh))?;
        call!(self.close(fh))
    }

    fn access(&self, path: &MountPath, mode: c_int, _flags: c_int) -> Result<()> {
        call!(self.access(path.as_c_str().as_ptr(), mode))
    }

    fn save(&self, handle: &Self::Handle, sink: &mut SaveSink<'_>) -> Result<()> {
        if let Some(fh) = handle.fh {
            call!(self.save(fh))?;
        }
        sink.write(&[u8::from(handle.fh.is_some())]);
        sink.write(&handle.fh.unwrap_or(0).to_le_bytes());
        sink.write(handle.path.to_bytes());
        Ok(())
    }

    fn restore(&self, blob: &[u8], _fds: &[c_int]) -> Result<Open<Self::Handle>> {
        let (head, path) = blob.split_at_checked(9).ok_or(Errno::EINVAL)?;
        let fh = u64::from_le_bytes(head[1..].try_into().map_err(|_| Errno::EINVAL)?);
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        let fh = (head[0] == 1).then_some(fh);
        if let Some(fh) = fh {
            call!(self.restore(fh))?;
        }
        Ok(Open::served(Box::new(OpenFile { fh, path, entries: Mutex::new(None) })))
    }
}
