//! Descriptors that plugins have kept open through exec, until the handles that they belong to are made again.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{ExecEntry, SlotId};

use crate::carried::{self, Mark};
use crate::process::Process;
use crate::sync::Lock;
use crate::{native, private_fd};

/// Kept descriptors that came through exec and that no handle of this image has taken yet. The numbers in a slot are those
/// of whoever saved it last: in any other process they mean something else, even if by chance the same file.
static UNCLAIMED: Lock<Vec<Kept>> = Lock::new(Vec::new());

#[derive(Clone, Copy)]
struct Kept {
    fd: RawFd,
    slot: SlotId,
    rank: usize,
}

/// Before a fork, and after it on both sides: no child may inherit the list held.
pub fn before_fork() {
    UNCLAIMED.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    UNCLAIMED.release();
}

/// The kept descriptor of this entry came through exec.
pub fn came_through(entry: &ExecEntry) {
    let fd = entry.fd as RawFd;
    private_fd::adopt(fd);
    UNCLAIMED.lock().push(Kept { fd, slot: entry.slot, rank: carried::rank(entry) });
}

/// Whether all have been claimed.
pub fn is_empty() -> bool {
    UNCLAIMED.lock().is_empty()
}

/// What the next image is to know of those that nobody has claimed.
pub fn entries() -> Vec<ExecEntry> {
    let entry = |kept: &Kept| Mark::KeptPerhaps.kept_entry(kept.fd, kept.slot, kept.rank);
    UNCLAIMED.lock().iter().map(entry).collect()
}

/// Kept descriptors on their way to a handle.
pub struct Claim {
    /// In the order in which the plugin named them.
    pub fds: Vec<RawFd>,
    slot: SlotId,
}

impl Claim {
    /// The `count` descriptors that came through for the file in `slot`; `ESTALE` if so many did not. Another process that has the file,
    /// too, may have written its own numbers into the slot since.
    pub fn of(process: &Process, slot: SlotId, count: usize) -> Result<Self, Errno> {
        for fd in process.carried.kept_of(slot) {
            let kept = |entry: &ExecEntry| Mark::of(entry) == Mark::Kept && entry.slot == slot;
            if let Some(entry) = process.carried.take(fd, kept) {
                came_through(&entry);
            }
        }
        let mut claim = Self { fds: Vec::new(), slot };
        let mut unclaimed = UNCLAIMED.lock();
        let mut own: Vec<_> = unclaimed.iter().filter(|kept| kept.slot == slot).copied().collect();
        own.sort_unstable_by_key(|kept| kept.rank);
        if own.len() != count {
            return Err(Errno::STALE);
        }
        if !interpose::in_vfork_child() {
            unclaimed.retain(|kept| kept.slot != slot);
        }
        drop(unclaimed);
        for kept in own {
            if interpose::in_vfork_child() {
                // Its handle lives for one call, and its parent will want them.
                claim.fds.push(private_fd::duplicate(kept.fd)?);
            } else {
                set_cloexec(kept.fd, true);
                claim.fds.push(kept.fd);
            }
        }
        Ok(claim)
    }

    /// The descriptors are a handle's now.
    pub fn granted(&mut self) {
        self.fds.clear();
    }
}

impl Drop for Claim {
    /// They went to no handle.
    fn drop(&mut self) {
        for (rank, &fd) in self.fds.iter().enumerate() {
            if interpose::in_vfork_child() {
                private_fd::close(fd);
            } else {
                UNCLAIMED.lock().push(Kept { fd, slot: self.slot, rank });
            }
        }
    }
}

/// Sets whether exec closes `fd`.
pub fn set_cloexec(fd: RawFd, cloexec: bool) {
    let flags = u64::from(if cloexec { sys::FD_CLOEXEC } else { 0 });
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), flags, 0, 0, 0]);
}
