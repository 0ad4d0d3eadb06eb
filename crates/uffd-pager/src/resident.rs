//! Which pages of a shared-memory file exist, by lseek(2): shmem tells data from holes page by page. And how many of a range, by
//! cachestat(2) where there is that.
//!
//! `SEEK_DATA` alone: it looks at the entries of absent pages only where there are none, while `SEEK_HOLE` goes
//! through all resident pages up to the next hole, of which a file in use has none (1 ms for 128 MiB).

use crate::page::{PAGE, offset_of};
use crate::runs::MAX_RUN;
use linux_raw_sys::general as kernel;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{SeekFrom, seek};
use std::arch::asm;
use std::ops::Range;

/// The first resident page at or after `page`, `end` if there is none before it.
fn next_data(file: impl AsFd, page: u64, end: u64) -> u64 {
    // ENXIO: no more data, or past the end.
    seek(file, SeekFrom::Data(offset_of(page))).map_or(end, |offset| (offset / PAGE as u64).min(end))
}

/// The missing pages from `pages.start` on; empty if that one is resident.
pub(crate) fn hole_at(file: impl AsFd, pages: &Range<u64>) -> Range<u64> {
    pages.start..next_data(file, pages.start, pages.end)
}

/// The first run of resident pages, or as much of it as is read and written at once.
pub(crate) fn first_data(file: impl AsFd, pages: &Range<u64>) -> Option<Range<u64>> {
    let file = file.as_fd();
    let start = if pages.is_empty() { pages.end } else { next_data(file, pages.start, pages.end) };
    let limit = pages.end.min(start + MAX_RUN);
    if start >= pages.end {
        return None;
    }
    let all = limit - start > 1 && are_there(file, &(start..limit));
    let end = if all {
        limit
    } else {
        (start + 1..limit).find(|&page| next_data(file, page, limit) != page).unwrap_or(limit)
    };
    Some(start..end)
}

/// The first run of missing pages.
pub(crate) fn first_hole(file: impl AsFd, pages: &Range<u64>) -> Option<Range<u64>> {
    let file = file.as_fd();
    if are_there(file, pages) {
        return None;
    }
    pages.clone().map(|page| hole_at(file, &(page..pages.end))).find(|hole| !hole.is_empty())
}

/// Whether all of them are resident, as far as it can be told at once.
fn are_there(file: BorrowedFd<'_>, pages: &Range<u64>) -> bool {
    count(file, pages) == Some(pages.end - pages.start)
}

/// How many of the pages are resident, swapped out or not. `None`: this kernel does not tell (before 6.5).
pub(crate) fn count(file: impl AsFd, pages: &Range<u64>) -> Option<u64> {
    if pages.is_empty() {
        return Some(0); // To the kernel a length of 0 is the rest of the file.
    }
    let range =
        kernel::cachestat_range { off: offset_of(pages.start), len: offset_of(pages.end - pages.start) };
    let mut counts = kernel::cachestat {
        nr_cache: 0,
        nr_dirty: 0,
        nr_writeback: 0,
        nr_evicted: 0,
        nr_recently_evicted: 0,
    };
    let result: isize;
    // SAFETY: cachestat(2) reads the range and writes the counts, both of which live here; the kernel clobbers rcx and r11,
    // and nothing else. Not through libc: see `signals`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") kernel::__NR_cachestat as isize => result,
            in("rdi") file.as_fd().as_raw_fd(),
            in("rsi") &raw const range,
            in("rdx") &raw mut counts,
            in("r10") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // What is evicted from shared memory is in the swap.
    (result == 0).then_some(counts.nr_cache + counts.nr_evicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_pages() {
        let file = rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, 8 * PAGE as u64 + 5).expect("ftruncate");
        rustix::io::pwrite(&file, &[1; 2 * PAGE], 3 * PAGE as u64).expect("pwrite");
        assert_eq!(first_hole(&file, &(0..9)), Some(0..3));
        assert_eq!(first_data(&file, &(0..9)), Some(3..5));
        assert_eq!(first_data(&file, &(4..9)), Some(4..5));
        assert_eq!(first_hole(&file, &(4..9)), Some(5..9));
        assert_eq!(first_data(&file, &(5..9)), None);
        assert_eq!(first_hole(&file, &(3..5)), None);
        assert_eq!(first_data(&file, &(2..2)), None);
        assert!([None, Some(2)].contains(&count(&file, &(0..9))));
        assert!([None, Some(1)].contains(&count(&file, &(4..9))));
        assert!(!are_there(file.as_fd(), &(3..6)));
    }
}
