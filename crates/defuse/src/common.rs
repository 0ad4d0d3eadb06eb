//! What this process has in common with others that have a memory of their own: the FD table (clone(2) with `CLONE_FILES` but
//! without `CLONE_VM`), and its place in the file system: working directory and umask (`CLONE_FS`).
//!
//! *The FD table.* Whatever the other process does to a number happens unseen here, so nothing is believed about any: each look-up
//! asks the kernel ([`file::owner`](crate::file::owner)), no number is marked as the kernel's, and every file is a shadow from the
//! start. The plugins' descriptors are in that table as well. So the child gets handles with descriptors of its own, by what
//! exec does (`save` and `restore`), and a handle that cannot be made twice is closed by nobody.
//!
//! *The place.* The kernel's working directory is one, ours is in the memory of each. A page in common says which slot of the
//! arena is the directory now, and is looked at whenever ours is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use fdtable::FdState;
use interpose::{ForkCall, ForkKind};
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::SlotId;

use crate::file::OpenFile;
use crate::lending::{self, Kept};
use crate::process::{Cwd, Process, STATES};
use crate::working_directory::{self, Directory};
use crate::{native, nofile, paging, restoring, shadow, trace, vfork};

/// Which of it there is.
pub struct Common {
    table: &'static AtomicU32,
    place: AtomicPtr<Place>,
    /// A lodger may change the kernel's working directory.
    wandering: AtomicBool,
    /// [`Place::changes`] when our working directory was set.
    seen: AtomicU64,
}

/// In a page that several processes have mapped.
struct Place {
    changes: AtomicU64,
    /// The slot of a directory on a mount, or [`KERNELS`].
    directory: AtomicU64,
    umask: AtomicU32,
}

/// Not 0 while somebody else uses the FD table: [`OTHERS`], and how many children of vfork, each as [`CHILD`].
static TABLE: AtomicU32 = AtomicU32::new(0);
const OTHERS: u32 = 1;
const CHILD: u32 = 2;

/// As [`Common::table`], for this process.
pub fn has_common_table() -> bool {
    TABLE.load(Ordering::Acquire) != 0
}

/// The working directory is the kernel's.
const KERNELS: u64 = u64::MAX;

