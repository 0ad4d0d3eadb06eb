//! Sets of dirty pages.

use super::{Header, Ledger, ORPHANS, SLOTS};
use std::ops::Range;
use std::sync::atomic::Ordering;

impl Ledger {
    /// Enters pages as dirty. To be done before they can be stored to. Any thread, signal handlers too.
    pub(crate) fn mark(&self, slot: usize, pages: Range<u64>) {
        for (word, mask) in words(self.inside(pages)) {
            let bits = self.word(slot, word);
            // Most often they are set; a plain load keeps the line shared.
            if bits.load(Ordering::SeqCst) & mask != mask {
                bits.fetch_or(mask, Ordering::SeqCst);
            }
        }
    }

    pub(crate) fn clear(&self, slot: usize, pages: Range<u64>) {
        for (word, mask) in words(self.inside(pages)) {
            let bits = self.word(slot, word);
            if bits.load(Ordering::SeqCst) & mask != 0 {
                bits.fetch_and(!mask, Ordering::SeqCst);
            }
        }
    }

    /// How many of the pages are dirty in this slot.
    pub(crate) fn count(&self, slot: usize, pages: Range<u64>) -> u32 {
        words(self.inside(pages))
            .map(|(word, mask)| (self.word(slot, word).load(Ordering::SeqCst) & mask).count_ones())
            .sum()
    }

    /// What is dirty of `pages` in any slot, now: at most [`Dirty::PAGES`] from the first dirty page on.
    pub(crate) fn dirty(&self, pages: Range<u64>) -> Option<Dirty> {
        let mut found: Option<Dirty> = None;
        for (word, mask) in words(self.inside(pages)) {
            let bits = self.any(word) & mask;
            let first = found.as_ref().map_or(word as u64, |dirty| dirty.first_word);
            let index = word - first as usize;
            if index == Dirty::WORDS {
                break;
            }
            if bits != 0 || found.is_some() {
                found.get_or_insert(Dirty { first_word: first, words: [0; Dirty::WORDS] }).words[index] =
                    bits;
            }
        }
        found
    }

    /// The first pages that are all dirty in this slot, or all not, and which.
    pub(crate) fn first_run(&self, slot: usize, pages: Range<u64>) -> Option<(Range<u64>, bool)> {
        let has =
            |page: u64| self.word(slot, (page / 64) as usize).load(Ordering::SeqCst) >> (page % 64) & 1 != 0;
        let pages = self.inside(pages);
        let first = pages.clone().next().map(has)?;
        let end = pages.clone().find(|&page| has(page) != first).unwrap_or(pages.end);
        Some((pages.start..end, first))
    }

    /// The first run of pages that are dirty in no slot. Pages without bits are not looked at: they cannot be touched.
    pub(crate) fn first_clean(&self, pages: Range<u64>) -> Option<Range<u64>> {
        let pages = self.inside(pages);
        let mut known = (u64::MAX, 0);
        let mut is_clean = |page: &u64| {
            if page / 64 != known.0 {
                known = (page / 64, self.any((page / 64) as usize));
            }
            known.1 >> (page % 64) & 1 == 0
        };
        let start = pages.clone().find(&mut is_clean)?;
        let end = (start..pages.end).find(|page| !is_clean(page)).unwrap_or(pages.end);
        Some(start..end)
    }

    /// As far as there are bits for them. A source may be longer; then pages past these cannot be touched.
    fn inside(&self, pages: Range<u64>) -> Range<u64> {
        crate::page::intersection(&pages, &(0..self.reserved()))
    }

    fn any(&self, word: usize) -> u64 {
        let Header { slots, .. } = self.header();
        (0..SLOTS)
            .filter(|&slot| slot == ORPHANS || slots[slot].owner.load(Ordering::Acquire) != 0)
            .fold(0, |bits, slot| bits | self.word(slot, word).load(Ordering::SeqCst))
    }
}

/// Dirty pages of a stretch of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirty {
    first_word: u64,
    words: [u64; Self::WORDS],
}

impl Dirty {
    const WORDS: usize = 16;
    /// Length of the stretch.
    pub(crate) const PAGES: u64 = 64 * Self::WORDS as u64;

    /// The stretch.
    pub(crate) fn stretch(&self) -> Range<u64> {
        self.first_word * 64..self.first_word * 64 + Self::PAGES
    }

    /// Runs of neighbouring dirty pages, ascending.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..Self::PAGES).find(|&page| self.has(page))?;
            let end = (start..Self::PAGES).find(|&page| !self.has(page)).unwrap_or(Self::PAGES);
            next = end;
            Some(self.first_word * 64 + start..self.first_word * 64 + end)
        })
    }

    fn has(&self, page: u64) -> bool {
        self.words[page as usize / 64] >> (page % 64) & 1 != 0
    }
}

/// The bitmap words that a range of pages lies in, with the bits that are theirs.
fn words(pages: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let last = if pages.is_empty() { pages.start / 64 } else { pages.end.div_ceil(64) };
    (pages.start / 64..last).map(move |word| {
        let start = pages.start.max(word * 64) - word * 64;
        let end = pages.end.min(word * 64 + 64) - word * 64;
        (word as usize, (u64::MAX >> (64 - (end - start))) << start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PAGES: u64 = 4096;

    fn ledger() -> Ledger {
        Ledger::map(&Ledger::create(4096 * PAGES, 4096 * PAGES).expect("a memfd")).expect("a mapping")
    }

    fn dirty_pages(ledger: &Ledger) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        let mut from = 0;
        while let Some(dirty) = ledger.dirty(from..PAGES) {
            pages.extend(dirty.runs().flatten());
            from = dirty.stretch().end;
        }
        pages
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Marking and clearing ranges is what it is on a set of numbers.
        #[test]
        fn bitmaps_are_sets(steps in prop::collection::vec((any::<bool>(), 0..PAGES, 0..300_u64), 0..20)) {
            let (ledger, mut model) = (ledger(), BTreeSet::new());
            for (mark, start, length) in steps {
                let pages = start..(start + length).min(PAGES);
                if mark {
                    ledger.mark(ORPHANS, pages.clone());
                    model.extend(pages.clone());
                } else {
                    ledger.clear(ORPHANS, pages.clone());
                    model.retain(|page| !pages.contains(page));
                }
                prop_assert_eq!(ledger.count(ORPHANS, pages.clone()) as usize, model.range(pages).count());
            }
            let mut marked = BTreeSet::new();
            let mut rest = 0..PAGES;
            while let Some((run, is_marked)) = ledger.first_run(ORPHANS, rest.clone()) {
                rest.start = run.end;
                marked.extend(run.filter(|_| is_marked));
            }
            prop_assert_eq!(&marked, &model);
            let mut clean = BTreeSet::new();
            let mut from = 0;
            while let Some(run) = ledger.first_clean(from..PAGES) {
                from = run.end;
                clean.extend(run);
            }
            prop_assert!((0..PAGES).all(|page| clean.contains(&page) != model.contains(&page)));
            prop_assert_eq!(dirty_pages(&ledger), model);
        }
    }
}
