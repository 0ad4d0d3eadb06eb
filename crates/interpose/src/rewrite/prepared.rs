//! A text whose sites were diverted ahead, in a file: to be mapped over the loaded one, so that the processes that do so share its
//! pages and none has to copy and change them.
//!
//! The file is the object's own with the jumps in its text, which profilers still find their symbols in, and behind it what goes to
//! the stubs' place: a table of the sites for signal code and the stubs. Those lie at a fixed distance from the text, reach the
//! entry through a cell, and have the addresses in their data completed when they are read.

use core::ffi::c_void;
use core::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;
use rustix::io::pread;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use super::contract;
use super::list::{SITE, site_at, write_site};
use super::near::PAGE;
use super::patched::{Patched, Sites};
use super::site::{Plan, Reason, Site};
use super::stub::{Addresses, Patch, STUB_ALIGN, Stub};

/// From the stubs to their text. A program starts with fewer libraries than that, so there is room.
const DISTANCE: u64 = 1 << 30;
/// Where a text is while it is prepared: out of reach of an entry at 0.
const NOWHERE: u64 = 1 << 40;
/// Longest object that is prepared.
const LONGEST: u64 = 1 << 24;
/// The last byte is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"prepare\x01");
/// Length of the header: words, of which the first is the cell with the entry's address.
const HEADER: usize = 8 * 14;

/// Which state of which file an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin([u64; 7]);

impl Origin {
    /// By what `stat` says of the file.
    pub fn of(stat: &Stat) -> Self {
        Self([
            stat.st_dev,
            stat.st_ino,
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec,
            stat.st_ctime as u64,
            stat.st_ctime_nsec,
        ])
    }

    fn size(&self) -> u64 {
        self.0[2]
    }

    /// Where the table begins in the file.
    fn section(&self) -> u64 {
        self.size().next_multiple_of(PAGE)
    }
}

/// Positions in the table.
#[derive(Clone, Copy, Debug)]
struct Layout {
    key: usize,
    /// Four bytes for each site: where its stub's `resume` is.
    resumes: usize,
    /// Four bytes for each site: where its stub is; then the site.
    sites: usize,
    /// For each hole: its offset in the text, and which site's it is.
    holes: usize,
    stubs: usize,
}

/// Length of an item of `sites`.
pub(super) const ITEM: usize = 4 + SITE;

impl Layout {
    fn new(key: usize, sites: usize, holes: usize) -> Option<Self> {
        let resumes = HEADER.checked_add(key)?.checked_next_multiple_of(8)?;
        let table = resumes.checked_add(sites.checked_mul(4)?)?;
        let end = table.checked_add(sites.checked_mul(ITEM)?)?;
        let stubs = end.checked_add(holes.checked_mul(8)?)?.checked_next_multiple_of(STUB_ALIGN as usize)?;
        Some(Self { key: HEADER, resumes, sites: table, holes: end, stubs })
    }
}

