//! The address map by one question for each mapping (Linux 6.11 and later): half of what it costs to have the kernel write it as text.

use core::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use super::maps::{Mapping, belongs};
use crate::raw;

const SYS_IOCTL: u32 = 16;
/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u64 = 0xc068_6611;
/// What is asked for: the mapping that holds the address, else the next one.
const COVERING_OR_NEXT: u64 = 0x10;
/// Only mappings of files are.
const OF_FILE: u64 = 0x20;
const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const EXECUTABLE: u64 = 4;
const SHARED: u64 = 8;
const ENOENT: i64 = -2;
/// Room for a name: a path and ` (deleted)`.
const NAME: usize = 4096 + 16;

/// `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// Which mappings are told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those of files.
    OfFiles,
}

/// What was found: mappings by rising address, and the text that their names are in.
pub type Found = (Vec<u8>, Vec<Mapping>);

/// The mappings from one end of memory to the other. `maps` is `/proc/self/maps`. `None` if the kernel does not answer so.
pub fn mappings(maps: &OwnedFd, which: Which) -> Option<Found> {
    let flags = COVERING_OR_NEXT | if which == Which::OfFiles { OF_FILE } else { 0 };
    let mut asking = Asking::new(maps);
    let mut found = Vec::with_capacity(64);
    let mut address = 0;
    while let Some(mapping) = asking.ask(address, flags).ok()? {
        address = mapping.range.end;
        found.push(mapping);
    }
    (address != 0).then_some((asking.names, found))
}

/// The mappings that `range` touches, and those of the first and the last one's object. `None` as above, and if the object has holes.
pub fn mappings_around(maps: &OwnedFd, range: &Range<u64>) -> Option<Found> {
    let mut asking = Asking::new(maps);
    let mut found: Vec<Mapping> = Vec::with_capacity(16);
    let mut address = range.start;
    while let Some(mapping) = asking.ask(address, COVERING_OR_NEXT).ok()? {
        address = mapping.range.end;
        if mapping.range.start >= range.end && !found.last().is_some_and(|last| belongs(last, &mapping)) {
            break;
        }
        found.push(mapping);
    }
    // Downwards the kernel only answers for an address, so a hole ends it.
    while let Some(first) = found.first().filter(|first| first.inode != 0 && first.offset != 0) {
        let before = asking.ask(first.range.start.checked_sub(1)?, 0).ok()??;
        if !belongs(&before, first) {
            break;
        }
        found.insert(0, before);
    }
    Some((asking.names, found))
}

/// The kernel does not answer such questions.
struct Unanswered;

struct Asking<'a> {
    maps: &'a OwnedFd,
    names: Vec<u8>,
}

impl<'a> Asking<'a> {
    fn new(maps: &'a OwnedFd) -> Self {
        Self { maps, names: Vec::with_capacity(NAME + 2048) }
    }

    /// The mapping at `address`, or another as `flags` say; `None` if there is none.
    fn ask(&mut self, address: u64, flags: u64) -> Result<Option<Mapping>, Unanswered> {
        self.names.reserve(NAME);
        let place = self.names.spare_capacity_mut();
        let mut query = Query {
            size: size_of::<Query>() as u64,
            flags,
            address,
            name_size: NAME as u32,
            name: place.as_mut_ptr() as u64,
            ..Query::default()
        };
        let arguments = (self.maps.as_raw_fd() as u64, (&raw mut query) as u64);
        // SAFETY: the kernel fills the structure, and so many bytes of the name's place at most as it has been told.
        match unsafe { raw::syscall3(SYS_IOCTL, arguments.0, PROCMAP_QUERY, arguments.1) } {
            0 => {}
            ENOENT => return Ok(None),
            _ => return Err(Unanswered),
        }
        // With the NUL that ends it; 0 if it has none.
        let length = (query.name_size as usize).min(NAME).saturating_sub(1);
        let path = self.names.len()..self.names.len() + length;
        // SAFETY: reserved, and written by the kernel.
        unsafe { self.names.set_len(path.end) };
        let flag = |flag| query.vma_flags & flag != 0;
        Ok(Some(Mapping {
            range: query.start..query.end,
            read: flag(READABLE),
            write: flag(WRITABLE),
            execute: flag(EXECUTABLE),
            shared: flag(SHARED),
            offset: query.offset,
            device: (query.major, query.minor),
            inode: query.inode,
            path,
        }))
    }
}
