//! Files that one process has for itself, without a shadow: what another one takes out of it by pidfd_getfd(2) is told by the number.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use stash::{Slot, SlotId};

use super::{Form, LENDER, ShadowProvider, folder, provider, replace, separate, slot_behind};
use crate::file::{OpenFile, stash_errno};
use crate::native;
use crate::process::Process;

/// See [`LENDER`]. Below it there is room for [`NUMBERS`] numbers, each counted from 1 on; 0 says that there is none.
const ALONE: u64 = 1 << 63;
const NUMBERS: u32 = 3;
const BITS: u32 = 21;
const MASK: u64 = (1 << BITS) - 1;

/// This process has `file` under the number `fd`, too, which is in the table. A file that is no shadow and has too many numbers to tell
/// of becomes one. The caller holds `Process::descriptors`.
pub fn note_number(process: &'static Process, file: &OpenFile, fd: RawFd) -> Result<(), Errno> {
    if file.form() == Form::Shadow {
        return Ok(());
    }
    if change(&file.shared()?, |word| with(word, fd)) { Ok(()) } else { separate(process, file) }
}

/// This process does not have `file` under `fd` any more, but may under other numbers.
pub fn forget_number(process: &Process, file: &OpenFile, fd: RawFd) {
    if file.form() == Form::Shadow {
        return;
    }
    if let Ok(slot) = process.arena.slot(file.slot) {
        change(&slot, |word| without(word, fd));
    }
}

fn change(slot: &Slot<'_>, new: impl FnMut(u64) -> Option<u64>) -> bool {
    slot.user_words()[LENDER].fetch_update(Ordering::AcqRel, Ordering::Acquire, new).is_ok()
}

fn number_of(fd: RawFd) -> u64 {
    u64::from(fd as u32) + 1
}

fn place_of(word: u64, number: u64) -> Option<u32> {
    (0..NUMBERS).map(|place| place * BITS).find(|place| word >> place & MASK == number)
}

fn with(word: u64, fd: RawFd) -> Option<u64> {
    let (number, word) = (number_of(fd), word | ALONE);
    if number <= MASK { place_of(word, 0).map(|free| word | number << free) } else { None }
}

fn without(word: u64, fd: RawFd) -> Option<u64> {
    place_of(word, number_of(fd)).filter(|_| word & ALONE != 0).map(|place| word & !(MASK << place))
}

/// The slot of the file that the process `pid` has under the number `fd`, if that is no shadow there.
pub fn alone_in(process: &Process, pid: u32, fd: RawFd) -> Option<SlotId> {
    let mut found = None;
    process.arena.for_each_live(|slot| {
        let word = slot.user_words()[LENDER].load(Ordering::Acquire);
        if word & ALONE != 0
            && place_of(word, number_of(fd)).is_some()
            && slot.owner().and_then(|owner| process.arena.process(owner)).is_ok_and(|owner| owner.pid == pid)
        {
            found = Some(slot.id());
        }
    });
    found
}

/// Whether `fd`, which another process has for a file of its own, is its plugin's descriptor.
pub fn is_adopted(process: &Process, fd: RawFd) -> bool {
    let looked = native::fstat(fd);
    let is_placeholder = looked.as_ref().is_ok_and(|looked| folder::is_placeholder(process, looked));
    looked.is_ok() && slot_behind(process, fd, &looked).is_none() && !is_placeholder
}

/// Whether a living process has the file under any number, and not as a shadow.
pub fn has_numbers(process: &Process, slot: &Slot<'_>) -> bool {
    let word = slot.user_words()[LENDER].load(Ordering::Acquire);
    word & ALONE != 0
        && word & !ALONE != 0
        && slot.owner().is_ok_and(|owner| process.arena.process_is_alive(owner))
}

/// Whether a living process has the file as something else than a shadow: no lock tells of that.
pub fn is_with_owner(process: &Process, slot: &Slot<'_>) -> bool {
    slot.user_words()[LENDER].load(Ordering::Acquire) & ALONE != 0
        && slot.owner().is_ok_and(|owner| owner != process.me() && process.arena.process_is_alive(owner))
}

/// Whether the slot, which nobody shares, is that of another process that lives.
pub fn is_another_s(process: &Process, slot: &Slot<'_>) -> bool {
    let lives = |owner| process.restricted.load(Ordering::Relaxed) || process.arena.process_is_alive(owner);
    slot.owner().is_ok_and(|owner| owner != process.me() && lives(owner))
}

/// Puts a shadow of `slot` at the number `fd`, which is open and has the flag close-on-exec: of a file that another process has for itself, and of
/// which `taken` was taken from there.
pub fn place_shared(process: &'static Process, slot: SlotId, taken: RawFd, fd: RawFd) -> Result<(), Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    if let ShadowProvider::Module(_) = provider(process, &shared)? {
        // What was taken is the module's shadow.
        if taken != fd {
            replace(process, taken, fd, true)?;
        }
        return shared.mark_shared().map_err(stash_errno);
    }
    // Who lists the numbers of the slot must not meet the one that it has for a moment.
    let _together = (!interpose::in_vfork_child()).then(|| process.descriptors.lock());
    let shadow = folder::open(process, slot, true)?;
    let replaced = replace(process, shadow, fd, true);
    native::close(shadow);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_room_for_three_numbers() {
        let word = [0, 7, 1_048_575].into_iter().try_fold(0, with).unwrap();
        assert_eq!(with(word, 9), None);
        assert_eq!(with(0, MASK as RawFd), None);
        assert_eq!(without(word, 9), None);
        let word = with(without(word, 7).unwrap(), 9).unwrap();
        assert_eq!(
            [0, 9, 1_048_575, 7].map(|fd| place_of(word, number_of(fd)).is_some()),
            [true, true, true, false]
        );
        assert_eq!(without(0, -1), None);
    }
}
