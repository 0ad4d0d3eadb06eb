//! Mapped files of plugins that lend no pages: `uffd-pager`, wired to the plugins and to the other processes of the session.
//!
//! Each file that is mapped has a *cache*: two files in the session's folder ([`store`]) that every process finds by the
//! file's identity ([`Key`]), made by the first who maps the file and removed by the last. As long as there is one, the resident pages
//! are the file: reads by FD look there first ([`coherent`]), and what changes the file changes them too.
//!
//! Who makes, removes or joins a cache, and who writes to a file that may have one, holds the arena's lock of its inode. The arena's host
//! word counts the caches that were ever made and removed: while it stands still, what a process knows of them is true, and
//! while it is 0 there are none.
//!
//! In a process: [`Paging`] has the pager, made at the first mapping, and the files mapped now ([`live`]).

pub mod coherent;
pub mod live;
mod mapped_list;
pub mod prefault;
pub mod reclaim;
pub mod source;
pub mod store;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance, Purpose};
use rustix::io::Errno;
use stash::InodeGuard;
use uffd_pager::{Pager, View};

use crate::file::{OpenFile, stash_errno};
use crate::namei::Spot;
use crate::process::Process;
use crate::sync::Lock;
use mapped_list::MappedList;

/// A file's identity in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Number of the mount.
    pub mount: u32,
    /// `st_dev` as the plugin says it.
    pub device: u64,
    /// `st_ino`, not 0.
    pub inode: u64,
}

impl Key {
    /// The identity of what has these attributes; none if the plugin does not tell files apart.
    pub fn of(mount: usize, attributes: &plugin_abi::stat) -> Option<Self> {
        let regular = attributes.st_mode & sys::S_IFMT == sys::S_IFREG;
        (regular && attributes.st_ino != 0).then_some(Self {
            mount: mount as u32,
            device: attributes.st_dev,
            inode: attributes.st_ino,
        })
    }

    /// For the arena's locks; that of [`crate::serve`]'s appends, too.
    pub fn hash(&self) -> u64 {
        self.inode ^ self.device.rotate_left(32)
    }
}

/// What this process knows of mapped files.
pub struct Paging {
    /// Some plugin of the session does not lend its pages. Set at the start.
    pub possible: AtomicBool,
    /// `None` inside: this kernel has no userfaultfd for us.
    pager: OnceLock<Option<Pager>>,
    /// The files that this image has ever had mapped: what is in a ledger by our name of others is of a former image.
    joined: Lock<Vec<Key>>,
    /// The files that are mapped here. Taken before the inode's lock.
    live: MappedList,
    /// What is known of caches, by the host word at that time. Taken after the inode's lock.
    known: Lock<Vec<Known>>,
}

#[derive(Clone)]
struct Known {
    key: Key,
    generation: u64,
    view: Option<Arc<View>>,
}

/// How many caches a process keeps at hand that it does not map.
const KNOWN_MAX: usize = 8;

impl Default for Paging {
    fn default() -> Self {
        Self {
            possible: AtomicBool::new(true),
            pager: OnceLock::new(),
            joined: Lock::new(Vec::new()),
            live: MappedList::default(),
            known: Lock::new(Vec::new()),
        }
    }
}

impl Paging {
    /// The pager, if there is one already.
    pub fn pager(&self) -> Option<&Pager> {
        self.pager.get()?.as_ref()
    }
}

/// How often caches were made and removed in the session; 0: never, so there are none.
pub fn generation(process: &Process) -> u64 {
    process.arena.host_word().load(Ordering::SeqCst)
}

/// The identity of a file that would be mapped by us; `None` for one whose plugin lends pages, or whose pages others would not see.
pub fn key_of(file: &OpenFile) -> Result<Option<Key>, Errno> {
    if !file.process().paging.possible.load(Ordering::Relaxed) {
        return Ok(None);
    }
    file.paged.get_or_try(|| {
        let instance = file.instance()?;
        if instance.capabilities().contains(Capabilities::PROCESS_LOCAL) || file.open_flags & sys::O_PATH != 0
        {
            return Ok(None);
        }
        if file.with_handle(|instance, handle| instance.backing_fd(handle, Purpose::Map).map(drop)).is_ok() {
            return Ok(None);
        }
        Ok(Key::of(file.mount, &file.with_handle(Instance::fgetattr)?))
    })
}

