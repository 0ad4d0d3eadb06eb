//! The working directory on a mount: an open file that no FD of the program stands for.
//!
//! It has a slot of the arena like other open files, so that it follows when the directory is renamed, by whichever process,
//! and a handle of the plugin, so that it is there when its name is gone. Before fork and exec it gets a shadow, at a
//! private number: the kernel's description tells that the slot is in use, and goes to the child and the next image.
//!
//! A vfork child has the path only: it could not leave a descriptor to anybody.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use linux_raw_sys::general as sys;
use plugin_abi::Open;
use rustix::io::Errno;
use stash::{Description, ExecEntry, Kind, SlotId};

use crate::carried::Mark;
use crate::file::{OpenFile, REMOVED, stash_errno};
use crate::namei::Spot;
use crate::process::{Cwd, Process};
use crate::resolve::PathBytes;
use crate::{native, private_fd, restoring, shadow, trace};

/// How it is opened: it may be neither readable nor writable.
const FLAGS: u32 = sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC;
/// No descriptor yet.
const NONE: RawFd = -1;

/// A working directory that is held.
pub struct Directory {
    process: &'static Process,
    slot: SlotId,
    /// Set under `Process::rebuilding`, when it is first needed.
    file: OnceLock<Arc<OpenFile>>,
    shadow: AtomicI32,
}

impl Directory {
    /// Holds the directory at `spot`. None if its plugin cannot open it; then the path has to do.
    pub fn open(process: &'static Process, spot: &Spot) -> Option<Self> {
        let opened = || spot.call(|instance, path| instance.open(path, FLAGS as i32, 0));
        Self::new(process, spot.mount.number, spot.path().as_bytes(), opened)
    }

    /// Holds the directory that is open as `file`.
    pub fn reopen(process: &'static Process, file: &OpenFile) -> Option<Self> {
        let path = file.path().ok()?;
        let reopened = file.with_handle(|instance, handle| instance.reopen(handle, FLAGS as i32));
        let held = if let Err(Errno::NOSYS) = reopened {
            let spot = Spot::new(&process.mounts[file.mount], path, true).ok()?;
            Self::open(process, &spot)?
        } else {
            Self::new(process, file.mount, &path, || reopened)?
        };
        if file.is_removed() {
            mark_removed(process, held.slot);
        }
        Some(held)
    }

    fn new(
        process: &'static Process,
        mount: usize,
        path: &[u8],
        open: impl FnOnce() -> Result<Open<plugin_abi::Handle>, Errno>,
    ) -> Option<Self> {
        if interpose::in_vfork_child() {
            return None;
        }
        let made = || -> Result<Self, Errno> {
            let Open::Served { handle, .. } = open()? else { return Err(Errno::NOTDIR) };
            let kind = Kind(sys::S_IFDIR);
            let description = Description { mount: mount as u32, kind, path, ..Description::default() };
            let slot = match process.allocate_slot(&description) {
                Ok(slot) => slot,
                Err(error) => {
                    let _ = process.mounts[mount].instance()?.close(handle);
                    return Err(error);
                }
            };
            slot.user_words()[0].store(FLAGS.into(), Ordering::Relaxed);
            slot.user_words()[shadow::KIND].store(sys::S_IFDIR.into(), Ordering::Relaxed);
            let file = OpenFile::new(process, mount, handle.into_raw(), slot.id(), FLAGS, sys::S_IFDIR);
            Ok(Self { process, slot: slot.id(), file: Arc::new(file).into(), shadow: AtomicI32::new(NONE) })
        };
        made()
            .inspect_err(|error| trace::debug(format_args!("the working directory is not held: {error}")))
            .ok()
    }

    /// The directory of `slot`, which another process holds.
    pub fn found(process: &'static Process, slot: SlotId) -> Self {
        Self { process, slot, file: OnceLock::new(), shadow: AtomicI32::new(NONE) }
    }

    /// Its slot.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Its path below the mount point.
    pub fn path(&self) -> Result<PathBytes, Errno> {
        let mut buffer = [0; stash::PATH_MAX_LEN];
        let slot = self.process.arena.slot(self.slot).map_err(stash_errno)?;
        let path = slot.path(&mut buffer).map_err(stash_errno)?;
        PathBytes::try_from(path).map_err(|_| Errno::NAMETOOLONG)
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.process
            .arena
            .slot(self.slot)
            .is_ok_and(|slot| slot.user_words()[0].load(Ordering::Relaxed) & REMOVED != 0)
    }

