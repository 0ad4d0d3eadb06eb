//! Pages that system calls use: they stay resident, and open for stores if they are.

use super::{Ledger, SLOTS};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Ranges that a process can list. More are possible: then all its pages are held.
const LISTED: usize = 8;
/// Bits of a listed range that say how many pages it has, less one.
const LENGTH_BITS: u32 = 24;

/// What a process holds.
#[repr(C)]
pub(super) struct Pins {
    /// Ranges that are not listed.
    others: AtomicU32,
    /// First page and length; 0 for none.
    listed: [AtomicU64; LISTED],
}

impl Pins {
    pub(super) fn reset(&self) {
        self.others.store(0, Ordering::SeqCst);
        self.listed.iter().for_each(|entry| entry.store(0, Ordering::SeqCst));
    }

    fn add(&self, pages: &Range<u64>) {
        let listed = packed(pages).is_some_and(|new| {
            self.listed
                .iter()
                .any(|entry| entry.compare_exchange(0, new, Ordering::SeqCst, Ordering::Relaxed).is_ok())
        });
        if !listed {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Which of two equal ranges is struck off makes no difference.
    fn remove(&self, pages: &Range<u64>) {
        let listed = packed(pages).is_some_and(|old| {
            self.listed
                .iter()
                .any(|entry| entry.compare_exchange(old, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok())
        });
        if !listed {
            self.others.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// `but`: one range equal to this is left out. (Not if it is not listed.)
    fn collect(&self, found: &mut Pinned, but: &Range<u64>) {
        if self.others.load(Ordering::SeqCst) != 0 {
            found.all = true;
        }
        let mut but = packed(but);
        for entry in &self.listed {
            let entry = entry.load(Ordering::SeqCst);
            if entry == 0 {
                continue;
            }
            if but == Some(entry) {
                but = None;
            } else {
                found.add(unpacked(entry));
            }
        }
    }
}

fn packed(pages: &Range<u64>) -> Option<u64> {
    let length = pages.end.checked_sub(pages.start)?.checked_sub(1)?;
    let fits = length < 1 << LENGTH_BITS && pages.start + 1 < 1 << (64 - LENGTH_BITS);
    // One more than the first page, so that no range is 0.
    fits.then_some((pages.start + 1) << LENGTH_BITS | length)
}

fn unpacked(entry: u64) -> Range<u64> {
    let start = (entry >> LENGTH_BITS) - 1;
    start..start + (entry & ((1 << LENGTH_BITS) - 1)) + 1
}

impl Ledger {
    /// A range of pages of this process is about to be used by a system call.
    pub(crate) fn pin(&self, slot: usize, pages: &Range<u64>) {
        self.slot(slot).pins.add(pages);
    }

    pub(crate) fn unpin(&self, slot: usize, pages: &Range<u64>) {
        self.slot(slot).pins.remove(pages);
    }

    /// What the process of this slot holds now.
    pub(crate) fn pinned_by(&self, slot: usize) -> Pinned {
        self.pinned_by_others(slot, &(0..0))
    }

    /// The same without one range, which the caller has pinned itself.
    pub(crate) fn pinned_by_others(&self, slot: usize, own: &Range<u64>) -> Pinned {
        let mut found = Pinned::default();
        self.slot(slot).pins.collect(&mut found, own);
        found
    }

    /// What any process holds now; the dead do until their slots are taken over.
    pub(crate) fn pinned(&self) -> Pinned {
        let mut found = Pinned::default();
        let used = (1..SLOTS).filter(|&slot| self.owner(slot).is_somebody());
        used.for_each(|slot| self.slot(slot).pins.collect(&mut found, &(0..0)));
        found
    }
}

/// Pages that are held. Small, as it is made in handlers of signals.
#[derive(Debug)]
pub(crate) struct Pinned {
    all: bool,
    count: usize,
    ranges: [(u64, u64); Self::MOST],
}

impl Default for Pinned {
    fn default() -> Self {
        Self { all: false, count: 0, ranges: [(0, 0); Self::MOST] }
    }
}

impl Pinned {
    const MOST: usize = 32;

    fn add(&mut self, pages: Range<u64>) {
        match self.ranges.get_mut(self.count) {
            Some(place) => {
                *place = (pages.start, pages.end);
                self.count += 1;
            }
            None => self.all = true,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.count == 0
    }

    fn has(&self, page: u64) -> bool {
        self.all || self.ranges[..self.count].iter().any(|&(start, end)| (start..end).contains(&page))
    }

    /// The runs of pages among `pages` that nobody holds.
    pub(crate) fn free(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = pages.start;
        std::iter::from_fn(move || {
            if self.is_empty() {
                let rest = std::mem::replace(&mut next, pages.end)..pages.end;
                return (!rest.is_empty()).then_some(rest);
            }
            let start = (next..pages.end).find(|&page| !self.has(page))?;
            let end = (start..pages.end).find(|&page| self.has(page)).unwrap_or(pages.end);
            next = end;
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> Pins {
        Pins { others: AtomicU32::new(0), listed: Default::default() }
    }

    fn held(pins: &Pins) -> Pinned {
        let mut found = Pinned::default();
        pins.collect(&mut found, &(0..0));
        found
    }

    #[test]
    fn what_is_held_is_left_out() {
        let pins = pins();
        for pages in [3..5, 9..10, 3..5, 0..1] {
            pins.add(&pages);
        }
        let free = |pins: &Pins| held(pins).free(0..12).collect::<Vec<_>>();
        assert_eq!(free(&pins), [1..3, 5..9, 10..12]);
        pins.remove(&(3..5));
        assert_eq!(free(&pins), [1..3, 5..9, 10..12], "another holds them too");
        pins.remove(&(3..5));
        assert_eq!(free(&pins), [1..9, 10..12]);
    }

    #[test]
    fn more_than_can_be_listed_hold_everything_until_they_are_gone() {
        let pins = pins();
        let ranges: Vec<_> = (0..20_u64).map(|page| page..page + 1).collect();
        for pages in &ranges {
            pins.add(pages);
        }
        assert_eq!(held(&pins).free(0..100).count(), 0);
        for pages in &ranges {
            pins.remove(pages);
        }
        assert_eq!(held(&pins).free(0..100).map(|run| run.end - run.start).sum::<u64>(), 100);
        assert!(held(&pins).is_empty());
    }

    #[test]
    fn what_one_has_pinned_itself_is_left_out_once() {
        let pins = pins();
        let others = |pins: &Pins| {
            let mut found = Pinned::default();
            pins.collect(&mut found, &(3..5));
            found.free(0..12).collect::<Vec<_>>()
        };
        for pages in [3..5, 4..6] {
            pins.add(&pages);
        }
        assert_eq!(others(&pins), [0..4, 6..12]);
        pins.add(&(3..5));
        assert_eq!(others(&pins), [0..3, 6..12]);
    }

    #[test]
    fn large_ranges_are_held_though_they_cannot_be_listed() {
        let pins = pins();
        pins.add(&(5..(1 << 30)));
        assert_eq!(held(&pins).free(0..3).count(), 0);
        pins.remove(&(5..(1 << 30)));
        assert!(held(&pins).is_empty());
    }
}
