//! Mapping a program as the kernel would.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::layout::{Layout, Segment};
use crate::{native, user};

const PAGE: u64 = 4096;
const PF_W: u32 = 2;

/// A program in memory.
pub struct Mapped {
    /// What was added to its addresses.
    pub base: u64,
    pub entry: u64,
    /// Its program headers.
    pub headers: u64,
    pub header_count: u64,
}

/// Maps the program in `fd`.
pub fn map(fd: RawFd, layout: &Layout) -> Result<Mapped, Errno> {
    let base = if layout.fixed { 0 } else { make_room(layout)? };
    for segment in &layout.segments {
        // A place of our own choice is ours already; one of the program's must be free.
        let placed = if layout.fixed { sys::MAP_FIXED_NOREPLACE } else { sys::MAP_FIXED };
        map_segment(fd, segment, base, placed)?;
    }
    Ok(Mapped {
        base,
        entry: base.wrapping_add(layout.entry),
        headers: base.wrapping_add(layout.headers),
        header_count: layout.header_count,
    })
}

/// Finds a place for all of it. What comes back is added to its addresses.
fn make_room(layout: &Layout) -> Result<u64, Errno> {
    let span = layout.span();
    let length = span.end - span.start;
    let slack = if layout.alignment > PAGE { layout.alignment } else { 0 };
    let found = mmap(0, length + slack, sys::PROT_NONE, sys::MAP_PRIVATE | sys::MAP_ANONYMOUS, -1, 0)?;
    // The first address not below `found` that is as far from a multiple of the alignment as the program's own.
    let start = found + (span.start.wrapping_sub(found) & (layout.alignment - 1));
    for (from, to) in [(found, start), (start + length, found + length + slack)] {
        if to > from {
            native::raw_call(sys::__NR_munmap, [from, to - from, 0, 0, 0, 0]);
        }
    }
    Ok(start.wrapping_sub(span.start))
}

fn map_segment(fd: RawFd, segment: &Segment, base: u64, placed: u32) -> Result<(), Errno> {
    let protection = protection(segment.flags);
    let pages = segment.pages();
    let (start, end) = (base.wrapping_add(pages.start), base.wrapping_add(pages.end));
    let before = segment.address - pages.start;
    let file_end = base.wrapping_add(segment.address) + segment.file_size;
    let from_file = if segment.file_size == 0 { start } else { file_end.next_multiple_of(PAGE) };
    if from_file > start {
        let offset = segment.offset - before;
        mmap(start, from_file - start, protection, sys::MAP_PRIVATE | placed, fd, offset)?;
        if segment.memory_size > segment.file_size && segment.flags & PF_W != 0 {
            user::write_bytes(file_end, &[0; PAGE as usize][..(from_file - file_end) as usize])?;
        }
    }
    if end > from_file {
        mmap(from_file, end - from_file, protection, sys::MAP_PRIVATE | sys::MAP_ANONYMOUS | placed, -1, 0)?;
    }
    Ok(())
}

fn protection(flags: u32) -> u32 {
    let each = [(4, sys::PROT_READ), (PF_W, sys::PROT_WRITE), (1, sys::PROT_EXEC)];
    each.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, one)| all | one)
}

fn mmap(
    address: u64,
    length: u64,
    protection: u32,
    flags: u32,
    fd: RawFd,
    offset: u64,
) -> Result<u64, Errno> {
    let args = [address, length, protection.into(), flags.into(), fd as u64, offset];
    native::checked(sys::__NR_mmap, args)
}
