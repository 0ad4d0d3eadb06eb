//! Descriptors that plugins have kept open through exec, until the handles that they belong to are made again.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{ExecEntry, SlotId};

use crate::carried::Mark;
use crate::process::Process;
use crate::sync::Lock;
use crate::{native, private_fd};

/// Kept descriptors that came through exec and that no handle of this image has taken yet. The numbers in a slot are those
/// of whoever saved it: in any other process they mean something else, even if by chance the same file.
static UNCLAIMED: Lock<Vec<(RawFd, SlotId)>> = Lock::new(Vec::new());

/// Before a fork, and after it on both sides: no child may inherit the list held.
pub fn before_fork() {
    UNCLAIMED.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    UNCLAIMED.release();
}

/// `fd` came through exec for the file in `slot`.
pub fn came_through(fd: RawFd, slot: SlotId) {
    private_fd::adopt(fd);
    UNCLAIMED.lock().push((fd, slot));
}

/// What the next image is to know of those that nobody has claimed.
pub fn entries() -> Vec<ExecEntry> {
    UNCLAIMED.lock().iter().map(|&(fd, slot)| Mark::KeptPerhaps.entry(fd, slot, false)).collect()
}

/// Kept descriptors on their way to a handle.
pub struct Claim {
    /// In the order in which the plugin named them.
    pub fds: Vec<RawFd>,
    slot: SlotId,
}

impl Claim {
    /// Those that came through for the file in `slot`, `ESTALE` if one did not.
    pub fn of(process: &Process, fds: &[RawFd], slot: SlotId) -> Result<Self, Errno> {
        // A vfork child's handle lives for one call, and its parent will want them.
        let duplicated = interpose::in_vfork_child();
        let mut claim = Self { fds: Vec::new(), slot };
        for &fd in fds {
            let kept = |entry: &ExecEntry| Mark::of(entry) == Mark::Kept && entry.slot == slot;
            if process.carried.take(fd, kept).is_some() {
                came_through(fd, slot);
            }
            let position = UNCLAIMED.lock().iter().position(|known| *known == (fd, slot));
            let Some(position) = position else { return Err(Errno::STALE) };
            if duplicated {
                claim.fds.push(private_fd::duplicate(fd)?);
            } else {
                UNCLAIMED.lock().swap_remove(position);
                claim.fds.push(fd);
                set_cloexec(fd, true);
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
        for &fd in &self.fds {
            if interpose::in_vfork_child() {
                private_fd::close(fd);
            } else {
                UNCLAIMED.lock().push((fd, self.slot));
            }
        }
    }
}

/// Sets whether exec closes `fd`.
pub fn set_cloexec(fd: RawFd, cloexec: bool) {
    let flags = u64::from(if cloexec { sys::FD_CLOEXEC } else { 0 });
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), flags, 0, 0, 0]);
}
