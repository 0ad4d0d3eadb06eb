//! Locks of files whose plugin keeps none: the kernel's own, on a file of the session that stands for the inode.
//!
//! - *Record locks* belong to the process: one private descriptor of the lock file per inode, opened when first used. The
//!   kernel keeps `l_pid` and `EDEADLK`, leaves them with the parent at fork and drops them at death; at each close of the
//!   inode by the process we drop them ([`drop_records`]), as fcntl(2) says.
//! - *OFD locks and flock* belong to the description: a *companion*, a description of the same lock file, so that the kinds
//!   conflict as they should. It must go wherever the description goes. So it is opened at the latest when the description
//!   becomes a shadow ([`share`]); fork copies it, exec keeps it ([`for_exec`]). It does not go with an FD that is passed
//!   over a socket or that a vfork child has opened: there these locks are `ENOLCK`.
//!
//! The kernel drops a process's record locks on a file when the process closes *any* descriptor of it, ours too: while
//! there may be record locks no descriptor of the lock file is opened (which means to move it, and to close the first
//! number) or closed. So the first record lock comes with the file's companion and a spare one, for the next description
//! that needs one; a companion that is not needed any more is parked.

mod exec;
mod on_disk;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::{Instance, flock as RecordLock};
use rustix::io::Errno;
use stash::SlotId;

use crate::file::OpenFile;
use crate::process::Process;
use crate::sync::{Guard, Lock};
use crate::{native, private_fd, trace};

pub use exec::{attach, companion_of, concern, for_exec, inherit, is_unused};

/// Mount, device, inode number.
type Inode = [u64; 3];

/// No descriptor yet.
const NONE: RawFd = -1;
/// The description came from another process without its companion.
const ELSEWHERE: RawFd = -2;

/// The lock files that this process uses. A thread that holds it waits for nothing but an inode lock of the arena.
static ENTRIES: Lock<Vec<Entry>> = Lock::new(Vec::new());
/// Companions that came through exec and whose files have not been touched yet.
static INHERITED: Lock<Vec<(SlotId, RawFd)>> = Lock::new(Vec::new());
/// The process has used record locks here.
static RECORDS: AtomicBool = AtomicBool::new(false);
/// The number of the last entry.
static LAST: AtomicU64 = AtomicU64::new(0);

/// One inode.
struct Entry {
    id: u64,
    inode: Inode,
    /// Open files of this process that have used locks.
    users: u32,
    /// For the record locks.
    records: RawFd,
    /// Opened together with it.
    spare: RawFd,
    /// Companions of closed descriptions.
    parked: Vec<RawFd>,
    /// Threads that are about to set a record lock.
    pending: u32,
    /// There may be record locks.
    held: bool,
    /// A description of the previous image that had used locks.
    untouched: Option<SlotId>,
}

impl Entry {
    fn new(inode: Inode) -> Self {
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self {
            id,
            inode,
            users: 0,
            records: NONE,
            spare: NONE,
            parked: Vec::new(),
            pending: 0,
            held: false,
            untouched: None,
        }
    }

    /// Whether no descriptor of the lock file may be closed.
    fn is_fixed(&self) -> bool {
        self.held || self.pending > 0
    }
}

/// What an open file has here.
pub struct Held {
    /// Its entry, 0 if it has not used locks.
    entry: AtomicU64,
    companion: AtomicI32,
}

impl Held {
    /// Of a file that this process has opened.
    pub const fn new() -> Self {
        Self { entry: AtomicU64::new(0), companion: AtomicI32::new(NONE) }
    }
}

/// Who keeps the locks of a mount's files; asked once.
pub struct Keepers {
    records: AtomicU8,
    whole: AtomicU8,
}

const UNKNOWN: u8 = 0;
const PLUGIN: u8 = 1;
const SESSION: u8 = 2;

impl Keepers {
    /// Not known yet.
    pub const fn new() -> Self {
        Self { records: AtomicU8::new(UNKNOWN), whole: AtomicU8::new(UNKNOWN) }
    }
}

