//! Finding a free table entry: a bitmap of hints beside control words that decide.
//!
//! A set bit says "probably in use". Claiming an entry sets its bit and then changes the entry's own control word
//! by compare-and-swap; only the second step counts. A process killed between the two leaves a set bit on a
//! free entry, which a sweep clears; a bit cleared too early makes a claimer try an entry in vain and move on.
//! Both repairs are idempotent, so nothing can be allocated twice and no list can be torn.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::word::Word64;

/// How often one word of the bitmap is tried before moving on: more than its bits, as bits may be cleared meanwhile.
const TRIES_PER_WORD: u32 = 80;

/// Claims an entry for which `claim(index)` returns true. `cursor` remembers the word of the last success; any value
/// will do. Returns `None` if every entry seems to be in use. An error of `claim` ends the search and leaves the entry free.
#[inline]
pub(crate) fn claim<W: Word64, E>(
    bits: &[W],
    cursor: &AtomicU32,
    mut claim: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    let words = bits.len();
    let start = cursor.load(Ordering::Relaxed) as usize % words;
    for step in 0..words {
        let at = if start + step < words { start + step } else { start + step - words };
        let word = &bits[at];
        for _ in 0..TRIES_PER_WORD {
            let used = word.load(Ordering::Relaxed);
            if used == u64::MAX {
                break;
            }
            let bit = (!used).trailing_zeros() as usize;
            if word.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) != 0 {
                continue;
            }
            let index = at * 64 + bit;
            if claim(index).inspect_err(|_| clear(bits, index))? {
                if step != 0 {
                    cursor.store(at as u32, Ordering::Relaxed);
                }
                return Ok(Some(index));
            }
        }
    }
    Ok(None)
}

/// Marks an entry, which was freed, as worth trying.
#[inline]
pub(crate) fn clear<W: Word64>(bits: &[W], index: usize) {
    bits[index / 64].fetch_and(!(1 << (index % 64)), Ordering::Relaxed);
}

/// Marks an entry as worth trying. If it lies before the cursor, the next search starts there: what is in use stays together at the beginning.
#[inline]
pub(crate) fn release<W: Word64>(bits: &[W], cursor: &AtomicU32, index: usize) {
    clear(bits, index);
    let word = (index / 64) as u32;
    if word < cursor.load(Ordering::Relaxed) {
        cursor.store(word, Ordering::Relaxed);
    }
}

/// Clears the hint of an entry that turned out to be free.
pub(crate) fn heal<W: Word64>(bits: &[W], index: usize) {
    if bits[index / 64].load(Ordering::Relaxed) & (1 << (index % 64)) != 0 {
        clear(bits, index);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use core::convert::Infallible;

    use super::*;

    fn claim(bits: &[AtomicU64], cursor: &AtomicU32, mut claim: impl FnMut(usize) -> bool) -> Option<usize> {
        match super::claim(bits, cursor, |index| Ok::<_, Infallible>(claim(index))) {
            Ok(claimed) => claimed,
        }
    }

    fn bits(words: &[u64]) -> Vec<AtomicU64> {
        words.iter().map(|&word| AtomicU64::new(word)).collect()
    }

    #[test]
    fn a_wrong_hint_costs_one_try() {
        let (bits, cursor) = (bits(&[0, 0]), AtomicU32::new(0));
        let mut tried = Vec::new();
        let claimed = claim(&bits, &cursor, |index| {
            tried.push(index);
            index == 2
        });
        assert_eq!((claimed, &tried[..]), (Some(2), &[0, 1, 2][..]));
        // What was refused counts as in use until a sweep says otherwise.
        assert_eq!(claim(&bits, &cursor, |_| true), Some(3));
        heal(&bits, 1);
        assert_eq!(claim(&bits, &cursor, |_| true), Some(1));
    }

    #[test]
    fn the_search_goes_round_once() {
        let (full, cursor) = (bits(&[!0, !0, !(1 << 63)]), AtomicU32::new(77));
        assert_eq!(claim(&full, &cursor, |_| true), Some(191));
        assert_eq!(claim(&full, &cursor, |_| true), None);
        release(&full, &cursor, 5);
        assert_eq!(cursor.load(Ordering::Relaxed), 0);
        assert_eq!(claim(&full, &cursor, |_| true), Some(5));
    }

    #[test]
    fn an_error_ends_the_search_and_leaves_no_hint() {
        let (bits, cursor) = (bits(&[!0, 0b11]), AtomicU32::new(0));
        assert_eq!(super::claim(&bits, &cursor, Err), Err(66));
        assert_eq!(bits[1].load(Ordering::Relaxed), 0b11);
        assert_eq!(claim(&bits, &cursor, |_| true), Some(66));
    }

    #[test]
    fn a_search_ends_though_every_entry_is_refused() {
        let (free, cursor) = (bits(&[0; 4]), AtomicU32::new(0));
        assert_eq!(claim(&free, &cursor, |_| false), None);
    }
}
