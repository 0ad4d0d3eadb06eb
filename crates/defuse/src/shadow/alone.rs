//! Files that one process has for itself, without a shadow: what another one takes out of it by pidfd_getfd(2) is told by the number.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use stash::{Slot, SlotId};

use super::{Form, LENDER, ShadowProvider, folder, provider, replace};
use crate::file::{OpenFile, stash_errno};
use crate::native;
use crate::process::Process;

/// See [`LENDER`].
const ALONE: u64 = 1 << 63;

/// The owner of `slot` has the file under the number `fd`, and not as a shadow.
pub fn note_alone(slot: &Slot<'_>, fd: RawFd) {
    slot.user_words()[LENDER].store(ALONE | fd as u64, Ordering::Release);
}

/// This process does not have `file` under `fd` any more, but may under other numbers.
pub fn forget_number(process: &Process, file: &OpenFile, fd: RawFd) {
    if file.form() == Form::Shadow {
        return;
    }
    if let Ok(slot) = process.arena.slot(file.slot) {
        let (known, nothing) = (ALONE | fd as u64, ALONE | u64::from(u32::MAX));
        let _ =
            slot.user_words()[LENDER].compare_exchange(known, nothing, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The slot of the file that the process `pid` has under the number `fd`, if that is no shadow there.
pub fn alone_in(process: &Process, pid: u32, fd: RawFd) -> Option<SlotId> {
    let mut found = None;
    process.arena.for_each_live(|slot| {
        if slot.user_words()[LENDER].load(Ordering::Acquire) == ALONE | fd as u64
            && slot.owner().and_then(|owner| process.arena.process(owner)).is_ok_and(|owner| owner.pid == pid)
        {
            found = Some(slot.id());
        }
    });
    found
}

/// Whether a living process has the file as something else than a shadow: no lock tells of that.
pub fn is_with_owner(process: &Process, slot: &Slot<'_>) -> bool {
    slot.user_words()[LENDER].load(Ordering::Acquire) & ALONE != 0
        && slot.owner().is_ok_and(|owner| owner != process.me() && process.arena.process_is_alive(owner))
}

/// Puts a shadow of `slot` at the number `fd`, which is open and has the flag close-on-exec: of a file that another process has for itself.
pub fn place_shared(process: &'static Process, slot: SlotId, fd: RawFd) -> Result<(), Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    if let ShadowProvider::Module(_) = provider(process, &shared)? {
        // What was taken is the module's shadow.
        return shared.mark_shared().map_err(stash_errno);
    }
    let shadow = folder::open(process, slot, true)?;
    let replaced = replace(process, shadow, fd, true);
    native::close(shadow);
    replaced
}