    /// The open file. None if it came from the previous image and cannot be restored.
    pub fn file(&self) -> Option<Arc<OpenFile>> {
        if self.file.get().is_none() && !interpose::in_vfork_child() {
            // Before the lock is taken: the dynamic linker may be locked by a thread that waits for it.
            let slot = self.process.arena.slot(self.slot).ok()?;
            self.process.mount_of(&slot)?.instance().ok()?;
            // Fork waits for this lock, so no child sees a half-made value.
            let _one_at_a_time = self.process.rebuilding.lock();
            if self.file.get().is_none() {
                let restored = restoring::restore(self.process, self.slot, shadow::Form::Shadow);
                let restored = restored.inspect_err(|error| {
                    trace::debug(format_args!("the working directory is lost: {error}"));
                });
                let _ = self.file.set(Arc::new(restored.ok()?));
            }
        }
        self.file.get().cloned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let shadow = self.shadow.load(Ordering::Relaxed);
        if shadow != NONE {
            private_fd::close(shadow);
        }
        if self.file.get().is_none() {
            shadow::let_go(self.process, self.slot);
        }
    }
}

/// The held working directory, if there is one; a vfork child that has changed its own has none.
pub fn held(process: &'static Process) -> Option<Arc<Directory>> {
    process.with_cwd(|cwd| match cwd {
        Cwd::Served { held, .. } => held.clone(),
        _ => None,
    })
}

/// Whether the working directory is one on a mount that was removed.
pub fn is_removed(process: &'static Process) -> bool {
    process.with_cwd(|cwd| matches!(cwd, Cwd::Served { held: Some(held), .. } if held.is_removed()))
}

/// Before a fork or exec: what the child or the next image gets.
pub fn share(process: &'static Process) -> Option<RawFd> {
    let held = held(process)?;
    let known = held.shadow.load(Ordering::Acquire);
    if known != NONE || interpose::in_vfork_child() {
        return (known != NONE).then_some(known);
    }
    let opened = shadow::open_shadow(process, held.slot, true)
        .and_then(|fd| private_fd::take(fd).inspect_err(|_| native::close(fd)));
    match opened {
        Ok(fd) => match held.shadow.compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(fd),
            Err(other) => {
                private_fd::close(fd);
                Some(other)
            }
        },
        Err(error) => {
            trace::debug(format_args!("the working directory is not shared: {error}"));
            None
        }
    }
}

/// What must go through exec for it: the file, for what its plugin keeps, and the entry of the exec map.
pub fn for_exec(process: &'static Process) -> Option<(Arc<Directory>, ExecEntry)> {
    let fd = share(process)?;
    let held = held(process)?;
    let entry = Mark::WorkingDirectory.entry(fd, held.slot, false);
    Some((held, entry))
}

/// The previous image left the shadow `fd` of its working directory.
pub fn inherit(process: &'static Process, slot: SlotId, fd: RawFd) {
    if let Cwd::Served { held, .. } = &mut *process.cwd.lock() {
        let shadow = AtomicI32::new(fd);
        *held = Some(Arc::new(Directory { process, slot, file: OnceLock::new(), shadow }));
    }
}

/// Notes that the directory at `path` on mount number `mount` is gone: what has it open goes on, but finds nothing in it.
pub fn removed(process: &Process, mount: usize, path: &[u8]) {
    let mut buffer = [0; stash::PATH_MAX_LEN];
    process.arena.for_each_live(|slot| {
        if slot.mount() as usize == mount && slot.path(&mut buffer).is_ok_and(|open| open == path) {
            slot.user_words()[0].fetch_or(REMOVED, Ordering::Relaxed);
        }
    });
}

/// Notes it of one description.
pub fn mark_removed(process: &Process, slot: SlotId) {
    if let Ok(slot) = process.arena.slot(slot) {
        slot.user_words()[0].fetch_or(REMOVED, Ordering::Relaxed);
    }
}
