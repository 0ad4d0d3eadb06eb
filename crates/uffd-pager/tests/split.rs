//! Mappings that the kernel has in several pieces: mlock(2) and madvise(2) of a part of one.

mod common;

use common::{FileSource, Mapped, attach, pager, pattern};
use uffd_pager::{MapRequest, PAGE};

const PAGES: usize = 16;
/// Where the second piece begins: in the middle of what is entered and opened together.
const BORDER: usize = 5;

enum Split {
    Lock,
    Advise,
}

impl Split {
    fn split(&self, mapped: &Mapped) {
        let (start, size) = (mapped.pointer(0).cast(), BORDER * PAGE);
        // SAFETY: of a mapping of the test's; what it holds stays.
        let result = unsafe {
            match self {
                Self::Lock => libc::mlock(start, size),
                Self::Advise => libc::madvise(start, size, libc::MADV_SEQUENTIAL),
            }
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

/// All of it as a system call reads it.
fn read_by_a_call(mapped: &Mapped) -> Vec<u8> {
    let file = rustix::fs::memfd_create(c"copy", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let held = mapped.pager.prefault(mapped.memory(), false).expect("held");
    // SAFETY: the mapping, which nobody stores to meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(mapped.pointer(0), PAGES * PAGE) };
    assert_eq!(rustix::io::pwrite(&file, bytes, 0), Ok(PAGES * PAGE));
    drop(held);
    let mut copy = vec![0; PAGES * PAGE];
    assert_eq!(rustix::io::pread(&file, &mut copy[..], 0), Ok(PAGES * PAGE));
    copy
}

#[test]
fn pages_are_entered_on_both_sides_of_a_border() {
    let Some(pager) = pager() else { return };
    for split in [Split::Lock, Split::Advise] {
        let source = FileSource::new(&pattern(PAGES));
        let handle = attach(pager, &source);
        let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
        (0..PAGES).for_each(|page| assert_eq!(mapped.get(page * PAGE), pattern(PAGES)[page * PAGE]));
        split.split(&mapped);
        // Missing, then resident and not entered.
        for in_the_table_only in [false, true] {
            if in_the_table_only && matches!(split, Split::Advise) {
                // SAFETY: takes pages of a shared mapping out of the page table.
                let taken =
                    unsafe { libc::madvise(mapped.pointer(0).cast(), PAGES * PAGE, libc::MADV_DONTNEED) };
                assert_eq!(taken, 0);
            } else {
                pager.drop_pages(&handle, true).expect("dropped");
            }
            assert_eq!(mapped.get((BORDER - 1) * PAGE + 3), pattern(PAGES)[(BORDER - 1) * PAGE + 3]);
            assert!(read_by_a_call(&mapped) == pattern(PAGES));
        }
    }
}

#[test]
fn pages_are_opened_and_written_back_on_both_sides_of_a_border() {
    let Some(pager) = pager() else { return };
    for split in [Split::Lock, Split::Advise] {
        let source = FileSource::new(&vec![7; PAGES * PAGE]);
        let handle = attach(pager, &source);
        let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
        (0..PAGES).for_each(|page| assert_eq!(mapped.get(page * PAGE), 7));
        split.split(&mapped);
        for round in 1..4 {
            pager.drop_pages(&handle, true).expect("dropped");
            assert!(mapped.get((BORDER - 1) * PAGE) <= 7);
            {
                let _held = pager.prefault(mapped.memory(), true).expect("held");
                // SAFETY: the mapping, of which nobody has a reference.
                let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.pointer(0), PAGES * PAGE) };
                let zeros = std::fs::File::open("/dev/zero").expect("/dev/zero");
                assert_eq!(rustix::io::read(zeros, bytes), Ok(PAGES * PAGE));
            }
            (0..PAGES).for_each(|page| mapped.set(page * PAGE + 1, round));
            mapped.sync();
            assert_eq!(handle.dirty_pages(), 0);
            (0..PAGES).step_by(2).for_each(|page| mapped.set(page * PAGE + 2, round));
            mapped.sync();
            let contents = source.contents();
            for page in 0..PAGES {
                let expected = [0, round, if page % 2 == 0 { round } else { 0 }];
                assert_eq!(contents[page * PAGE..][..3], expected, "page {page}");
            }
        }
    }
}