/// Whether fcntl's locks on `file` are kept here: its plugin keeps none.
pub fn keeps_records(process: &Process, file: &OpenFile) -> bool {
    keeps(&process.mounts[file.mount].keepers.records, || {
        let mut lock = whole_file(sys::F_RDLCK);
        file.with_handle(|instance, handle| instance.lock(handle, sys::F_GETLK as i32, &mut lock))
    })
}

/// As [`keeps_records`], for flock.
pub fn keeps_whole(process: &Process, file: &OpenFile) -> bool {
    // The file may have a lock from before exec, so the question is none of the operations.
    keeps(&process.mounts[file.mount].keepers.whole, || {
        file.with_handle(|instance, handle| instance.flock(handle, sys::LOCK_NB as i32))
    })
}

fn keeps(known: &AtomicU8, ask: impl FnOnce() -> Result<(), Errno>) -> bool {
    let keeper = match known.load(Ordering::Relaxed) {
        UNKNOWN => {
            let keeper = if ask() == Err(Errno::NOSYS) { SESSION } else { PLUGIN };
            known.store(keeper, Ordering::Relaxed);
            keeper
        }
        keeper => keeper,
    };
    keeper == SESSION
}

/// Runs `set` with the descriptor that carries the process's record locks on the file. While it runs, and after it unless
/// it unlocks, no descriptor of the lock file is closed.
pub fn with_records(
    process: &Process,
    file: &OpenFile,
    sets: bool,
    set: impl FnOnce(RawFd) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let inode = inode_of(file)?;
    // A vfork child's locks are its own, and nothing to its parent, whose memory this is.
    let sets = sets && !interpose::in_vfork_child();
    let (id, fd) = {
        let mut entries = ENTRIES.lock();
        let entry = entry_of(&mut entries, file, inode)?;
        if entry.records == NONE {
            if interpose::in_vfork_child() {
                return Err(Errno::NOLCK); // The descriptor would be the child's, and this memory the parent's.
            }
            entry.records = on_disk::open(process, inode)?;
            entry.spare = on_disk::open(process, inode).unwrap_or(NONE);
            if file.locks.companion.load(Ordering::Relaxed) == NONE {
                let companion = on_disk::open(process, inode).unwrap_or(NONE);
                file.locks.companion.store(companion, Ordering::Release);
            }
            RECORDS.store(true, Ordering::Release);
        }
        entry.pending += u32::from(sets);
        (entry.id, entry.records)
    };
    let result = set(fd);
    if sets && let Some(entry) = ENTRIES.lock().iter_mut().find(|entry| entry.id == id) {
        entry.pending -= 1;
        entry.held |= result.is_ok();
    }
    result
}

/// The descriptor that carries the OFD locks and the flock of the description.
pub fn companion(process: &Process, file: &OpenFile) -> Result<RawFd, Errno> {
    let known = || match file.locks.companion.load(Ordering::Acquire) {
        NONE => None,
        ELSEWHERE => Some(Err(Errno::NOLCK)),
        fd => Some(Ok(fd)),
    };
    if let Some(known) = known() {
        return known;
    }
    if interpose::in_vfork_child() {
        return Err(Errno::NOLCK);
    }
    let inode = inode_of(file)?;
    let mut entries = ENTRIES.lock();
    if let Some(known) = known() {
        return known;
    }
    let entry = entry_of(&mut entries, file, inode)?;
    let fd = if entry.is_fixed() {
        std::mem::replace(&mut entry.spare, NONE)
    } else {
        on_disk::open(process, inode)?
    };
    if fd == NONE {
        return Err(Errno::NOLCK);
    }
    file.locks.companion.store(fd, Ordering::Release);
    Ok(fd)
}

/// The description is about to be known to other processes: so must its companion be.
pub fn share(process: &Process, file: &OpenFile) {
    if file.open_flags & sys::O_PATH != 0
        || file.locks.companion.load(Ordering::Relaxed) != NONE
        || !(keeps_whole(process, file) || keeps_records(process, file))
    {
        return;
    }
    if let Err(error) = companion(process, file) {
        trace::debug(format_args!("a file has no flock and OFD locks from here on: {error}"));
        file.locks.companion.store(ELSEWHERE, Ordering::Release);
    }
}

