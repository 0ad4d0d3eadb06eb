//! The entries of all FDs, in chunks of 1024 that are allocated when first needed and never moved.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{self, NonNull};

use crate::entry::Entry;
use crate::sync::{AtomicPtr, Ordering};

/// Together 31 bits: all FDs (`int`, not negative). The model checker gets by with fewer.
const LEAF_BITS: u32 = if cfg!(loom) { 1 } else { 10 };
const MIDDLE_BITS: u32 = if cfg!(loom) { 1 } else { 10 };
const ROOT_BITS: u32 = if cfg!(loom) { 1 } else { 11 };

const LEAF_LEN: usize = 1 << LEAF_BITS;
const MIDDLE_LEN: usize = 1 << MIDDLE_BITS;
const ROOT_LEN: usize = 1 << ROOT_BITS;

type Leaf<T> = [Entry<T>; LEAF_LEN];
type Middle<T> = [AtomicPtr<Leaf<T>>; MIDDLE_LEN];

/// Entries by FD. Three levels, of which only the first always exists.
pub(crate) struct Directory<T> {
    root: [AtomicPtr<Middle<T>>; ROOT_LEN],
}

impl<T> Directory<T> {
    /// No entries.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { root: [const { AtomicPtr::new(ptr::null_mut()) }; ROOT_LEN] }
    }

    /// No entries.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { root: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// The entry of this FD, if its chunk exists.
    pub(crate) fn get(&self, fd: u32) -> Option<&Entry<T>> {
        let middle = follow(self.root.get(root_index(fd))?)?;
        let leaf = follow(&middle[middle_index(fd)])?;
        Some(&leaf[leaf_index(fd)])
    }

    /// The entry of this FD; its chunk is allocated if need be. `None`: no memory.
    pub(crate) fn get_or_grow(&self, fd: u32) -> Option<&Entry<T>> {
        let middle = follow_or_grow(self.root.get(root_index(fd))?, || AtomicPtr::new(ptr::null_mut()))?;
        let leaf = follow_or_grow(&middle[middle_index(fd)], Entry::empty)?;
        Some(&leaf[leaf_index(fd)])
    }

    /// The entries in existing chunks from `first` to `last` (inclusive) in ascending order.
    pub(crate) fn range(&self, first: u32, last: u32) -> impl Iterator<Item = (u32, &Entry<T>)> {
        self.chunks(first, last).flat_map(move |(start, leaf)| {
            let end = start + (LEAF_LEN as u32 - 1);
            (start.max(first)..=end.min(last)).map(|fd| (fd, &leaf[leaf_index(fd)]))
        })
    }

    /// The existing chunks that hold FDs from `first` to `last`, with the first FD of each.
    fn chunks(&self, first: u32, last: u32) -> impl Iterator<Item = (u32, &Leaf<T>)> {
        // Only the slots of the range are looked at: most walks are over a handful of FDs.
        let slots = |length: usize, from: u32, to: u32, bits: u32| {
            (from >> bits) as usize..((to >> bits) as usize + 1).min(length)
        };
        let roots = slots(ROOT_LEN, first, last, MIDDLE_BITS + LEAF_BITS);
        let roots = if first <= last { roots } else { 0..0 };
        let middles = roots.filter_map(|root| Some((root, follow(&self.root[root])?)));
        middles.flat_map(move |(root, middle)| {
            let begin = (root << (MIDDLE_BITS + LEAF_BITS)) as u32;
            let end = begin + ((MIDDLE_LEN * LEAF_LEN) as u32 - 1);
            let slots = slots(MIDDLE_LEN, first.max(begin) - begin, last.min(end) - begin, LEAF_BITS);
            slots.filter_map(move |slot| Some((begin + (slot * LEAF_LEN) as u32, follow(&middle[slot])?)))
        })
    }
}

impl<T> Drop for Directory<T> {
    fn drop(&mut self) {
        for middle in self.root.iter().filter_map(|slot| NonNull::new(slot.load(Ordering::Acquire))) {
            // SAFETY: allocated by `follow_or_grow`; `&mut self`: nobody else refers to it, nor to its leaves.
            for leaf in unsafe { middle.as_ref() }
                .iter()
                .filter_map(|slot| NonNull::new(slot.load(Ordering::Acquire)))
            {
                // SAFETY: as above.
                unsafe { free(leaf) };
            }
            // SAFETY: as above.
            unsafe { free(middle) };
        }
    }
}

fn root_index(fd: u32) -> usize {
    (fd >> (MIDDLE_BITS + LEAF_BITS)) as usize
}

fn middle_index(fd: u32) -> usize {
    (fd >> LEAF_BITS) as usize % MIDDLE_LEN
}

