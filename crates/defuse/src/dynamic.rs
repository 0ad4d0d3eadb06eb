//! What an ELF file says to the dynamic linker: which libraries it needs, and where to look for them.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;

use crate::native;

/// Enough for the headers of a program, and with the usual linkers for the name of its interpreter.
pub const START: usize = 1024;
/// No dynamic section is longer.
const SECTION_MAX: usize = 64 * 1024;
/// No path or name is longer.
const STRING_MAX: usize = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// The parts of the dynamic section that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Names of libraries.
    pub needed: Vec<Vec<u8>>,
    /// `DT_RPATH`: directories looked at first; empty if there is a `DT_RUNPATH`.
    pub rpath: Vec<u8>,
    /// `DT_RUNPATH`: directories looked at after those of `LD_LIBRARY_PATH`.
    pub runpath: Vec<u8>,
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// The beginning of an ELF file for this machine.
pub struct Headers<'a> {
    start: &'a [u8],
}

impl<'a> Headers<'a> {
    /// The headers in `start`, the first [`START`] bytes of a file; `None` if it is none of ours.
    pub fn parse(start: &'a [u8]) -> Option<Self> {
        // 64 bit, little-endian; x86-64.
        (start.starts_with(b"\x7fELF\x02\x01") && start.get(18..20)? == [62, 0]).then_some(Self { start })
    }

    fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let table = u64_at(self.start, 32).and_then(|at| self.start.get(usize::try_from(at).ok()?..));
        let count = self.start.get(56..58).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        table.unwrap_or(&[]).chunks_exact(56).take(count.into()).filter_map(|entry| {
            let kind = u32::from_le_bytes(entry[..4].try_into().ok()?);
            let (offset, address, size) = (u64_at(entry, 8)?, u64_at(entry, 16)?, u64_at(entry, 32)?);
            Some(Segment { kind, offset, address, size })
        })
    }

    /// The name of the interpreter, with its NUL.
    pub fn interpreter(&self, fd: RawFd) -> Option<Vec<u8>> {
        let found = self.segments().find(|segment| segment.kind == PT_INTERP)?;
        let mut name = vec![0; usize::try_from(found.size).ok().filter(|&size| size <= STRING_MAX)?];
        (read_at(fd, &mut name, found.offset) == name.len()).then_some(name)
    }

    /// Where in the file the byte for this address is.
    fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments()
            .filter(|segment| segment.kind == PT_LOAD)
            .find(|segment| address.checked_sub(segment.address).is_some_and(|within| within < segment.size))
            .and_then(|segment| segment.offset.checked_add(address - segment.address))
    }

    /// The dynamic section; `None` if there is none, or it makes no sense.
    pub fn dynamic(&self, fd: RawFd) -> Option<Dynamic> {
        let section = self.segments().find(|segment| segment.kind == PT_DYNAMIC)?;
        let mut bytes = vec![0; usize::try_from(section.size).ok().filter(|&size| size <= SECTION_MAX)?];
        let count = read_at(fd, &mut bytes, section.offset);
        let entries = || {
            bytes[..count].as_chunks::<16>().0.iter().map_while(|entry| {
                let (tag, value) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
                (tag != 0).then_some((tag, value))
            })
        };
        let (_, table) = entries().find(|&(tag, _)| tag == DT_STRTAB)?;
        let table = self.offset_of(table)?;
        let mut found = Dynamic::default();
        for (tag, value) in entries() {
            match tag {
                DT_NEEDED => found.needed.push(string_at(fd, table.checked_add(value)?)?),
                DT_RPATH => found.rpath = string_at(fd, table.checked_add(value)?)?,
                DT_RUNPATH => found.runpath = string_at(fd, table.checked_add(value)?)?,
                _ => {}
            }
        }
        if !found.runpath.is_empty() {
            found.rpath.clear();
        }
        Some(found)
    }
}

/// The C string at this place of the file.
fn string_at(fd: RawFd, offset: u64) -> Option<Vec<u8>> {
    let mut text = vec![0; 128];
    loop {
        let count = read_at(fd, &mut text, offset);
        if let Some(end) = text[..count].iter().position(|&byte| byte == 0) {
            text.truncate(end);
            return Some(text);
        }
        if count < text.len() || text.len() >= STRING_MAX {
            return None;
        }
        text.resize(text.len() * 4, 0);
    }
}

/// The bytes at this place, if all are there.
fn bytes_at<const N: usize>(of: &[u8], at: usize) -> Option<[u8; N]> {
    of.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The little-endian number at this place.
pub fn u16_at(of: &[u8], at: usize) -> Option<u16> {
    bytes_at(of, at).map(u16::from_le_bytes)
}

/// The little-endian number at this place.
pub fn u32_at(of: &[u8], at: usize) -> Option<u32> {
    bytes_at(of, at).map(u32::from_le_bytes)
}

/// The little-endian number at this place.
pub fn u64_at(of: &[u8], at: usize) -> Option<u64> {
    bytes_at(of, at).map(u64::from_le_bytes)
}

/// Reads at `offset`; how much came, 0 on an error.
pub fn read_at(fd: RawFd, buffer: &mut [u8], offset: u64) -> usize {
    let args = [fd as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, offset, 0, 0];
    native::raw_call(sys::__NR_pread64, args).max(0) as usize
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_program_of_the_machine_is_understood() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let mut start = [0; START];
        let count = read_at(program.as_raw_fd(), &mut start, 0);
        let headers = Headers::parse(&start[..count]).unwrap();
        assert_eq!(headers.interpreter(program.as_raw_fd()).unwrap(), b"/lib64/ld-linux-x86-64.so.2\0");
        let dynamic = headers.dynamic(program.as_raw_fd()).unwrap();
        assert!(dynamic.needed.contains(&b"libc.so.6".to_vec()), "{dynamic:?}");
    }

    /// Whatever stands there, it is answered, not believed.
    #[test]
    fn damaged_headers_do_no_harm() {
        let mut whole = std::fs::read("/bin/true").unwrap();
        whole.truncate(64 * 1024);
        for at in (0..START).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            damaged[at + 1] = 0xff;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&damaged).unwrap();
            if let Some(headers) = Headers::parse(&damaged[..START]) {
                let _ = headers.interpreter(file.as_raw_fd());
                let _ = headers.dynamic(file.as_raw_fd());
            }
        }
    }
}
