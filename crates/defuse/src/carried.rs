//! Open files that came through exec at their numbers, and that this image has not touched yet.
//!
//! A placeholder or a descriptor of the plugin's does not say which description it stands for; the arena's exec map does,
//! as long as nobody moves the FD unseen. So the next image must be intercepted for sure (`next_image`), and every FD
//! is made a file of the table, or gives its place up, before anything else may change hands: `settle` comes before
//! fork, vfork and the first second thread.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stash::{ExecEntry, SlotId};

use linux_raw_sys::general as sys;

use crate::file::{self, Owner};
use crate::native;
use crate::process::{Process, STATES};
use crate::serve::locks;
use crate::shadow::{self, Form};
use crate::sync::Lock;

/// What an entry of the exec map says; its number in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// A private descriptor that the plugin keeps, whose file may or may not have come through: a vfork child cannot tell.
    KeptPerhaps,
    /// A private descriptor that the plugin keeps.
    Kept,
    /// An FD of the program that is a placeholder; the plugin's handle is made again from what the slot says.
    Placeholder,
    /// An FD of the program that is the plugin's own descriptor.
    Adopted,
    /// Exec closed the FD: the slot is free.
    Closed,
    /// A private descriptor for the locks of a file: see [`crate::lock_files`].
    Companion,
    /// The same, whose file may or may not have come through.
    CompanionPerhaps,
    /// A private descriptor for record locks.
    Records,
    /// One more of its lock file.
    Spare,
    /// The shadow of the working directory.
    WorkingDirectory,
    /// An FD of the program that is the file's shadow, unless a vfork child has closed it.
    Shadow,
    /// A descriptor that is only there for the sake of record locks: see [`crate::locked_inodes`].
    Parked,
    /// A kept descriptor of an inode with record locks.
    Locked,
    /// Nothing that this version knows.
    Unknown,
}

/// The description has more than this FD: other FDs, or private descriptors.
const MORE: u8 = 0x80;
/// Which of the descriptors of its handle a kept one is, in the order in which the plugin named them.
const RANK: u8 = 0x70;
/// Descriptors that one handle may keep: as many as [`RANK`] can tell apart.
pub const KEPT_MAX: usize = 8;

impl Mark {
    /// An entry of this sort for the exec map.
    pub fn entry(self, fd: RawFd, slot: SlotId, more: bool) -> ExecEntry {
        let tag = self as u8 | if more { MORE } else { 0 };
        ExecEntry { fd: fd as u32, slot, cloexec: self == Self::Closed, tag, following: 0 }
    }

    /// As [`Mark::entry`] for a kept descriptor, the plugin's number `rank` of those of its handle (below [`KEPT_MAX`]).
    pub fn kept_entry(self, fd: RawFd, slot: SlotId, rank: usize) -> ExecEntry {
        let entry = self.entry(fd, slot, false);
        ExecEntry { tag: entry.tag | (rank as u8) << RANK.trailing_zeros(), ..entry }
    }

    /// Whether its description may or may not have come through.
    pub fn is_perhaps(self) -> bool {
        matches!(self, Self::KeptPerhaps | Self::CompanionPerhaps)
    }

    /// The sort of an entry.
    pub fn of(entry: &ExecEntry) -> Self {
        match entry.tag & !(MORE | RANK) {
            0 => Self::KeptPerhaps,
            1 => Self::Kept,
            2 => Self::Placeholder,
            3 => Self::Adopted,
            4 => Self::Closed,
            5 => Self::Companion,
            6 => Self::CompanionPerhaps,
            7 => Self::Records,
            8 => Self::Spare,
            9 => Self::WorkingDirectory,
            10 => Self::Shadow,
            11 => Self::Parked,
            12 => Self::Locked,
            _ => Self::Unknown,
        }
    }
}