impl Common {
    /// Nothing.
    pub const fn nothing() -> Self {
        Self {
            table: &TABLE,
            wandering: AtomicBool::new(false),
            place: AtomicPtr::new(std::ptr::null_mut()),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether somebody else uses the FD table.
    pub fn table(&self) -> bool {
        self.table.load(Ordering::Acquire) != 0
    }

    /// Whether the kernel's working directory may be another one at any time, without a word to us.
    pub fn wanders(&self) -> bool {
        self.wandering.load(Ordering::Acquire)
    }

    /// Whether somebody else uses the working directory.
    pub fn place(&self) -> bool {
        self.the_place().is_some()
    }

    #[allow(unsafe_code)]
    fn the_place(&self) -> Option<&'static Place> {
        // SAFETY: the pointer is null, or was set by `share_place` to a page of zeros, which is a `Place`, and which is never unmapped.
        unsafe { self.place.load(Ordering::Acquire).as_ref() }
    }
}

/// Marks `fd` as the kernel's, if that can be known for longer than a moment.
pub fn mark_foreign(process: &Process, fd: i32) {
    STATES.set(fd, FdState::Foreign);
    unmark_if_common(process, fd);
}

/// As [`mark_foreign`], for one that was only looked at.
pub fn learn_foreign(process: &Process, fd: i32) {
    STATES.learn(fd, FdState::Foreign);
    unmark_if_common(process, fd);
}

fn unmark_if_common(process: &Process, fd: i32) {
    // Either `share_table` finds the mark, or we find that it has begun.
    fence(Ordering::SeqCst);
    if process.common.table() {
        STATES.forget(fd);
    }
}

/// Before a fork: the child may get the same place.
pub fn before_fork(process: &'static Process, fork: &ForkCall) -> Result<(), Errno> {
    follow(process);
    if fork.flags & u64::from(sys::CLONE_FS) != 0 && !process.common.place() {
        share_place(process)?;
    }
    Ok(())
}

/// Before clone makes a child on our memory whose calls are not intercepted.
pub fn admit_lodger(process: &'static Process, fork: &ForkCall) {
    trace::debug(format_args!(
        "a child on the same memory is not served (clone with flags {:#x})",
        fork.flags
    ));
    if fork.shares_files() {
        share_table(process, fork);
    }
    if fork.flags & u64::from(sys::CLONE_FS) != 0 {
        process.common.wandering.store(true, Ordering::Release);
        process.share_cwd();
        process.know_cwd_of_kernel();
    }
}

/// Before clone makes somebody who uses our FD table and not, or not only, what we know of it. All files are shadows; for a
/// child with a memory of its own the caller holds `Process::descriptors`.
pub fn share_table(process: &'static Process, fork: &ForkCall) {
    process.common.table.fetch_or(OTHERS, Ordering::AcqRel);
    begin(process);
    if fork.kind == ForkKind::Fork {
        keep_directory(process);
        for_each_open(process, |file| {
            if restoring::describe(file).is_err() || crate::lock_files::concern(file) {
                file.lend();
            }
        });
    }
}

/// Calls `run` for each open file, also those that only a mapping keeps; for some more than once.
fn for_each_open(process: &Process, mut run: impl FnMut(&OpenFile)) {
    process.files.for_each(|_, file, _| run(file));
    paging::live::for_each_file(process, run);
}

/// [`Common::table`] says so already.
fn begin(process: &'static Process) {
    fence(Ordering::SeqCst);
    STATES.forget_range(0, u32::MAX);
    nofile::show(process, process.nofile().0);
    process.serving.store(1, Ordering::Release);
}

/// Before a child of vfork that uses our FD table, while other threads of ours do. All files are shadows.
pub fn lend_table(process: &'static Process) {
    if interpose::in_vfork_child() {
        return; // What is said of the parent's table is not its own to say.
    }
    process.common.table.fetch_add(CHILD, Ordering::AcqRel);
    begin(process);
}

/// It is gone, or was never there.
pub fn take_table_back(process: &'static Process) {
    if interpose::in_vfork_child() {
        return;
    }
    give_up(process, |table| table.checked_sub(CHILD));
}

/// In the child of a fork.
pub fn in_child(process: &'static Process, fork: &ForkCall) {
    if fork.flags & u64::from(sys::CLONE_FS) == 0 {
        leave_place(process);
    }
    if !fork.shares_files() {
        leave_table(process);
        return;
    }
    let mut renewed = Vec::new();
    for_each_open(process, |file| {
        if !file.is_lent() && !renewed.contains(&file.slot) {
            renewed.push(file.slot);
            match restoring::renew(file) {
                // The parent may lose its handle, and meet the file again.
                Ok(()) => drop(lending::offer(process, file, Kept::Here)),
                Err(error) => {
                    trace::debug(format_args!("a file keeps its parent's descriptors: {error}"));
                    file.lend();
                }
            }
        }
    });
}

/// unshare(2) with these flags, or what exec does, has been done.
pub fn unshared(process: &'static Process, flags: u32) {
    if flags & sys::CLONE_FILES != 0 {
        leave_table(process);
    }
    if flags & (sys::CLONE_FS | sys::CLONE_NEWNS | sys::CLONE_NEWUSER) != 0 {
        leave_place(process);
    }
}

/// Gives this process an FD table of its own, which is what exec does first of all.
pub fn own_table(process: &'static Process) {
    if process.common.table()
        && native::raw_call(sys::__NR_unshare, [sys::CLONE_FILES.into(), 0, 0, 0, 0, 0]) >= 0
    {
        leave_table(process);
    }
}

/// Nobody else uses the FD table any more.
fn leave_table(process: &'static Process) {
    give_up(process, |table| (table != 0).then_some(0));
}

/// One more who uses the FD table is gone: what is left of them is as `less` says, if there was one. Our other threads ask the kernel until the table
/// knows what they have left there.
fn give_up(process: &'static Process, less: impl Fn(u32) -> Option<u32>) {
    loop {
        let before = process.common.table.load(Ordering::Acquire);
        let Some(left) = less(before) else { return };
        if left == 0 {
            shadow::believe_the_kernel(process);
        }
        // Another one may have come, or gone: then it has to be found out anew who is the last.
        let exchanged =
            process.common.table.compare_exchange(before, left, Ordering::AcqRel, Ordering::Acquire);
        if exchanged.is_err() {
            continue;
        }
        if left == 0 {
            nofile::show(process, process.nofile().0);
        }
        return;
    }
}

/// The descriptors of the working directory will be those of two processes: neither closes them.
fn keep_directory(process: &'static Process) {
    std::mem::forget(working_directory::held(process));
}

fn share_place(process: &'static Process) -> Result<(), Errno> {
    let (protection, flags) = (sys::PROT_READ | sys::PROT_WRITE, sys::MAP_SHARED | sys::MAP_ANONYMOUS);
    let args = [0, size_of::<Place>() as u64, protection.into(), flags.into(), u64::MAX, 0];
    let page = native::checked(sys::__NR_mmap, args)? as *mut Place;
    process.common.place.store(page, Ordering::Release);
    process.share_cwd();
    set_umask(process, process.umask.load(Ordering::Relaxed));
    let slot = working_directory::held(process).map(|held| held.slot());
    publish(process, slot.filter(|_| working_directory::share(process).is_some()));
    Ok(())
}

fn leave_place(process: &'static Process) {
    if let Some(place) = process.common.the_place() {
        follow(process);
        process.umask.store(place.umask.load(Ordering::Relaxed), Ordering::Relaxed);
        process.common.place.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// The working directory of this process has changed.
pub fn moved(process: &'static Process) {
    if !process.common.place() {
        return;
    }
    let shadow = working_directory::share(process);
    publish(process, working_directory::held(process).filter(|_| shadow.is_some()).map(|held| held.slot()));
}

fn publish(process: &Process, slot: Option<SlotId>) {
    if let Some(place) = process.common.the_place() {
        place.directory.store(slot.map_or(KERNELS, SlotId::to_bits), Ordering::Release);
        let changes = place.changes.fetch_add(1, Ordering::AcqRel) + 1;
        process.common.seen.store(changes, Ordering::Relaxed);
    }
}

/// Makes the working directory the one that somebody else has changed to. The caller does not hold `Process::cwd`.
pub fn follow(process: &'static Process) {
    if process.common.wanders() {
        process.know_cwd_of_kernel();
    }
    let Some(place) = process.common.the_place() else { return };
    let changes = place.changes.load(Ordering::Acquire);
    if process.common.seen.swap(changes, Ordering::Relaxed) == changes {
        return;
    }
    let slot = match place.directory.load(Ordering::Acquire) {
        KERNELS => None,
        slot => Some(SlotId::from_bits(slot)),
    };
    // Else the kernel's says that nothing can be found there.
    let cwd = slot.and_then(|slot| found(process, slot)).unwrap_or(Cwd::Unknown);
    process.nowhere.store(matches!(cwd, Cwd::Served { .. }), Ordering::Relaxed);
    let former = std::mem::replace(&mut *process.cwd.lock(), cwd);
    drop(former);
    // Who has changed it may end before we do.
    working_directory::share(process);
}

fn found(process: &'static Process, slot: SlotId) -> Option<Cwd> {
    let mount = process.arena.slot(slot).ok()?.mount() as usize;
    let held = Directory::found(process, slot);
    let path = held.path().ok()?;
    Some(Cwd::Served { mount, path, held: Some(Arc::new(held)) })
}

/// The umask, if it is one that somebody else may change.
pub fn umask(process: &Process) -> u32 {
    if interpose::in_vfork_child()
        && let Some(own) = vfork::children().umask()
    {
        return own;
    }
    let own = || process.umask.load(Ordering::Relaxed);
    process.common.the_place().map_or_else(own, |place| place.umask.load(Ordering::Relaxed))
}

/// The umask has been changed.
pub fn set_umask(process: &Process, umask: u32) {
    if interpose::in_vfork_child() && vfork::children().set_umask(umask) {
        return;
    }
    process.umask.store(umask, Ordering::Relaxed);
    if let Some(place) = process.common.the_place() {
        place.umask.store(umask, Ordering::Relaxed);
    }
}
