//! An ELF object as the program headers describe it, in a file or in memory.

use core::ops::Range;

use super::functions::FunctionTable;
use super::scan::scan;
use super::site::Plan;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const HEADER: usize = 64;
const PAGE: u64 = 4096;
const PROGRAM_HEADER: usize = 56;
const NT_GNU_BUILD_ID: u32 = 3;

/// One readable piece of an object.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Where it is: an absolute address in memory, the address it was linked for in a file.
    pub address: u64,
    /// What it holds.
    pub bytes: &'a [u8],
    /// Whether it is mapped executable.
    pub executable: bool,
}

/// An x86-64 ELF object, of which only the loaded part matters.
#[derive(Clone, Debug, Default)]
pub struct Image<'a> {
    segments: Vec<Segment<'a>>,
    build_id: Option<&'a [u8]>,
    /// Its address, and the piece that holds it.
    unwind_table: Option<(u64, Segment<'a>)>,
}

impl<'a> Image<'a> {
    /// An object as it is in a file: for lists made ahead, and for `doctor`.
    pub fn from_file(file: &'a [u8]) -> Option<Self> {
        let (mut segments, mut offsets) = (Vec::new(), Vec::new());
        for header in program_headers(file)? {
            if header.kind == PT_LOAD {
                // Whole pages are mapped, so that a plan counts from the same place in memory.
                let lead = header.address % PAGE;
                let (address, offset) = (header.address - lead, header.offset.checked_sub(lead)?);
                let end = header.offset.checked_add(header.size)?;
                let mapped = end.next_multiple_of(PAGE).min(file.len() as u64).max(end);
                let bytes = file.get(offset as usize..mapped as usize)?;
                segments.push(Segment { address, bytes, executable: header.flags & PF_X != 0 });
                offsets.push(offset);
            }
        }
        Self::assemble(segments, &offsets, file, 0)
    }

    /// An object as it is in memory: its readable mappings in the order of their addresses. `None` unless the first
    /// begins with the object's headers.
    pub fn from_segments(segments: Vec<Segment<'a>>) -> Option<Self> {
        Self::from_mappings(segments, &[])
    }

    /// The same, knowing from where in the file each is mapped.
    pub(crate) fn from_mappings(segments: Vec<Segment<'a>>, offsets: &[u64]) -> Option<Self> {
        let first = *segments.first()?;
        let linked = program_headers(first.bytes)?.find(|h| h.kind == PT_LOAD && h.offset == 0)?.address;
        Self::assemble(segments, offsets, first.bytes, first.address.wrapping_sub(linked))
    }

    /// The bytes of the GNU build-id note.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        self.build_id
    }

    /// The address of its first piece.
    pub fn start(&self) -> u64 {
        self.segments.first().map_or(0, |first| first.address)
    }

    /// The pieces that are mapped executable.
    pub fn texts(&self) -> impl Iterator<Item = Segment<'a>> {
        self.segments.iter().copied().filter(|segment| segment.executable)
    }

    /// The pieces that are not.
    pub fn data(&self) -> impl Iterator<Item = Segment<'a>> {
        self.segments.iter().copied().filter(|segment| !segment.executable)
    }

    /// Where the functions of `text` begin. Empty where the object does not say.
    pub fn functions(&self, text: &Segment) -> FunctionTable<'a> {
        self.unwind_table
            .and_then(|(address, segment)| {
                FunctionTable::parse(segment.bytes, segment.address, address, text.address)
            })
            .unwrap_or_default()
    }

    /// Whether the object says where its functions begin, so that a scan understands all it can.
    pub fn tells_functions(&self) -> bool {
        self.unwind_table.is_some()
    }

    /// Scans one of [`Image::texts`]; see [`scan`].
    pub fn scan(&self, text: &Segment, interest: &dyn Fn(Option<u32>) -> bool) -> Plan {
        scan(text.bytes, &self.functions(text), interest)
    }

    fn assemble(segments: Vec<Segment<'a>>, offsets: &[u64], headers: &'a [u8], bias: u64) -> Option<Self> {
        let mut image = Self { segments, build_id: None, unwind_table: None };
        for header in program_headers(headers)? {
            let address = header.address.wrapping_add(bias);
            let Some(index) = image.index_of(address, header.size) else { continue };
            let segment = image.segments[index];
            let within = address - segment.address;
            // While ld.so maps an object, a part may not be in its place yet.
            if offsets.get(index).is_some_and(|offset| offset.wrapping_add(within) != header.offset) {
                continue;
            }
            match header.kind {
                PT_NOTE if image.build_id.is_none() => {
                    image.build_id = build_id(&segment.bytes[within as usize..][..header.size as usize]);
                }
                PT_GNU_EH_FRAME => image.unwind_table = Some((address, segment)),
                _ => {}
            }
        }
        Some(image)
    }

    fn index_of(&self, address: u64, len: u64) -> Option<usize> {
        self.segments.iter().position(|segment| {
            let range = range_of(segment);
            range.contains(&address) && address.checked_add(len).is_some_and(|end| end <= range.end)
        })
    }
}

/// Its addresses.
fn range_of(segment: &Segment) -> Range<u64> {
    segment.address..segment.address.saturating_add(segment.bytes.len() as u64)
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// The program headers of an x86-64 ELF object of 64 bits; `None` if `object` is not one.
fn program_headers(object: &[u8]) -> Option<impl Iterator<Item = ProgramHeader>> {
    const MAGIC: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
    const X86_64: u16 = 62;
    let header = object.get(..HEADER)?;
    if !header.starts_with(&MAGIC)
        || u16_at(header, 18) != X86_64
        || u16_at(header, 54) as usize != PROGRAM_HEADER
    {
        return None;
    }
    let table = object.get(u64_at(header, 32) as usize..)?;
    let table = table.get(..u16_at(header, 56) as usize * PROGRAM_HEADER)?;
    Some(table.chunks_exact(PROGRAM_HEADER).map(|entry| ProgramHeader {
        kind: u32_at(entry, 0),
        flags: u32_at(entry, 4),
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        size: u64_at(entry, 32),
    }))
}

fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    while notes.len() >= 12 {
        let (name_len, len) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize);
        let name = notes.get(12..)?.get(..name_len)?;
        let at = 12 + name_len.next_multiple_of(4);
        let content = notes.get(at..)?.get(..len)?;
        if u32_at(notes, 8) == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(content);
        }
        notes = notes.get(at + len.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