/// Appends an entry to a list; one that follows on from the last only makes that longer.
pub fn append(list: &mut Vec<ExecEntry>, entry: ExecEntry) {
    if let Some(last) = list.last_mut()
        && entry.following == 0
        && (last.tag, last.slot.generation) == (entry.tag, entry.slot.generation)
        && last.following < u16::MAX
        && entry == nth(last, u32::from(last.following) + 1)
    {
        last.following += 1;
    } else {
        list.push(entry);
    }
}

/// The single entry at this place of a run.
fn nth(run: &ExecEntry, place: u32) -> ExecEntry {
    let slot = SlotId { index: run.slot.index.wrapping_add(place), ..run.slot };
    ExecEntry { fd: run.fd.wrapping_add(place), slot, following: 0, ..*run }
}

/// The entries of a run, one by one.
pub fn singly(run: &ExecEntry) -> impl Iterator<Item = ExecEntry> + use<> {
    let run = *run;
    (0..=u32::from(run.following)).map(move |place| nth(&run, place))
}

/// Which of the descriptors of its handle a kept one is.
pub fn rank(entry: &ExecEntry) -> usize {
    usize::from((entry.tag & RANK) >> RANK.trailing_zeros())
}

/// Whether other entries may belong to the same description.
pub fn has_more(entry: &ExecEntry) -> bool {
    entry.tag & MORE != 0
}

/// What came through exec and has not been touched.
pub struct Carried {
    /// Runs, sorted by FD.
    entries: Lock<Vec<ExecEntry>>,
    /// FDs in them.
    left: AtomicUsize,
    /// Slots whose FDs exec has closed.
    closed: Lock<Vec<ExecEntry>>,
    any_closed: AtomicBool,
}

impl Carried {
    /// Nothing.
    pub const fn none() -> Self {
        Self {
            entries: Lock::new(Vec::new()),
            left: AtomicUsize::new(0),
            closed: Lock::new(Vec::new()),
            any_closed: AtomicBool::new(false),
        }
    }

    /// Takes the list that the previous image left. Once, before the program runs.
    pub fn fill(&self, mut entries: Vec<ExecEntry>) {
        let mut closed = Vec::new();
        entries.retain(|entry| {
            let mark = Mark::of(entry);
            if mark == Mark::Closed {
                closed.push(*entry);
            }
            matches!(mark, Mark::Kept | Mark::Placeholder | Mark::Adopted)
        });
        if !entries.is_sorted_by_key(|entry| entry.fd) {
            entries.sort_unstable_by_key(|entry| entry.fd);
        }
        let count = entries.iter().map(|run| usize::from(run.following) + 1).sum();
        self.left.store(count, Ordering::Release);
        *self.entries.lock() = entries;
        self.any_closed.store(!closed.is_empty(), Ordering::Release);
        *self.closed.lock() = closed;
    }

    /// Whether there is nothing to hand on.
    pub fn is_empty(&self) -> bool {
        self.count() == 0 && !self.any_closed.load(Ordering::Acquire)
    }