/// Where in its chunk an FD is. Neighbours in number lie in different cache lines (of 8 entries), so that threads
/// working on different files don't write to the same line: the low bits are rotated by 3.
fn leaf_index(fd: u32) -> usize {
    const LINE_BITS: u32 = if LEAF_BITS > 3 { 3 } else { 0 };
    let index = fd as usize % LEAF_LEN;
    (index << LINE_BITS | index >> (LEAF_BITS - LINE_BITS)) % LEAF_LEN
}

fn follow<N>(slot: &AtomicPtr<N>) -> Option<&N> {
    // SAFETY: null, or a chunk published with Release by `follow_or_grow`; chunks live as long as the directory.
    unsafe { slot.load(Ordering::Acquire).as_ref() }
}

/// Follows a slot; if it is empty, tries to be the one who fills it.
fn follow_or_grow<Item, const LEN: usize>(
    slot: &AtomicPtr<[Item; LEN]>,
    empty: impl Fn() -> Item,
) -> Option<&[Item; LEN]> {
    if let Some(chunk) = follow(slot) {
        return Some(chunk);
    }
    let chunk = allocate(empty)?;
    match slot.compare_exchange(ptr::null_mut(), chunk.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: lives as long as the directory from now on.
        Ok(_) => Some(unsafe { chunk.as_ref() }),
        Err(winner) => {
            // SAFETY: just allocated and known to nobody else.
            unsafe { free(chunk) };
            // SAFETY: as in `follow`.
            unsafe { winner.as_ref() }
        }
    }
}

/// Chunks start at a cache line.
fn layout<Chunk>() -> Option<Layout> {
    Layout::new::<Chunk>().align_to(64).ok()
}

/// Allocates in place: a chunk does not pass over the stack.
fn allocate<Item, const LEN: usize>(empty: impl Fn() -> Item) -> Option<NonNull<[Item; LEN]>> {
    const { assert!(size_of::<[Item; LEN]>() > 0) };
    // SAFETY: the layout is not of size 0.
    let items = NonNull::new(unsafe { alloc(layout::<[Item; LEN]>()?) }.cast::<Item>())?;
    for index in 0..LEN {
        // SAFETY: within the array just allocated.
        unsafe { items.add(index).write(empty()) };
    }
    Some(items.cast())
}

/// # Safety
/// From `allocate`, and nobody uses it any more.
unsafe fn free<Item, const LEN: usize>(chunk: NonNull<[Item; LEN]>) {
    let Some(layout) = layout::<[Item; LEN]>() else { return };
    // SAFETY: allocated with this layout; not used any more.
    unsafe {
        chunk.drop_in_place();
        dealloc(chunk.as_ptr().cast(), layout);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn neighbours_lie_in_different_cache_lines_and_every_slot_is_used_once() {
        let slots: Vec<usize> = (0..LEAF_LEN as u32).map(leaf_index).collect();
        assert!(slots.windows(2).all(|pair| pair[0] / 8 != pair[1] / 8));
        let mut sorted = slots;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..LEAF_LEN));
    }

    #[test]
    fn the_highest_fd_has_an_entry_and_its_chunk_only() {
        let directory = Directory::<u8>::new();
        assert!(directory.get(i32::MAX as u32).is_none());
        assert!(directory.get_or_grow(i32::MAX as u32).is_some());
        assert_eq!(
            directory.chunks(0, u32::MAX).map(|(start, _)| start).collect::<Vec<_>>(),
            [i32::MAX as u32 - 1023]
        );
    }

    #[test]
    fn an_fd_keeps_its_entry_when_the_directory_grows() {
        let directory = Directory::<u8>::new();
        let before = ptr::from_ref(directory.get_or_grow(5).unwrap());
        for fd in [6, 1024, 1 << 20, 1 << 30] {
            directory.get_or_grow(fd).unwrap();
        }
        assert_eq!(ptr::from_ref(directory.get(5).unwrap()), before);
        assert!(before.addr().is_multiple_of(8));
    }

    #[test]
    fn ranges_are_clipped_at_both_ends_and_skip_missing_chunks() {
        let directory = Directory::<u8>::new();
        directory.get_or_grow(0).unwrap();
        directory.get_or_grow(1 << 25).unwrap();
        let fds = |first, last| directory.range(first, last).map(|(fd, _)| fd).collect::<Vec<_>>();
        assert_eq!(fds(3, 5), [3, 4, 5]);
        assert_eq!(fds(1022, (1 << 25) + 1), [1022, 1023, 1 << 25, (1 << 25) + 1]);
        assert_eq!(fds(0, u32::MAX).len(), 2048);
        assert_eq!(fds(5, 4), []);
        assert_eq!(fds(1 << 26, u32::MAX), []);
    }
}
