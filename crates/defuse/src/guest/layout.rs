//! What an ELF file says about how it is to be mapped.

use std::ops::Range;
use std::os::fd::RawFd;

use crate::dynamic::{self, u16_at, u32_at, u64_at};

const PAGE: u64 = 4096;
const HEADER: usize = 64;
pub const PROGRAM_HEADER: usize = 56;
/// More than any linker makes.
const HEADERS_MAX: usize = 64;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
/// Where a program of fixed addresses may lie: above what is forbidden to map, below where position-independent ones are put, of which our own is
/// one.
const FIXED: Range<u64> = 0x1_0000..0x2000_0000_0000;
/// No program is larger.
const SPAN_MAX: u64 = 1 << 40;
/// No path is longer.
const PATH_MAX: u64 = 4096;

/// A part of the file that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub address: u64,
    pub file_size: u64,
    pub memory_size: u64,
    /// `PF_` flags.
    pub flags: u32,
}

impl Segment {
    /// The pages it takes.
    pub fn pages(&self) -> Range<u64> {
        self.address & !(PAGE - 1)..(self.address + self.memory_size).next_multiple_of(PAGE)
    }
}

/// Where the parts of a program go, and where it begins, relative to where it is put.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// It is put at address 0.
    pub fixed: bool,
    pub entry: u64,
    /// The program headers in memory.
    pub headers: u64,
    pub header_count: u64,
    /// By rising address.
    pub segments: Vec<Segment>,
    /// A power of two.
    pub alignment: u64,
    /// Path of its dynamic linker.
    pub interpreter: Option<Vec<u8>>,
}

impl Layout {
    /// `None` for what is not such a program, and for what we do not map.
    pub fn read(fd: RawFd) -> Option<Self> {
        Self::parse(|buffer, offset| dynamic::read_at(fd, buffer, offset))
    }

    fn parse(read: impl Fn(&mut [u8], u64) -> usize) -> Option<Self> {
        let mut header = [0; HEADER];
        let whole = read(&mut header, 0) == HEADER;
        // 64 bit, little-endian; x86-64.
        if !whole || !header.starts_with(b"\x7fELF\x02\x01") || header[18..20] != [62, 0] {
            return None;
        }
        let kind = u16_at(&header, 16)?;
        let (entry, table) = (u64_at(&header, 24)?, u64_at(&header, 32)?);
        let (size, count) = (u16_at(&header, 54)?, u16_at(&header, 56)?);
        if !matches!(kind, ET_EXEC | ET_DYN)
            || usize::from(size) != PROGRAM_HEADER
            || usize::from(count) > HEADERS_MAX
        {
            return None;
        }
        let mut headers = [0; HEADERS_MAX * PROGRAM_HEADER];
        let headers = &mut headers[..usize::from(count) * PROGRAM_HEADER];
        if read(headers, table) < headers.len() {
            return None;
        }
        let (mut segments, mut interpreter, mut alignment) = (Vec::<Segment>::new(), None, PAGE);
        for entry in headers.as_chunks::<PROGRAM_HEADER>().0 {
            let flags = u32_at(entry, 4)?;
            let [offset, address, _, file_size, memory_size, aligned]: [u64; 6] =
                std::array::from_fn(|at| u64_at(entry, 8 + 8 * at).unwrap_or(0));
            match u32_at(entry, 0)? {
                PT_LOAD => {
                    alignment = alignment.max(aligned);
                    segments.push(Segment { offset, address, file_size, memory_size, flags });
                }
                PT_INTERP => {
                    let mut name =
                        vec![0; usize::try_from(file_size).ok().filter(|_| file_size <= PATH_MAX)?];
                    if read(&mut name, offset) < name.len()
                        || name.pop() != Some(0)
                        || name.first() != Some(&b'/')
                    {
                        return None;
                    }
                    interpreter = Some(name);
                }
                // The kernel would make all its memory executable, or its stack.
                PT_GNU_STACK if flags & PF_X != 0 => return None,
                _ => {}
            }
        }
        let fixed = kind == ET_EXEC;
        let well_made = alignment.is_power_of_two()
            && alignment <= 1 << 30
            && are_mappable(&segments)
            && (!fixed || segments.iter().all(|part| is_within(&part.pages(), &FIXED)))
            && segments.iter().any(|part| part.flags & PF_X != 0 && holds(part, entry, 1));
        let length = headers.len() as u64;
        let in_memory = segments.iter().find(|part| {
            part.offset <= table
                && table.checked_add(length).is_some_and(|end| end <= part.offset + part.file_size)
        })?;
        let headers = in_memory.address + (table - in_memory.offset);
        well_made.then_some(Self {
            fixed,
            entry,
            headers,
            header_count: count.into(),
            segments,
            alignment,
            interpreter,
        })
    }

    /// All pages between the first and the last.
    pub fn span(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |part| part.pages().start);
        start..self.segments.last().map_or(start, |part| part.pages().end)
    }
}

