//! How many pages to read when one is missing.
//!
//! A miss where the last fill ended is sequential access: each fill is twice the last one. Any other miss is
//! random: a small aligned block, larger once a good part of the file has been read anyway, so that few
//! touches of a large file read little and many touches of a file end with few fills.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most pages of a fill: 1 MiB.
pub(crate) const MAX_RUN: u64 = 256;
/// Random fills of a file hardly touched.
const SPARSE: u64 = 4;

/// As many pages were read at random before that says anything of a large file.
const SOME: u64 = 128;
const MANY: u64 = 512;

/// What was read so far. The numbers are hints: threads may race.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    last_end: AtomicU64,
    last_length: AtomicU64,
    filled: AtomicU64,
}

impl Runs {
    /// The pages to be read for a miss of `page`, which is among them; all below `length`, the file's pages.
    pub(crate) fn plan(&self, page: u64, length: u64) -> Range<u64> {
        let last_end = self.last_end.load(Ordering::Relaxed);
        // A little further on still counts: its pages may have been resident.
        let sequential = (last_end..last_end + 8).contains(&page);
        let wanted = if sequential {
            let size = (self.last_length.load(Ordering::Relaxed) * 2).clamp(SPARSE, MAX_RUN);
            page..page + size
        } else {
            let size = self.random(length);
            let start = page - page % size;
            start..start + size
        };
        wanted.start..wanted.end.min(length)
    }

    /// Tells what of a plan was carried out.
    pub(crate) fn filled(&self, pages: &Range<u64>) {
        self.last_end.store(pages.end, Ordering::Relaxed);
        self.last_length.store(pages.end - pages.start, Ordering::Relaxed);
        self.filled.fetch_add(pages.end - pages.start, Ordering::Relaxed);
    }

    /// Pages were taken away again, as not all have room: what was read is no sign that the rest will be.
    pub(crate) fn forget(&self) {
        self.filled.store(0, Ordering::Relaxed);
    }

    fn random(&self, length: u64) -> u64 {
        let filled = self.filled.load(Ordering::Relaxed);
        match length {
            0..=16 => 16,
            _ if filled * 16 >= length && filled >= MANY => MAX_RUN,
            _ if filled * 4 >= length || filled * 64 >= length && filled >= SOME => 64,
            _ if filled * 16 >= length => 16,
            _ => SPARSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(runs: &Runs, page: u64, length: u64) -> Range<u64> {
        let plan = runs.plan(page, length);
        runs.filled(&plan);
        plan
    }

    #[test]
    fn sequential_access_doubles_to_the_limit() {
        let (runs, mut page, mut sizes) = (Runs::default(), 0, Vec::new());
        for _ in 0..9 {
            let run = read(&runs, page, 1 << 20);
            assert_eq!(run.start, page);
            sizes.push(run.end - run.start);
            page = run.end;
        }
        assert_eq!(sizes, [4, 8, 16, 32, 64, 128, 256, 256, 256]);
    }

    #[test]
    fn few_random_touches_of_a_large_file_read_little() {
        let runs = Runs::default();
        let read: u64 = (1..100_u64)
            .map(|step| {
                let run = read(&runs, step * 7919 % (1 << 20), 1 << 20);
                run.end - run.start
            })
            .sum();
        assert!(read <= 100 * SPARSE, "{read} pages");
    }

    #[test]
    fn random_touches_read_more_at_a_time_the_more_they_have_read() {
        const LENGTH: u64 = 1 << 15;
        let sizes = |runs: &Runs| {
            let mut sizes: Vec<u64> = (1..200_u64)
                .map(|step| read(runs, step * 7919 % LENGTH, LENGTH))
                .map(|run| run.end - run.start)
                .collect();
            sizes.dedup();
            sizes
        };
        let runs = Runs::default();
        assert_eq!(sizes(&runs), [SPARSE, 64, MAX_RUN]);
        runs.forget();
        assert_eq!(runs.random(LENGTH), SPARSE, "there was no room");
    }

    proptest! {
        #[test]
        fn a_plan_holds_the_page_and_ends_with_the_file(length in 1..5000_u64, steps in prop::collection::vec(any::<u64>(), 1..50)) {
            let runs = Runs::default();
            for step in steps {
                let page = step % length;
                let plan = read(&runs, page, length);
                prop_assert!(plan.contains(&page) && plan.end <= length && plan.end - plan.start <= MAX_RUN);
            }
        }
    }
}
