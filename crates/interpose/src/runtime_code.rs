//! Code that the program makes at run time, in memory without a file: nobody can tell where its functions are, so it is not
//! rewritten, only looked through.

use core::ops::Range;

use memchr::memmem;

use crate::raw;
use crate::rewrite::AddressMap;

const SYS_MINCORE: u32 = 27;
const PAGE: u64 = 4096;
/// Pages that are asked about at a time.
const STEP: u64 = 256;
/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Whether `range` holds executable memory without a file in which the bytes of a `syscall` are. Pages that nobody has touched
/// are not looked at, and stay so.
///
/// # Safety
/// Nobody unmaps the range or makes it unreadable meanwhile.
pub unsafe fn has_sites(map: &AddressMap, range: &Range<u64>) -> bool {
    map.mappings()
        .iter()
        .filter(|m| m.execute && m.read && m.inode == 0 && !map.path(m).starts_with(b"[v"))
        .map(|m| m.range.start.max(range.start)..m.range.end.min(range.end))
        // SAFETY: mapped and readable; the caller's promise.
        .any(|part| part.start < part.end && resident(part).any(|run| holds_site(unsafe { bytes(&run) })))
}

fn holds_site(code: &[u8]) -> bool {
    memmem::find(code, &SYSCALL).is_some()
}

unsafe fn bytes<'a>(range: &Range<u64>) -> &'a [u8] {
    let (start, length) = (range.start as usize, (range.end - range.start) as usize);
    // SAFETY: the caller names readable memory. The program may be storing to it, to its own misfortune; bytes are only
    // compared.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start), length) }
}

/// The runs of pages of `range` that are in memory.
fn resident(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let steps = (range.start..end).step_by((STEP * PAGE) as usize);
    let mut joined = steps.flat_map(move |start| {
        let pages = (end - start).div_ceil(PAGE).min(STEP) as usize;
        let mut present = [0_u8; STEP as usize];
        // SAFETY: asks about the range, and writes a byte for each of at most `STEP` pages.
        let result =
            unsafe { raw::syscall3(SYS_MINCORE, start, pages as u64 * PAGE, present.as_mut_ptr() as u64) };
        (0..pages)
            .filter(move |&page| result == 0 && present[page] & 1 != 0)
            .map(move |page| start + page as u64 * PAGE)
    });
    // Neighbours are looked at together: an instruction may lie across their boundary.
    let mut next = joined.next();
    core::iter::from_fn(move || {
        let start = next?;
        let mut after = start + PAGE;
        next = joined.next();
        while next == Some(after) {
            after += PAGE;
            next = joined.next();
        }
        Some(start..after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    const LENGTH: usize = 600 * PAGE as usize;

    /// What is found in fresh memory with `code` at `offset`.
    fn found(code: &[u8], offset: usize) -> bool {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory, used here alone.
        unsafe {
            let memory =
                mmap_anonymous(core::ptr::null_mut(), LENGTH, protection, MapFlags::PRIVATE).unwrap();
            core::ptr::copy_nonoverlapping(code.as_ptr(), memory.cast::<u8>().add(offset), code.len());
            mprotect(memory, LENGTH, MprotectFlags::READ | MprotectFlags::EXEC).unwrap();
            let start = memory as u64;
            let found = has_sites(&AddressMap::read().unwrap(), &(start..start + LENGTH as u64));
            munmap(memory, LENGTH).unwrap();
            found
        }
    }

    #[test]
    fn a_site_is_found_wherever_it_is() {
        let step = (STEP * PAGE) as usize;
        for offset in [0, 4095, step - 1, step, 2 * step + 77, LENGTH - 2] {
            assert!(found(&SYSCALL, offset), "{offset}");
        }
    }

    #[test]
    fn other_code_is_none() {
        assert!(!found(&[0x0f, 0x1f, 0x05, 0xc3], 4094));
    }

    #[test]
    fn what_nobody_touched_stays_untouched() {
        // SAFETY: new memory, used here alone.
        unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
            let memory =
                mmap_anonymous(core::ptr::null_mut(), LENGTH, protection, MapFlags::PRIVATE).unwrap();
            let range = memory as u64..memory as u64 + LENGTH as u64;
            assert!(!has_sites(&AddressMap::read().unwrap(), &range));
            assert_eq!(resident(range).count(), 0);
            munmap(memory, LENGTH).unwrap();
        }
    }
}
