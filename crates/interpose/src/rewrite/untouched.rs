//! Whether a text is still what its file says.

use core::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::pread;

use super::near::PAGE;
use crate::raw;

const SYS_IOCTL: u32 = 16;
/// `_IOWR('f', 16, struct pm_scan_arg)`, from Linux 6.7 on.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// Categories of pages, as that names them.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// An entry of `/proc/PID/pagemap`: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// It was, and is swapped out: a copy, as a file's pages are not swapped.
const SWAPPED: u64 = 1 << 62;
/// It is the file's and no copy of the process's own.
const OF_FILE: u64 = 1 << 61;
/// Entries read at a time.
const STEP: usize = 512;

/// Whether no page of a private mapping was changed in this process: by text relocations, by another library, by a debugger
/// that has put breakpoints there. `false` if that cannot be told.
pub fn untouched(range: &Range<u64>) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = open(c"/proc/self/pagemap", flags, Mode::empty()) else { return false };
    copies(&file, range).map_or_else(|| untouched_by_entries(&file, range), |copies| copies == 0)
}

/// Whether there are pages of the process's own, by one look of the kernel's at all of them: 0 or 1. `None` if it does not know how.
fn copies(pagemap: &OwnedFd, range: &Range<u64>) -> Option<u64> {
    let mut first = [0_u64; 3];
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start: range.start,
        end: range.end.next_multiple_of(PAGE),
        regions: (&raw mut first) as u64,
        regions_length: 1,
        max_pages: 1,
        category_inverted: PAGE_IS_FILE,
        category_mask: PAGE_IS_FILE,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT,
        ..Scan::default()
    };
    let args = (pagemap.as_raw_fd() as u64, (&raw mut scan) as u64);
    // SAFETY: the kernel fills one region, which is three words, and `walk_end`.
    let found = unsafe { raw::syscall3(SYS_IOCTL, args.0, PAGEMAP_SCAN, args.1) };
    u64::try_from(found).ok()
}

/// The same by an entry for each page.
fn untouched_by_entries(pagemap: &OwnedFd, range: &Range<u64>) -> bool {
    let mut entries = [0_u8; STEP * 8];
    let mut page = range.start / PAGE;
    let end = range.end.div_ceil(PAGE);
    while page < end {
        let wanted = (((end - page) as usize).min(STEP)) * 8;
        let Ok(read) = pread(pagemap, &mut entries[..wanted], page * 8) else { return false };
        let (words, _) = entries[..read].as_chunks::<8>();
        let copied = |entry: &[u8; 8]| {
            let entry = u64::from_ne_bytes(*entry);
            entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT
        };
        if words.is_empty() || words.iter().any(copied) {
            return false;
        }
        page += words.len() as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    #[test]
    fn a_page_of_its_own_is_noticed() {
        let pages = 700;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; pages * PAGE as usize]).unwrap();
        for changed in [0, 1, 511, 512, pages - 1] {
            // SAFETY: new memory, used here alone.
            unsafe {
                let prot = ProtFlags::READ | ProtFlags::WRITE;
                let length = pages * PAGE as usize;
                let memory =
                    mmap(core::ptr::null_mut(), length, prot, MapFlags::PRIVATE, file.as_fd(), 0).unwrap();
                let range = memory as u64..memory as u64 + length as u64;
                let pagemap = open(c"/proc/self/pagemap", OFlags::RDONLY, Mode::empty()).unwrap();
                let expect = |clean: bool, when: &str| {
                    assert_eq!(untouched(&range), clean, "{when} {changed}");
                    assert_eq!(untouched_by_entries(&pagemap, &range), clean, "{when} {changed}");
                };
                expect(true, "mapped");
                assert_eq!(memory.cast::<u8>().add(77).read_volatile(), 7);
                expect(true, "read");
                memory.cast::<u8>().add(changed * PAGE as usize).write_volatile(7);
                expect(false, "written");
                munmap(memory, length).unwrap();
            }
        }
    }
}
