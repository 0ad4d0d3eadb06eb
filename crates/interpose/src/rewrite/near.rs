//! Memory within reach of a 32-bit displacement from some code.

use core::ffi::c_void;
use core::ops::Range;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::error::Error;
use super::maps::AddressMap;

/// Size of a page.
pub(super) const PAGE: u64 = 4096;
/// How far from the text the stubs may be: what a displacement reaches, less room for the size of both.
const REACH: u64 = (1 << 31) - (64 << 20);
/// Nothing is mapped below.
const LOWEST: u64 = 1 << 20;
/// Nothing of the program is mapped above.
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// Finds free memory near loaded objects.
#[derive(Debug)]
pub struct NearMemory {
    /// What is known to be in use, by rising address.
    used: Vec<Used>,
    /// Other things may be as well.
    partial: bool,
}

#[derive(Debug)]
struct Used {
    range: Range<u64>,
    /// It may grow downwards: the range below is not free.
    grows: bool,
}

impl NearMemory {
    /// Memory that is free according to `map`. That others map something meanwhile is noticed, and so is what a map of a part does not tell
    /// of: then all is read.
    pub fn new(map: &AddressMap) -> Self {
        let used = map.mappings().iter().map(|mapping| Used {
            range: mapping.range.clone(),
            grows: map.path(mapping).starts_with(b"[stack"),
        });
        Self { used: used.collect(), partial: map.is_partial() }
    }

    /// Maps `len` bytes, readable and writable, that code anywhere in `text` reaches.
    pub(super) fn map(&mut self, text: &Range<u64>, len: u64) -> Result<Region, Error> {
        let len = len.next_multiple_of(PAGE);
        let mut failed = Vec::new();
        loop {
            let Some((index, start)) = self.candidate(text, len, &failed) else {
                if self.partial {
                    *self = Self::new(
                        &AddressMap::read().map_err(|errno| Error::of("read /proc/self/maps", errno))?,
                    );
                    failed.clear();
                    continue;
                }
                return Err(Error::NoRoom { text: text.start });
            };
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
            let address = core::ptr::without_provenance_mut::<c_void>(start as usize);
            // SAFETY: FIXED_NOREPLACE takes nothing away from anybody.
            match unsafe { mmap_anonymous(address, len as usize, prot, flags) } {
                Ok(base) if base == address => {
                    self.used.insert(index, Used { range: start..start + len, grows: false });
                    return Ok(Region { base, len: len as usize });
                }
                Ok(base) => {
                    // SAFETY: it was mapped just now, somewhere else (a kernel that does not know the flag).
                    let _ = unsafe { munmap(base, len as usize) };
                    failed.push(start);
                }
                Err(Errno::EXIST) => failed.push(start),
                Err(errno) => return Err(Error::of("map memory for stubs", errno)),
            }
        }
    }

    /// The free range nearest to the text: the index its entry would get, and its start. It lies directly below
    /// something that is in use: what grows upwards (the heap) keeps its room.
    fn candidate(&self, text: &Range<u64>, len: u64, failed: &[u64]) -> Option<(usize, u64)> {
        let reach = text.end.saturating_sub(REACH).max(LOWEST)..text.start.saturating_add(REACH).min(HIGHEST);
        let mut best: Option<(u64, usize, u64)> = None;
        let mut below = LOWEST;
        for (index, used) in self.used.iter().enumerate() {
            let free = below..used.range.start;
            below = below.max(used.range.end);
            let Some(start) = free.end.checked_sub(len) else { continue };
            let fits = !used.grows && start >= free.start && start >= reach.start && free.end <= reach.end;
            let distance = start.abs_diff(text.start);
            if fits && !failed.contains(&start) && best.is_none_or(|(least, _, _)| distance < least) {
                best = Some((distance, index, start));
            }
        }
        best.map(|(_, index, start)| (index, start))
    }
}

/// Memory for stubs. Unmapped when dropped, unless [`Region::seal`]ed.
#[derive(Debug)]
pub(super) struct Region {
    base: *mut c_void,
    len: usize,
}

impl Region {
    /// Its first address.
    pub(super) fn start(&self) -> u64 {
        self.base.expose_provenance() as u64
    }

    /// Puts `content` at `offset`. What is never filled are zeros, which no PC gets to.
    pub(super) fn fill(&mut self, offset: u64, content: &[u8]) {
        let end = (offset as usize).checked_add(content.len());
        assert!(end.is_some_and(|end| end <= self.len), "stubs larger than their region");
        // SAFETY: the region is ours alone, writable, and large enough.
        unsafe {
            core::ptr::copy_nonoverlapping(
                content.as_ptr(),
                self.base.cast::<u8>().add(offset as usize),
                content.len(),
            );
        }
    }

    /// Makes it executable for good.
    pub(super) fn seal(self) -> Result<(), Error> {
        // SAFETY: the region is ours alone; nobody executes or writes it now.
        unsafe { mprotect(self.base, self.len, MprotectFlags::READ | MprotectFlags::EXEC) }
            .map_err(|errno| Error::of("make stubs executable", errno))?;
        core::mem::forget(self);
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `NearMemory::map`; nothing refers to it before it is sealed.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_of_the_map_does_not_tell_of_is_noticed() {
        let length = 3 * PAGE as usize;
        // SAFETY: new memory, used here alone.
        unsafe {
            let base =
                mmap_anonymous(core::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE).unwrap();
            let start = base as u64;
            // A mapping of its own, so that those below it are not told of.
            let text = start + 2 * PAGE..start + 3 * PAGE;
            mprotect(base.cast::<u8>().add(2 * PAGE as usize).cast(), PAGE as usize, MprotectFlags::empty())
                .unwrap();
            let map = AddressMap::read_around(&text).unwrap();
            assert!(!map.is_partial() || map.mappings().len() == 1);
            let region = NearMemory::new(&map).map(&text, 2 * PAGE).unwrap();
            let found = region.start();
            assert!(found + 2 * PAGE <= start || found >= text.end, "{found:x} for {text:x?}");
            assert!(found.abs_diff(text.start) < REACH);
            drop(region);
            munmap(base, length).unwrap();
        }
    }
}