/// A process that closes any FD of a file loses its record locks on it (fcntl(2)).
pub fn drop_records(process: &Process, file: &OpenFile) {
    if !RECORDS.load(Ordering::Acquire) {
        return;
    }
    let Ok(inode) = inode_of(file) else { return };
    let mut entries = ENTRIES.lock();
    let Some(at) = entries.iter().position(|entry| entry.inode == inode) else { return };
    let entry = &mut entries[at];
    if entry.records == NONE || !entry.is_fixed() {
        return;
    }
    let lock = whole_file(sys::F_UNLCK);
    let lock = std::ptr::from_ref(&lock) as u64;
    native::raw_call(sys::__NR_fcntl, [entry.records as u64, u64::from(sys::F_SETLK), lock, 0, 0, 0]);
    entry.held = false;
    if entry.pending > 0 {
        return;
    }
    entry.parked.drain(..).for_each(private_fd::close);
    if entry.users == 0 {
        let entry = entries.swap_remove(at);
        close_all(process, &entry);
    } else if entry.spare == NONE {
        entry.spare = on_disk::open(process, inode).unwrap_or(NONE);
    }
}

/// An open file is gone: its companion goes, and the lock file if nobody else uses it.
pub fn let_go(process: &Process, held: &Held) {
    let id = held.entry.load(Ordering::Relaxed);
    if id == 0 {
        return;
    }
    let companion = held.companion.load(Ordering::Relaxed);
    let mut entries = ENTRIES.lock();
    let Some(at) = entries.iter().position(|entry| entry.id == id) else { return };
    let entry = &mut entries[at];
    entry.users -= 1;
    if companion >= 0 {
        entry.parked.push(companion);
    }
    if entry.users == 0 {
        let entry = entries.swap_remove(at);
        close_all(process, &entry);
    } else if !entry.is_fixed() {
        entry.parked.drain(..).for_each(private_fd::close);
    }
}

fn close_all(process: &Process, entry: &Entry) {
    for &fd in [entry.records, entry.spare].iter().chain(&entry.parked).filter(|&&fd| fd != NONE) {
        private_fd::close(fd);
    }
    if !process.restricted.load(Ordering::Relaxed) {
        on_disk::remove(process, entry.inode);
    }
}

/// The file's entry, made if there is none. A vfork child finds those of its parent.
fn entry_of<'a>(
    entries: &'a mut Guard<'_, Vec<Entry>>,
    file: &OpenFile,
    inode: Inode,
) -> Result<&'a mut Entry, Errno> {
    let found = entries.iter().position(|entry| entry.inode == inode);
    let at = match found {
        Some(at) => at,
        None if interpose::in_vfork_child() => return Err(Errno::NOLCK),
        None => {
            entries.push(Entry::new(inode));
            entries.len() - 1
        }
    };
    let entry = &mut entries[at];
    if !interpose::in_vfork_child() && file.locks.entry.load(Ordering::Relaxed) == 0 {
        file.locks.entry.store(entry.id, Ordering::Relaxed);
        entry.users += 1;
    }
    Ok(entry)
}

fn inode_of(file: &OpenFile) -> Result<Inode, Errno> {
    let attributes = file.with_handle(Instance::fgetattr)?;
    Ok([file.mount as u64, attributes.st_dev, attributes.st_ino])
}

/// A lock of the given type on everything.
pub fn whole_file(kind: u32) -> RecordLock {
    RecordLock { l_type: kind as _, l_whence: sys::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Before fork; the child's copy must be whole.
pub fn before_fork() {
    ENTRIES.acquire();
    INHERITED.acquire();
}

/// After fork, on both sides.
pub fn after_fork() {
    INHERITED.release();
    ENTRIES.release();
}

/// In the forked child, which has no record locks, and must not have the same spare descriptions as its parent. With the FD table in common the locks
/// are the child's as well, and the descriptors its parent's to close.
pub fn in_forked_child(shares_files: bool) {
    for entry in ENTRIES.lock().iter_mut() {
        entry.pending = 0;
        if shares_files {
            entry.users += 1;
            entry.spare = NONE;
            entry.parked.clear();
            continue;
        }
        entry.held = false;
        entry.parked.push(std::mem::replace(&mut entry.spare, NONE));
        entry.parked.drain(..).filter(|&fd| fd != NONE).for_each(private_fd::close);
    }
}