/// Whether the kernel would map them, each in pages of its own.
fn are_mappable(segments: &[Segment]) -> bool {
    let sound = |part: &Segment| {
        let ends = [part.address.checked_add(part.memory_size), part.offset.checked_add(part.file_size)];
        part.file_size <= part.memory_size
            && part.memory_size > 0
            && part.address % PAGE == part.offset % PAGE
            && ends.iter().all(|end| end.is_some_and(|end| end < 1 << 47))
    };
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return false };
    segments.iter().all(sound)
        && segments.is_sorted_by(|one, next| one.pages().end <= next.pages().start)
        && last.pages().end - first.pages().start <= SPAN_MAX
}

fn is_within(inner: &Range<u64>, outer: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn holds(part: &Segment, address: u64, length: u64) -> bool {
    address >= part.address && address - part.address + length <= part.memory_size
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reader(file: &[u8]) -> impl Fn(&mut [u8], u64) -> usize {
        move |buffer, offset| {
            let from = file.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
            let count = from.len().min(buffer.len());
            buffer[..count].copy_from_slice(&from[..count]);
            count
        }
    }

    /// A program with these segments, `(kind, flags, offset, address, file size, memory size)`, that begins at 0x40_1000.
    fn elf(kind: u16, segments: &[(u32, u32, u64, u64, u64, u64)]) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18] = 62;
        file[24..32].copy_from_slice(&0x40_1000_u64.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        for (entry, &(kind, flags, offset, address, in_file, in_memory)) in
            file[64..].chunks_exact_mut(56).zip(segments)
        {
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[4..8].copy_from_slice(&flags.to_le_bytes());
            for (at, value) in [offset, address, address, in_file, in_memory, 4096].into_iter().enumerate() {
                entry[8 + 8 * at..16 + 8 * at].copy_from_slice(&value.to_le_bytes());
            }
        }
        file
    }

    const HEADERS: (u32, u32, u64, u64, u64, u64) = (PT_LOAD, 4, 0, 0x40_0000, 0x800, 0x800);
    const TEXT: (u32, u32, u64, u64, u64, u64) = (PT_LOAD, 5, 0x1000, 0x40_1000, 0x2000, 0x2000);
    const DATA: (u32, u32, u64, u64, u64, u64) = (PT_LOAD, 6, 0x3010, 0x40_4010, 0x10, 0x4000);

    #[test]
    fn a_program_is_understood() {
        let layout = Layout::parse(reader(&elf(ET_EXEC, &[HEADERS, TEXT, DATA]))).unwrap();
        assert!(layout.fixed);
        assert_eq!((layout.headers, layout.header_count), (0x40_0040, 3));
        assert_eq!(layout.span(), 0x40_0000..0x40_9000);
        assert_eq!(layout.interpreter, None);
    }

    #[test]
    fn what_is_not_mapped_is_told_before() {
        let refused = |kind, segments: &[_]| {
            assert_eq!(Layout::parse(reader(&elf(kind, segments))), None, "{segments:?}");
        };
        refused(1, &[HEADERS, TEXT]);
        refused(ET_EXEC, &[]);
        // It begins where nothing can be executed.
        refused(ET_EXEC, &[HEADERS, DATA]);
        refused(ET_EXEC, &[HEADERS, (PT_LOAD, 4, 0x1000, 0x40_1000, 0x2000, 0x2000)]);
        // Not in order, or in one page.
        refused(ET_EXEC, &[HEADERS, DATA, TEXT]);
        refused(ET_EXEC, &[HEADERS, TEXT, (PT_LOAD, 6, 0x2800, 0x40_2800, 8, 8)]);
        // Where our own program may be.
        refused(ET_EXEC, &[HEADERS, TEXT, (PT_LOAD, 6, 0, 0x5555_5555_4000, 8, 8)]);
        // A stack that can be executed.
        refused(ET_EXEC, &[HEADERS, TEXT, (PT_GNU_STACK, 7, 0, 0, 0, 0)]);
        // The file's offset and the address do not agree.
        refused(ET_EXEC, &[HEADERS, TEXT, (PT_LOAD, 6, 0x3010, 0x40_4020, 8, 8)]);
        refused(ET_EXEC, &[HEADERS, TEXT, (PT_LOAD, 6, 0x3000, 0x40_4000, 16, 8)]);
    }

    proptest! {
        #[test]
        fn nonsense_is_survived(
            mut file in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..600),
                Just(elf(ET_DYN, &[HEADERS, TEXT, DATA])),
            ],
            changes in prop::collection::vec((0_usize..300, any::<u8>()), 0..8),
        ) {
            for (at, byte) in changes {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(layout) = Layout::parse(reader(&file)) {
                prop_assert!(layout.span().end - layout.span().start <= SPAN_MAX);
            }
        }
    }
}
