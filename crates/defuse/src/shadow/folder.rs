//! Shadows in the session's folder on tmpfs: for mounts that are the session's own.
//!
//! The shadow of a file is a directory of its own, opened for reading, whose inode number names the slot of the arena. The shadow of a
//! directory is the other way round a file opened for writing, in which nothing can be listed, found or made. A process that is
//! not intercepted gets EISDIR, EBADF or ENODEV from every attempt to use either as a file.
//!
//! A shadow carries an open-file-description lock on its object. The kernel keeps it over fork and passing
//! and drops it with the last descriptor anywhere, so it tells whether a slot is still in use when
//! processes were killed.
//!
//! A slot has one object of each kind, whoever makes it and whoever uses it later: who looks for the lock must find the very object that the
//! others have open, and these may be processes of another user by now. So anybody can open one who finds it.

use std::io::Write;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use super::KIND;
use crate::file::stash_errno;
use crate::process::Process;
use crate::sync::{Guard, Lock};
use crate::{native, nofile, private_fd};

/// The private descriptor that placeholders are duplicates of; -1 until the first.
static PLACEHOLDER: AtomicI32 = AtomicI32::new(-1);

/// The common placeholder; opens it if there is none.
pub fn placeholder(process: &Process) -> Result<RawFd, Errno> {
    match PLACEHOLDER.load(Ordering::Relaxed) {
        -1 => open_placeholder(process),
        fd => Ok(fd),
    }
}

/// A duplicate of the common placeholder at the lowest free number.
pub fn place(process: &Process, cloexec: bool) -> Result<RawFd, Errno> {
    let command = u64::from(if cloexec { sys::F_DUPFD_CLOEXEC } else { sys::F_DUPFD });
    let duplicate = |of: RawFd| native::checked(sys::__NR_fcntl, [of as u64, command, 0, 0, 0, 0]);
    let fd = match duplicate(PLACEHOLDER.load(Ordering::Relaxed)) {
        // None yet, or a program that is not fully intercepted closed it.
        Err(Errno::BADF) => duplicate(open_placeholder(process)?)?,
        other => other?,
    };
    Ok(fd as RawFd)
}

fn open_placeholder(process: &Process) -> Result<RawFd, Errno> {
    // A directory that is gone: another thread may be about to make a name below a number that this comes to stand at.
    let fd = process.with_nowhere(|name| {
        let flags = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_CLOEXEC);
        native::new_fd(sys::__NR_open, [name, flags, 0, 0, 0, 0]).map(|fd| fd as u64)
    })? as RawFd;
    let private = private_fd::take(fd)?;
    let former = PLACEHOLDER.swap(private, Ordering::AcqRel);
    if former >= 0 {
        private_fd::forget(former);
    }
    Ok(private)
}

/// Whether that is a placeholder, of whatever process: see [`open_placeholder`].
pub fn is_placeholder(process: &Process, looked: &sys::stat) -> bool {
    looked.st_mode & sys::S_IFMT == sys::S_IFDIR
        && is_empty_directory(process, looked.st_dev, looked.st_ino, looked.st_nlink)
}

/// Whether a directory is one of the session's in which nothing can be found or made: see [`Process::with_nowhere`].
pub fn is_empty_directory(process: &Process, device: u64, inode: u64, links: u64) -> bool {
    let null = || native::stat_at(sys::AT_FDCWD, folder_path(process, "null", None).as_ptr() as u64);
    device == process.folder_device && (links == 0 || null().is_ok_and(|null| null.st_ino == inode))
}

/// Which object in the session's folder stands for a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    /// For a file: an empty directory, opened for reading. Reading it is EISDIR, writing EBADF, mapping ENODEV.
    Directory,
    /// For a directory: an empty file, opened for writing. Listing it, entering it and names relative to it are ENOTDIR.
    File,
}

impl Object {
    /// The one that stands for the description in `slot`.
    fn of(process: &Process, slot: SlotId) -> Result<Self, Errno> {
        let kind = process.arena.slot(slot).map_err(stash_errno)?.user_words()[KIND].load(Ordering::Relaxed);
        Ok(if kind as u32 == sys::S_IFDIR { Self::File } else { Self::Directory })
    }

    fn path(self, process: &Process, slot: SlotId) -> ArrayVec<u8, 4096> {
        match self {
            Self::Directory => folder_path(process, "slots/", Some(slot)),
            Self::File => folder_path(process, "slots/d", Some(slot)),
        }
    }

    fn open(self, path: &ArrayVec<u8, 4096>, cloexec: bool) -> Result<RawFd, Errno> {
        native::new_fd(sys::__NR_open, self.open_call(path, cloexec))
    }

    /// The arguments of open(2).
    fn open_call(self, path: &ArrayVec<u8, 4096>, cloexec: bool) -> [u64; 6] {
        let cloexec = if cloexec { sys::O_CLOEXEC } else { 0 };
        let kind = match self {
            Self::Directory => sys::O_RDONLY | sys::O_DIRECTORY,
            Self::File => sys::O_WRONLY,
        };
        [path.as_ptr() as u64, u64::from(kind | cloexec | sys::O_NOFOLLOW), 0, 0, 0, 0]
    }

    /// Anybody of the session may open it; nobody else knows the folder, and only its maker, who could do so anyway, may make names in it.
    fn mode(self) -> u32 {
        match self {
            Self::Directory => 0o744,
            Self::File => 0o622,
        }
    }