    /// How many FDs are left.
    pub fn count(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// Takes the entry of `fd`, if there is one that `wanted` agrees to.
    pub fn take(&self, fd: RawFd, wanted: impl FnOnce(&ExecEntry) -> bool) -> Option<ExecEntry> {
        if self.count() == 0 {
            return None;
        }
        let mut entries = self.entries.lock();
        let at = entries.partition_point(|run| run.fd <= fd as u32).checked_sub(1)?;
        let run = entries[at];
        let place = fd as u32 - run.fd;
        let entry = nth(&run, place);
        if place > u32::from(run.following) || !wanted(&entry) {
            return None;
        }
        let after = (place < u32::from(run.following))
            .then(|| ExecEntry { following: run.following - place as u16 - 1, ..nth(&run, place + 1) });
        match (place, after) {
            (0, Some(after)) => entries[at] = after,
            (0, None) => drop(entries.remove(at)),
            (_, after) => {
                entries[at].following = place as u16 - 1;
                if let Some(after) = after {
                    entries.insert(at + 1, after);
                }
            }
        }
        self.left.fetch_sub(1, Ordering::AcqRel);
        Some(entry)
    }

    /// The kept descriptors of the description in `slot`.
    pub fn kept_of(&self, slot: SlotId) -> Vec<RawFd> {
        let entries = self.entries.lock();
        let kept = entries.iter().filter(|entry| entry.slot == slot && Mark::of(entry) == Mark::Kept);
        kept.map(|entry| entry.fd as RawFd).collect()
    }

    /// The FDs of the description in `slot`.
    fn of_slot(&self, slot: SlotId) -> Vec<RawFd> {
        let entries = self.entries.lock();
        let same = entries.iter().filter(|run| has_more(run)).flat_map(singly);
        same.filter(|entry| entry.slot == slot).map(|entry| entry.fd as RawFd).collect()
    }

    /// Appends what is left to the list for the next image.
    pub fn hand_on(&self, list: &mut Vec<ExecEntry>) {
        if self.count() > 0 {
            list.extend(&*self.entries.lock());
        }
        if self.any_closed.load(Ordering::Acquire) {
            list.extend(&*self.closed.lock());
        }
    }

    /// In a vfork child: appends the plugins' descriptors that its parent has not taken, for files that may or may not go
    /// to the next image.
    pub fn hand_on_perhaps(&self, list: &mut Vec<ExecEntry>) {
        if self.count() > 0 {
            let entries = self.entries.lock();
            let kept = entries.iter().filter(|entry| Mark::of(entry) == Mark::Kept).flat_map(singly);
            list.extend(kept.map(|entry| Mark::KeptPerhaps.entry(entry.fd as RawFd, entry.slot, false)));
        }
    }

    /// Frees the slots whose FDs exec has closed.
    pub fn free_closed(&self, process: &'static Process) {
        if self.any_closed.load(Ordering::Relaxed) && self.any_closed.swap(false, Ordering::AcqRel) {
            for entry in std::mem::take(&mut *self.closed.lock()).iter().flat_map(singly) {
                // A forked child may have done it.
                shadow::let_go(process, entry.slot);
            }
        }
    }

    /// Makes every FD that is left a file of the table. Not under `Process::descriptors`.
    pub fn settle(&self, process: &'static Process) {
        self.free_closed(process);
        if self.count() == 0 {
            return;
        }
        let fds: Vec<RawFd> = {
            let entries = self.entries.lock();
            let of_program =
                |entry: &&ExecEntry| matches!(Mark::of(entry), Mark::Placeholder | Mark::Adopted);
            entries.iter().filter(of_program).flat_map(singly).map(|entry| entry.fd as RawFd).collect()
        };
        for fd in fds {
            file::owner(process, fd);
        }
    }
}

/// The file behind `fd` if that came through exec as it stood. The caller holds the rebuilding lock.
pub fn rebuild(process: &'static Process, fd: RawFd) -> Option<Owner> {
    let of_program = |entry: &ExecEntry| matches!(Mark::of(entry), Mark::Placeholder | Mark::Adopted);
    let entry = process.carried.take(fd, of_program)?;
    let form = if Mark::of(&entry) == Mark::Adopted { Form::Backing(fd) } else { Form::Placeholder };
    let owner = shadow::rebuild_as(process, fd, entry.slot, form, None, false);
    let mut lost = Vec::new();
    let served = matches!(owner, Owner::Served(_));
    if !served {
        lost.push(fd);
    }
    if has_more(&entry) {
        // All at once: what is in the table must know how many FDs it has.
        let mut others = process.carried.of_slot(entry.slot);
        others.retain(|&other| process.carried.take(other, of_program).is_some());
        if served {
            for other in others {
                shadow::rebuild_as(process, other, entry.slot, form, process.files.get(fd), false);
            }
        } else {
            lost.extend(others);
        }
    }
    if form != Form::Placeholder
        && !lost.is_empty()
        && let Ok(placeholder) = shadow::placeholder(process)
    {
        // Nobody may take it for the file.
        for fd in lost {
            native::raw_call(sys::__NR_dup3, [placeholder as u64, fd as u64, 0, 0, 0, 0]);
        }
    }
    Some(owner)
}

/// Closes `fd` if it came through exec and there is nothing else to it: the plugin never hears of it.
pub fn close(process: &'static Process, fd: RawFd) -> bool {
    // To close it takes record locks away, and only the plugin can do that.
    if process.carried.count() == 0 || locks::used() {
        return false;
    }
    let _together = process.descriptors.lock();
    let alone =
        |entry: &ExecEntry| !has_more(entry) && matches!(Mark::of(entry), Mark::Placeholder | Mark::Adopted);
    let Some(entry) = process.carried.take(fd, alone) else { return false };
    STATES.forget(fd);
    native::close(fd);
    shadow::let_go(process, entry.slot);
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entry(mark: Mark, fd: RawFd) -> ExecEntry {
        mark.entry(fd, SlotId::from_bits(fd as u64), false)
    }

    #[test]
    fn an_entry_is_taken_once_and_only_by_who_wants_it() {
        let carried = Carried::none();
        assert_eq!(carried.take(3, |_| true), None);
        carried.fill(vec![entry(Mark::Adopted, 9), entry(Mark::Closed, 4), entry(Mark::Placeholder, 3)]);
        assert_eq!(carried.count(), 2);
        assert_eq!(carried.take(4, |_| true), None);
        assert_eq!(carried.take(3, has_more), None);
        assert_eq!(carried.take(3, |_| true), Some(entry(Mark::Placeholder, 3)));
        assert_eq!(carried.take(3, |_| true), None);
        assert_eq!(carried.count(), 1);
    }

    #[test]
    fn what_is_left_goes_on_and_what_was_taken_does_not() {
        let carried = Carried::none();
        carried.fill(vec![
            entry(Mark::Kept, 700),
            entry(Mark::Placeholder, 3),
            entry(Mark::Adopted, 4),
            entry(Mark::Closed, 5),
        ]);
        carried.take(3, |_| true);
        let mut list = Vec::new();
        carried.hand_on(&mut list);
        assert_eq!(list, [entry(Mark::Adopted, 4), entry(Mark::Kept, 700), entry(Mark::Closed, 5)]);
    }

    proptest! {
        /// Runs are only a shorter way to write the same list, whatever is taken out of it.
        #[test]
        fn a_run_is_as_good_as_its_entries(
            list in vec((0..40i32, 0..3u8), 0..40),
            taken in vec(0..40i32, 0..40),
        ) {
            let mut model = BTreeMap::new();
            for (fd, odd) in list {
                // Mostly neighbours in slots that are neighbours, with exceptions.
                let slot = SlotId { index: 100 + fd as u32 + u32::from(odd == 1), generation: 1 };
                let mark = if odd == 2 { Mark::Placeholder } else { Mark::Adopted };
                model.insert(fd, mark.entry(fd, slot, false));
            }
            let mut list = Vec::new();
            for &entry in model.values() {
                append(&mut list, entry);
            }
            prop_assert_eq!(list.iter().flat_map(singly).collect::<Vec<_>>(), model.values().copied().collect::<Vec<_>>());
            let carried = Carried::none();
            carried.fill(list);
            for fd in taken {
                prop_assert_eq!(carried.take(fd, |_| true), model.remove(&fd));
                prop_assert_eq!(carried.count(), model.len());
            }
            let mut left = Vec::new();
            carried.hand_on(&mut left);
            prop_assert_eq!(left.iter().flat_map(singly).collect::<Vec<_>>(), model.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn marks_survive_the_map() {
        for mark in [
            Mark::KeptPerhaps,
            Mark::Kept,
            Mark::Placeholder,
            Mark::Adopted,
            Mark::Closed,
            Mark::Companion,
            Mark::CompanionPerhaps,
            Mark::Records,
            Mark::Spare,
            Mark::WorkingDirectory,
            Mark::Shadow,
            Mark::Parked,
            Mark::Locked,
            Mark::Unknown,
        ] {
            let entry = mark.entry(5, SlotId::from_bits(1), true);
            assert_eq!((Mark::of(&entry), has_more(&entry)), (mark, true));
        }
    }
}