/// Keeps everybody else from making, joining or removing the cache of `key`, and from writing to the file.
pub fn lock(process: &'static Process, key: Key) -> Result<InodeGuard<'static>, Errno> {
    process.arena.inode_lock(key.hash(), process.holder()).map_err(stash_errno)
}

/// The cache of the file, if it has one. The caller does not hold the lock of any inode.
pub fn view(file: &OpenFile) -> Result<Option<Arc<View>>, Errno> {
    let process = file.process();
    let generation = generation(process);
    if generation == 0 || file.uncached_at.load(Ordering::Relaxed) == generation {
        return Ok(None);
    }
    let Some(key) = key_of(file)? else { return Ok(None) };
    if let Some(known) = known(process, key, generation) {
        return Ok(known.view);
    }
    let alone = lock(process, key)?;
    view_locked(process, Some(file), key, &alone)
}

/// As [`view`], by who holds the lock. `file` is to write by what killed processes left; with it, or if nothing was left, a cache that nobody
/// uses is removed.
pub fn view_locked(
    process: &'static Process,
    file: Option<&OpenFile>,
    key: Key,
    _alone: &InodeGuard<'_>,
) -> Result<Option<Arc<View>>, Errno> {
    view_unless(process, file, key, || Ok(false))
}

/// As [`view`], for who has just opened the file by a name; or made it without one, says `new`. The cache of a file that has
/// lost its last name may outlive it, where processes are killed that map it; then another file may have its inode's number.
pub fn opened(file: &OpenFile, new: bool) -> Result<(), Errno> {
    let process = file.process();
    if generation(process) == 0 {
        return Ok(());
    }
    let Some(key) = key_of(file)? else { return Ok(()) };
    let alone = lock(process, key)?;
    let another = || {
        let nameless = !store::has_a_name(process, key);
        Ok(new || nameless && file.with_handle(Instance::fgetattr)?.st_nlink != 0)
    };
    view_unless(process, Some(file), key, another)?;
    drop(alone);
    Ok(())
}

/// As [`view_locked`]; what there is is removed if it is `another` file's.
fn view_unless(
    process: &'static Process,
    file: Option<&OpenFile>,
    key: Key,
    another: impl FnOnce() -> Result<bool, Errno>,
) -> Result<Option<Arc<View>>, Errno> {
    let generation = generation(process);
    if generation == 0 {
        return Ok(None);
    }
    if let Some(known) = known(process, key, generation) {
        if known.view.is_some() && another()? {
            store::remove(process, key);
            return Ok(None);
        }
        return Ok(known.view);
    }
    let Some(cache) = store::open(process, key)? else {
        remember(process, key, generation, None);
        if let Some(file) = file {
            file.uncached_at.store(generation, Ordering::Relaxed);
        }
        return Ok(None);
    };
    if another()? {
        store::remove(process, key);
        return Ok(None);
    }
    let view = Arc::new(crate::nofile::with_room(|| View::open(cache).map_err(|error| error.errno()))?);
    if !view.is_used() && store::clean_up(process, file, key, &view) {
        return Ok(None);
    }
    remember(process, key, generation, Some(view.clone()));
    Ok(Some(view))
}

/// Hands what is dirty of the file at `spot` to the plugin, for who reads it otherwise than by an FD.
pub fn settle_at(process: &'static Process, spot: &Spot, attributes: &plugin_abi::stat) -> Result<(), Errno> {
    let Some(key) = coherent::maybe_mapped(process, spot.mount.number, attributes) else { return Ok(()) };
    let _alone = lock(process, key)?;
    // What lies there has a name.
    match view_unless(process, None, key, || Ok(!store::has_a_name(process, key)))? {
        Some(view) if view.is_dirty() => {
            source::with_writer_at(spot, |write| view.write_back(write).map_err(|error| error.errno()))
        }
        _ => Ok(()),
    }
}

/// The last name of a file that may be mapped, which is about to be taken from it. Until it is dropped nobody gives the file another one.
pub struct LastName {
    process: &'static Process,
    key: Key,
    alone: InodeGuard<'static>,
}

impl LastName {
    /// The name `spot`, if its file may be mapped and has no other.
    pub fn of(process: &'static Process, spot: &Spot) -> Option<Self> {
        let key = identity_at(process, spot)?;
        let alone = lock(process, key).ok()?;
        let attributes = spot.call(Instance::getattr).ok()?;
        let same = Key::of(spot.mount.number, &attributes) == Some(key);
        if same && let Err(error) = write_back_left(process, key, spot, &alone) {
            crate::trace::debug(format_args!("mapped pages cannot be written back now: {error}"));
        }
        (same && attributes.st_nlink == 1).then_some(Self { process, key, alone })
    }

    /// The name is gone: the cache forgets it, since another file may get the inode's number.
    pub fn forget(self) {
        store::forget_name(self.process, self.key);
        // Without a name what is left of it is nobody's.
        let _ = view_locked(self.process, None, self.key, &self.alone);
    }

    /// Whether it is the name of this file.
    pub fn is_of(&self, key: Option<Key>) -> bool {
        key == Some(self.key)
    }
}

/// Hands the plugin what killed processes left dirty of the file at `spot`, which is about to lose that name: who has the file open without having it
/// mapped reads it, and a record of the name leads nowhere afterwards.
fn write_back_left(
    process: &'static Process,
    key: Key,
    spot: &Spot,
    alone: &InodeGuard<'_>,
) -> Result<(), Errno> {
    match view_locked(process, None, key, alone)? {
        Some(view) if view.is_dirty() && !view.is_used() => {
            source::with_writer_at(spot, |write| view.write_back(write).map_err(|error| error.errno()))
        }
        _ => Ok(()),
    }
}

/// The identity of what lies there, if it may be mapped now.
pub fn identity_at(process: &'static Process, spot: &Spot) -> Option<Key> {
    if generation(process) == 0 {
        return None;
    }
    coherent::maybe_mapped(process, spot.mount.number, &spot.call(Instance::getattr).ok()?)
}

/// Gives the file of this identity the name `path` below its mount point by `link`. A file that had none is found by it from then on; what killed processes
/// stored to it is written back by `file`, which is needed for one without a name.
pub fn link(
    process: &'static Process,
    key: Option<Key>,
    file: Option<&OpenFile>,
    path: &[u8],
    link: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(key) = key else { return link() };
    let alone = lock(process, key)?;
    let nameless =
        matches!(view_locked(process, file, key, &alone), Ok(Some(_))) && !store::has_a_name(process, key);
    // Before the name itself: who opened the file by that would take the cache for one that another file has left.
    if nameless {
        store::record(process, key, path)?;
    }
    let linked = link();
    if nameless && linked.is_err() {
        store::forget_name(process, key);
    }
    linked
}

/// What is known of a cache since the host word has this value.
fn known(process: &Process, key: Key, generation: u64) -> Option<Known> {
    let known = process.paging.known.lock();
    let found = known.iter().find(|known| known.key == key && known.generation == generation)?;
    Some(found.clone())
}

fn remember(process: &Process, key: Key, generation: u64, view: Option<Arc<View>>) {
    if interpose::in_vfork_child() {
        return; // Its descriptors are not the parent's.
    }
    let mut known = process.paging.known.lock();
    let mut gone: Vec<Known> = Vec::new();
    // What was true before may not be any more.
    let (now, before): (Vec<Known>, Vec<Known>) =
        known.drain(..).partition(|known| known.generation == generation && known.key != key);
    *known = now;
    gone.extend(before);
    if known.len() >= KNOWN_MAX {
        gone.push(known.remove(0));
    }
    known.push(Known { key, generation, view });
    drop(known);
    drop(gone); // Closes descriptors.
}

/// Before a fork, and before plugins are asked to keep still, which are called under this lock: no file comes to be mapped, or ceases to,
/// until [`let_go`] on both sides.
pub fn hold(process: &Process) {
    process.paging.live.hold();
}

/// See [`hold`].
pub fn let_go(process: &Process) {
    process.paging.live.let_go();
}

/// Right before an exec: no other thread is ended by it while it holds what other processes wait for. Under the lock of the descriptors, so that no fork is on its way.
pub fn before_exec() -> Option<uffd_pager::Executing> {
    (!interpose::in_vfork_child()).then(uffd_pager::before_exec)
}

/// At the system call, perhaps under malloc's locks: nothing changes until [`after_fork_in_parent`] or [`after_fork_in_child`]. Under what is waited
/// for here no plugin is called.
pub fn before_fork(process: &'static Process) -> Result<(), Errno> {
    process.paging.known.acquire();
    let Some(pager) = process.paging.pager() else { return Ok(()) };
    crate::nofile::with_room(|| pager.before_fork()).map_err(|error| {
        process.paging.known.release();
        error.errno()
    })
}

/// After a fork, in the parent.
pub fn after_fork_in_parent(process: &Process, made: bool) {
    if let Some(pager) = process.paging.pager() {
        pager.after_fork_in_parent(made);
    }
    process.paging.known.release();
}

/// After a fork, in the child, before anything allocates: what is mapped anew must find its place free.
pub fn after_fork_in_child(process: &Process, shares_files: bool) {
    if let Some(pager) = process.paging.pager()
        && let Err(error) = crate::nofile::with_room(|| {
            let go_on = if shares_files {
                Pager::after_fork_in_child_with_common_descriptors
            } else {
                Pager::after_fork_in_child
            };
            go_on(pager).map_err(|error| {
                crate::trace::error(format_args!("mapped files are not there after a fork: {error}"));
                error.errno()
            })
        })
    {
        crate::trace::debug(format_args!("{error}"));
    }
    process.paging.known.release();
    // The parent's, by its name.
    let known = std::mem::take(&mut *process.paging.known.lock());
    if shares_files {
        // And its descriptors.
        std::mem::forget(known);
    }
}