    fn make(self, path: &ArrayVec<u8, 4096>) -> Result<(), Errno> {
        let name = path.as_ptr() as u64;
        let mode = u64::from(self.mode());
        let made = match self {
            Self::Directory => native::checked(sys::__NR_mkdir, [name, mode, 0, 0, 0, 0]),
            Self::File => {
                native::checked(sys::__NR_mknod, [name, u64::from(sys::S_IFREG) | mode, 0, 0, 0, 0])
            }
        };
        match made {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the object `fd`, which has the mode `found`, what the umask of its maker took. Whoever meets it next does so if that one was killed before,
    /// unless it is of another user still.
    fn open_to_all(self, fd: RawFd, found: u32) {
        if found & self.mode() != self.mode() {
            native::raw_call(sys::__NR_fchmod, [fd as u64, u64::from(self.mode()), 0, 0, 0, 0]);
        }
    }

    /// Locks the description `fd` of it, beside those that there may be already: who takes a file out of a process that has it for itself makes one,
    /// and that process, which knows nothing of it, another.
    fn lock(self, fd: RawFd) -> Result<(), Errno> {
        let set = |kind, byte| lock_call(fd, sys::F_OFD_SETLK, kind, byte).map(drop);
        match self {
            Self::Directory => set(sys::F_RDLCK, WHOLE),
            // What is open for writing can only be locked alone: each has a byte of its own.
            Self::File => (0..DESCRIPTIONS_MAX)
                .map(|byte| set(sys::F_WRLCK, byte..byte + 1))
                .find(|locked| *locked != Err(Errno::AGAIN))
                .unwrap_or(Err(Errno::NOLCK)),
        }
    }
}

/// A shadow: opens the slot's own object, making it at the slot's first use, and locks the description.
pub fn open(process: &Process, slot: SlotId, cloexec: bool) -> Result<RawFd, Errno> {
    let object = Object::of(process, slot)?;
    let path = object.path(process, slot);
    let fd = match object.open(&path, cloexec) {
        Err(Errno::NOENT) => {
            object.make(&path)?;
            object.open(&path, cloexec)?
        }
        other => other?,
    };
    let ready = object.lock(fd).and_then(|()| {
        let (mode, _, inode) = crate::file::identity(fd).ok_or(Errno::IO)?;
        object.open_to_all(fd, mode);
        let shared = process.arena.slot(slot).map_err(stash_errno)?;
        if shared.shadow() != inode {
            shared.set_shadow(inode).map_err(stash_errno)?;
        }
        shared.mark_shared().map_err(stash_errno)
    });
    if let Err(error) = ready {
        native::close(fd);
        return Err(error);
    }
    Ok(fd)
}

/// Whether any descriptor of the slot's object is open anywhere: then its lock forbids a write lock. The slot is one that has been shared, so there is
/// an object.
pub fn is_held(process: &Process, slot: SlotId) -> bool {
    // When it cannot be known, a leaked slot is better than one that two files share: in another root directory the folder is not found.
    let Ok(object) = Object::of(process, slot) else { return true };
    let path = object.path(process, slot);
    let look = || {
        let _passing = PASSING.lock();
        let fd = native::checked(sys::__NR_open, object.open_call(&path, true))? as RawFd;
        let found = lock_call(fd, sys::F_OFD_GETLK, sys::F_WRLCK, WHOLE);
        native::close(fd);
        found
    };
    match look() {
        Err(Errno::MFILE) => nofile::with_room(look),
        looked => looked,
    }
    .map_or_else(|_| true, |kind| kind != sys::F_UNLCK)
}

/// Held while a shadow is at one of the program's numbers for a moment, to be looked at: a forked child would keep it there. Whoever has it
/// waits for no other lock but the heap's, which a fork takes later.
static PASSING: Lock<()> = Lock::new(());

/// As long as the guard is held there is no such shadow. Whoever has it waits for no other lock but the heap's.
pub fn nothing_passes() -> Guard<'static, ()> {
    PASSING.lock()
}

/// Before a fork, as the last lock, and [`after_fork`] on both sides.
pub fn before_fork() {
    PASSING.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    PASSING.release();
}

/// All bytes, however many there are.
const WHOLE: Range<i64> = 0..0;
/// Shadows of one description.
const DESCRIPTIONS_MAX: i64 = 4096;

fn lock_call(fd: RawFd, command: u32, kind: u32, bytes: Range<i64>) -> Result<u32, Errno> {
    let mut lock = sys::flock {
        l_type: kind as _,
        l_whence: sys::SEEK_SET as _,
        l_start: bytes.start,
        l_len: bytes.end - bytes.start,
        l_pid: 0,
    };
    let lock_pointer = (&raw mut lock) as u64;
    native::checked(sys::__NR_fcntl, [fd as u64, u64::from(command), lock_pointer, 0, 0, 0])?;
    Ok(lock.l_type as u32)
}

/// `<folder>/<below>`, or `<shared folder>/<below><slot index>`, with its NUL.
fn folder_path(process: &Process, below: &str, slot: Option<SlotId>) -> ArrayVec<u8, 4096> {
    let mut path = ArrayVec::new();
    // The folder's path is short (checked when the session was opened), so this cannot fail.
    let _ = path.write_all(if slot.is_some() { &process.shared_folder } else { &process.folder });
    let _ = write!(path, "/{below}");
    if let Some(slot) = slot {
        let _ = write!(path, "{}", slot.index);
    }
    let _ = path.write_all(b"\0");
    path
}