/// Diverts the sites of `plan` in `file`, the content of an object, and returns what is to follow it in the file for
/// [`PreparedText::new`]. The text is that at `text` in the file. `None` if there is something that only a process can decide about, or
/// nothing to divert; `file` may be changed in part then.
pub fn prepare(
    file: &mut [u8],
    origin: &Origin,
    text: &Range<u64>,
    plan: &Plan,
    key: &[u8],
) -> Option<Vec<u8>> {
    let undecided = plan.missed().next().is_some() || plan.left(Reason::ThirtyTwoBit) > 0;
    let whole = file.len() as u64 == origin.size() && origin.size() <= LONGEST;
    if plan.sites.is_empty() || undecided || !whole || text.end > origin.section() {
        return None;
    }
    let holes = plan.sites.iter().filter(|site| site.hole.is_some()).count();
    let layout = Layout::new(key.len(), plan.sites.len(), holes)?;
    let base = NOWHERE - DISTANCE;
    let (mut resumes, mut sites, mut stubs) = (Vec::new(), Vec::new(), Vec::new());
    let mut jumps: Vec<(u32, u32)> = Vec::new();
    for (index, site) in plan.sites.iter().enumerate() {
        let here = (layout.stubs + stubs.len()) as u64;
        let stub = Stub::new(site, Addresses { text: NOWHERE, stub: base + here, entry: 0, cell: base });
        let (mut code, (hole, patch)) = (stub.code().ok()?, stub.jumps().ok()?);
        let resume = (stub.resume() - base) as usize;
        for word in [contract::SITE, contract::DONE] {
            let at = (resume - here as usize).checked_add_signed(word)?;
            let word: &mut [u8; 8] = code.get_mut(at..at + 8)?.try_into().ok()?;
            *word = u64::from_le_bytes(*word).wrapping_sub(NOWHERE).to_le_bytes();
        }
        let mut bytes = |offset: u32, expected: Option<&[u8]>, new: &[u8]| {
            let at = text.start as usize + offset as usize;
            let place = file.get_mut(at..at + expected.map_or(new.len(), <[u8]>::len))?;
            if expected.is_some_and(|expected| expected != place) {
                return None;
            }
            place[..new.len()].copy_from_slice(new);
            Some(())
        };
        let original = Some(&site.original[..site.len()]);
        match &patch {
            Patch::Long(jump) => bytes(site.start, original, jump)?,
            Patch::Short(jump) => bytes(site.start, original, jump)?,
        }
        if let Some(hole) = hole {
            bytes(hole.at, None, &hole.jump)?;
            jumps.push((hole.at, index as u32));
        }
        resumes.extend((resume as u32).to_le_bytes());
        sites.extend((here as u32).to_le_bytes());
        write_site(site, &mut sites);
        stubs.extend(code);
        stubs.resize(stubs.len().next_multiple_of(STUB_ALIGN as usize), 0);
    }
    jumps.sort_unstable();
    let counts = [key.len(), plan.sites.len(), holes].map(|count| count as u64);
    let words = [&[0, MAGIC][..], &counts, &[text.start, text.end - text.start], &origin.0].concat();
    let mut out = vec![0; (origin.section() - origin.size()) as usize];
    let section = out.len();
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    out.extend(key);
    out.resize(section + layout.resumes, 0);
    out.extend(resumes);
    out.extend(sites);
    out.extend(jumps.iter().flat_map(|(at, index)| [at.to_le_bytes(), index.to_le_bytes()]).flatten());
    out.resize(section + layout.stubs, 0);
    out.extend(stubs);
    Some(out)
}

/// A file that [`prepare`] has filled.
#[derive(Debug)]
pub struct PreparedText {
    file: OwnedFd,
    origin: Origin,
    length: usize,
}

impl PreparedText {
    /// `file`, of this size, which was prepared for an object whose file is now in the state `origin`. Its content comes from a
    /// trusted place.
    pub fn new(file: OwnedFd, size: u64, origin: Origin) -> Option<Self> {
        let length = size.checked_sub(origin.section()).filter(|&length| length <= LONGEST)?;
        (length >= HEADER as u64).then_some(Self { file, origin, length: length as usize })
    }

    /// Maps it over `text`, which was mapped from `offset` of the object's file, so that its sites lead to `entry`. `None`, and
    /// nothing was changed, if it was prepared for another text or `key`, or cannot be mapped here.
    ///
    /// # Safety
    ///
    /// - `text` is the private mapping `r-x` of a text, stays mapped while this runs, and is as in the file; nobody runs code in it
    ///   now, and no reference to its bytes is alive.
    /// - `entry` keeps the [`contract`].
    /// - This code itself, and what it calls, is not in `text`.
    pub unsafe fn put_over(&self, text: &Range<u64>, offset: u64, key: &[u8], entry: u64) -> Option<Patched> {
        let mut stubs = Stubs::read(text.start.checked_sub(DISTANCE)?, self)?;
        let content = stubs.bytes();
        let words: [u64; HEADER / 8] = core::array::from_fn(|index| word(content, 8 * index));
        let [_, MAGIC, key_length, sites, holes, from, length, ..] = words else { return None };
        let layout = Layout::new(key_length as usize, sites as usize, holes as usize)?;
        let same = content.get(layout.key..)?.get(..key_length as usize)? == key
            && words[HEADER / 8 - self.origin.0.len()..] == self.origin.0
            && (from, length) == (offset, text.end - text.start);
        if !same || layout.stubs > content.len() {
            return None;
        }
        stubs.complete(layout, sites as usize, text.start, entry)?;
        let content = stubs.bytes();
        let table = Sites::Prepared {
            sites: &content[layout.sites..layout.holes],
            holes: &content[layout.holes..layout.holes + 8 * holes as usize],
        };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let (at, size) = (pointer(text.start), (text.end - text.start) as usize);
        // SAFETY: the same code with jumps to stubs that are in place, says who has prepared it; the rest is the caller's promise.
        unsafe { mmap(at, size, ProtFlags::READ | ProtFlags::EXEC, flags, self.file.as_fd(), offset) }
            .ok()?;
        let range = stubs.keep();
        Some(Patched { text: text.clone(), stubs: range, entry, sites: table, ..Patched::default() })
    }
}

