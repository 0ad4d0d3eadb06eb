//! Which pages of a shared-memory file exist, by lseek(2): shmem tells data from holes page by page.

use crate::page::{PAGE, offset_of};
use rustix::fd::AsFd;
use rustix::fs::{SeekFrom, seek};
use std::ops::Range;

/// The first run of resident pages in `pages`; as `wanted` says, or of missing ones.
fn run(file: impl AsFd, pages: &Range<u64>, resident: bool) -> Option<Range<u64>> {
    let file = file.as_fd();
    let (first, next): (fn(u64) -> SeekFrom, fn(u64) -> SeekFrom) =
        if resident { (SeekFrom::Data, SeekFrom::Hole) } else { (SeekFrom::Hole, SeekFrom::Data) };
    // ENXIO: no more data, or past the end.
    let page = |at| seek(file, at).map_or(pages.end, |offset| offset.div_ceil(PAGE as u64).min(pages.end));
    if pages.is_empty() {
        return None;
    }
    let start = page(first(offset_of(pages.start)));
    (start < pages.end).then(|| start..page(next(offset_of(start))))
}

/// The first run of resident pages.
pub(crate) fn first_data(file: impl AsFd, pages: &Range<u64>) -> Option<Range<u64>> {
    run(file, pages, true)
}

/// The first run of missing pages.
pub(crate) fn first_hole(file: impl AsFd, pages: &Range<u64>) -> Option<Range<u64>> {
    run(file, pages, false)
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
    }
}
