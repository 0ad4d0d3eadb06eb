//! The address map by one question for each mapping (Linux 6.11 and later): half of what it costs to have the kernel write it as text.

use std::os::fd::{AsRawFd, OwnedFd};

use super::maps::Mapping;
use crate::raw;

const SYS_IOCTL: u32 = 16;
/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u64 = 0xc068_6611;
/// What is asked for: the mapping that holds the address, else the next one.
const COVERING_OR_NEXT: u64 = 0x10;
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

/// All mappings by rising address, and the text that their names are in. `maps` is `/proc/self/maps`. `None` if the kernel does not
/// answer so.
pub fn mappings(maps: &OwnedFd) -> Option<(Vec<u8>, Vec<Mapping>)> {
    let mut found = Vec::with_capacity(64);
    let mut names: Vec<u8> = Vec::with_capacity(NAME + 2048);
    let mut address = 0;
    loop {
        names.reserve(NAME);
        let place = names.spare_capacity_mut();
        let mut query = Query {
            size: size_of::<Query>() as u64,
            flags: COVERING_OR_NEXT,
            address,
            name_size: NAME as u32,
            name: place.as_mut_ptr() as u64,
            ..Query::default()
        };
        let arguments = (maps.as_raw_fd() as u64, (&raw mut query) as u64);
        // SAFETY: the kernel fills the structure, and so many bytes of the name's place at most as it has been told.
        match unsafe { raw::syscall3(SYS_IOCTL, arguments.0, PROCMAP_QUERY, arguments.1) } {
            0 => {}
            ENOENT if address != 0 => return Some((names, found)),
            _ => return None,
        }
        // With the NUL that ends it; 0 if it has none.
        let length = (query.name_size as usize).min(NAME).saturating_sub(1);
        let path = names.len()..names.len() + length;
        // SAFETY: reserved, and written by the kernel.
        unsafe { names.set_len(path.end) };
        let flag = |flag| query.vma_flags & flag != 0;
        found.push(Mapping {
            range: query.start..query.end,
            read: flag(READABLE),
            write: flag(WRITABLE),
            execute: flag(EXECUTABLE),
            shared: flag(SHARED),
            offset: query.offset,
            device: (query.major, query.minor),
            inode: query.inode,
            path,
        });
        address = query.end;
    }
}