/// The memory that holds table and stubs. Unmapped when dropped.
struct Stubs {
    start: u64,
    length: usize,
}

impl Stubs {
    fn read(start: u64, text: &PreparedText) -> Option<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::POPULATE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: takes nothing away from anybody.
        let mapped = unsafe { mmap_anonymous(pointer(start), text.length, protection, flags) }.ok()?;
        let stubs = Self { start: mapped.expose_provenance() as u64, length: text.length };
        if stubs.start != start {
            return None;
        }
        // SAFETY: ours alone.
        let content = unsafe { core::slice::from_raw_parts_mut(mapped.cast::<u8>(), text.length) };
        (pread(&text.file, content, text.origin.section()).ok()? == text.length).then_some(stubs)
    }

    /// What is in them. Nothing is written there while such a reference is used.
    fn bytes(&self) -> &'static [u8] {
        // SAFETY: mapped and filled; unmapped only by who then gives the reference to nobody.
        unsafe { core::slice::from_raw_parts(pointer(self.start).cast::<u8>(), self.length) }
    }

    /// Puts in the addresses that only this process knows, and makes it executable.
    fn complete(&mut self, layout: Layout, sites: usize, text: u64, entry: u64) -> Option<()> {
        // SAFETY: ours alone; no other reference is alive.
        let memory =
            unsafe { core::slice::from_raw_parts_mut(pointer(self.start).cast::<u8>(), self.length) };
        memory[..8].copy_from_slice(&entry.to_le_bytes());
        for index in 0..sites {
            let at = layout.resumes + 4 * index;
            let resume = u32::from_le_bytes(memory.get(at..at + 4)?.try_into().ok()?) as usize;
            for word in [contract::SITE, contract::DONE] {
                let at = resume.checked_add_signed(word).filter(|&at| at >= layout.stubs)?;
                let word: &mut [u8; 8] = memory.get_mut(at..at + 8)?.try_into().ok()?;
                *word = u64::from_le_bytes(*word).wrapping_add(text).to_le_bytes();
            }
        }
        // SAFETY: ours alone; nobody runs or writes it now.
        unsafe { mprotect(pointer(self.start), self.length, MprotectFlags::READ | MprotectFlags::EXEC) }.ok()
    }

    fn keep(self) -> Range<u64> {
        let range = self.start..self.start + self.length as u64;
        core::mem::forget(self);
        range
    }
}

impl Drop for Stubs {
    fn drop(&mut self) {
        // SAFETY: ours; nothing leads there before it is kept.
        let _ = unsafe { munmap(pointer(self.start), self.length) };
    }
}

/// The site with this index in a table of such, and where its stub begins in the stubs' memory. Allocates nothing.
pub(super) fn item(sites: &[u8], index: usize) -> Option<(u64, Site)> {
    let (start, site) = sites.get(index * ITEM..)?.split_first_chunk::<4>()?;
    Some((u64::from(u32::from_le_bytes(*start)), site_at(site)?))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn pointer(address: u64) -> *mut c_void {
    core::ptr::with_exposed_provenance_mut(address as usize)
}
