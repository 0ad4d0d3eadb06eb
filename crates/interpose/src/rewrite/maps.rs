//! The process's address map, and the objects loaded into it.

use core::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat, stat};
use rustix::io;
use rustix::mm::{Advice, madvise};

use super::image::{Image, Segment};
use super::near::PAGE;
use super::query::{self, Which};

/// One mapping of `/proc/self/maps`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the four letters of a line")]
pub struct Mapping {
    /// Addresses.
    pub range: Range<u64>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
    /// Writes go to the file (or other processes), not to a copy of one's own.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Device of the file: major, minor.
    pub device: (u32, u32),
    /// Inode number; 0 for memory without a file.
    pub inode: u64,
    pub(super) path: Range<usize>,
}

/// A snapshot of the address map.
#[derive(Clone, Debug, Default)]
pub struct AddressMap {
    text: Vec<u8>,
    mappings: Vec<Mapping>,
    /// There are mappings that it does not tell of.
    partial: bool,
}

/// An object of which at least one mapping is executable.
#[derive(Clone, Copy, Debug)]
pub struct LoadedObject<'a> {
    map: &'a AddressMap,
    mappings: &'a [Mapping],
}

impl AddressMap {
    /// Reads `/proc/self/maps` with system calls of its own (openat, ioctl, read, close).
    pub fn read() -> io::Result<Self> {
        Self::read_by(|maps| query::mappings(maps, Which::All), false)
    }

    /// The same of what is mapped from files, where the kernel can tell that alone: else all.
    pub(crate) fn read_of_files() -> io::Result<Self> {
        Self::read_by(|maps| query::mappings(maps, Which::OfFiles), true)
    }

    /// What is mapped in `range`, and the other parts of the objects that this is of; more where the kernel tells of all only. What it
    /// takes does not grow with what else is mapped.
    pub(crate) fn read_around(range: &Range<u64>) -> io::Result<Self> {
        Self::read_by(|maps| query::mappings_around(maps, range), true)
    }

    fn read_by(ask: impl FnOnce(&OwnedFd) -> Option<query::Found>, partial: bool) -> io::Result<Self> {
        let file = openat(CWD, c"/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match ask(&file) {
            Some((text, mappings)) => Ok(Self { text, mappings, partial }),
            None => Self::read_text(&file),
        }
    }

    /// Whether there may be mappings that it does not tell of.
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    fn read_text(file: &OwnedFd) -> io::Result<Self> {
        let mut text = vec![0; 8 * 1024];
        let mut len = 0;
        loop {
            if text.len() - len < 4096 {
                text.resize(text.len() * 2, 0);
            }
            let read = io::read(file, &mut text[len..])?;
            len += read;
            if read == 0 {
                text.truncate(len);
                return Ok(Self::parse(text));
            }
        }
    }

    /// Parses what `/proc/PID/maps` holds. Lines of another form are left out.
    pub fn parse(text: Vec<u8>) -> Self {
        let mut mappings = Vec::with_capacity(text.len() / 64);
        let mut start = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            mappings.extend(parse_line(line.trim_ascii_end(), start));
            start += line.len();
        }
        Self { text, mappings, partial: false }
    }

    /// All mappings, by rising address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// What the map calls a mapping: a path, `[heap]`, or nothing.
    pub fn path(&self, mapping: &Mapping) -> &[u8] {
        &self.text[mapping.path.clone()]
    }

    /// The objects mapped from files with something executable in them. Leaves out what overlaps one of `except`
    /// (our own library), the vdso, memory without a file, and files whose code is mapped shared: a change would go to the file.
    pub fn objects<'a>(&'a self, except: &'a [Range<u64>]) -> impl Iterator<Item = LoadedObject<'a>> {
        self.mappings
            .chunk_by(belongs)
            .map(|mappings| LoadedObject { map: self, mappings })
            .filter(|object| object.mappings[0].inode != 0 && object.mappings.iter().any(|m| m.execute))
            .filter(|object| !object.mappings.iter().any(|m| m.execute && m.shared))
            .filter(|object| {
                let own = |m: &Mapping| except.iter().any(|e| m.range.start < e.end && e.start < m.range.end);
                !object.mappings.iter().any(own)
            })
    }
}

/// Whether `next`, which follows `one`, is of the same object. A new one begins with another file, or with the file's beginning mapped once
/// more.
pub(super) fn belongs(one: &Mapping, next: &Mapping) -> bool {
    one.inode == next.inode && one.device == next.device && next.offset != 0
}

impl<'a> LoadedObject<'a> {
    /// The file's path when it was mapped (with ` (deleted)` if it is gone).
    pub fn path(&self) -> &'a [u8] {
        self.map.path(&self.mappings[0])
    }

    /// Device (major, minor) and inode number of the file.
    pub fn file(&self) -> ((u32, u32), u64) {
        (self.mappings[0].device, self.mappings[0].inode)
    }

    /// Names the object's content, as the key of a list made by [`super::Plan::to_bytes`]: the build-id, else which file
    /// it is, in which state. `None` if neither can be told (the file was replaced); then do not keep the list.
    pub fn key(&self, image: &Image) -> Option<Vec<u8>> {
        if let Some(id) = image.build_id() {
            return Some([b"build-id ", id].concat());
        }
        let status = stat(self.path()).ok()?;
        if status.st_ino != self.file().1 {
            return None;
        }
        let state = [
            status.st_dev,
            status.st_ino,
            status.st_size as u64,
            status.st_mtime as u64,
            status.st_mtime_nsec,
        ];
        Some([&b"file "[..], state.map(u64::to_le_bytes).as_flattened()].concat())
    }

    /// Its mappings, by rising address.
    pub fn mappings(&self) -> &'a [Mapping] {
        self.mappings
    }

    /// The object as it is in memory; `None` if it does not begin with ELF headers.
    ///
    /// # Safety
    ///
    /// Until the last use of the image, the object's read-only mappings stay mapped and nobody (this crate's
    /// [`super::apply`] included) changes what is in them.
    pub unsafe fn image(&self) -> Option<Image<'a>> {
        // SAFETY: the caller's promise; that far the file reaches.
        unsafe { self.image_of(present) }
    }

    /// The same of an object that nobody is in the middle of mapping, without a look at how far its file reaches.
    ///
    /// # Safety
    ///
    /// As for [`LoadedObject::image`], and ld.so has finished loading the object.
    pub unsafe fn image_when_loaded(&self) -> Option<Image<'a>> {
        // SAFETY: the caller's promise.
        unsafe { self.image_of(|range| range.end - range.start) }
    }

    /// # Safety
    ///
    /// As for [`LoadedObject::image`]; so much of each mapping can be read as `length` says.
    unsafe fn image_of(&self, length: impl Fn(&Range<u64>) -> u64) -> Option<Image<'a>> {
        if self.mappings[0].offset != 0 {
            return None;
        }
        let fixed = || self.mappings.iter().filter(|m| m.read && !m.write);
        let segments = fixed().map(|mapping| Segment {
            address: mapping.range.start,
            // SAFETY: the map says that the range may be read, and the caller how far; it keeps it mapped and unchanged.
            bytes: unsafe {
                let start = core::ptr::with_exposed_provenance(mapping.range.start as usize);
                core::slice::from_raw_parts(start, length(&mapping.range) as usize)
            },
            executable: mapping.execute,
        });
        let offsets: Vec<u64> = fixed().map(|mapping| mapping.offset).collect();
        Image::from_mappings(segments.collect(), &offsets)
    }
}

/// Length of the part of a mapping that can be read, in whole pages. ld.so first maps a file over all of an object's
/// addresses, also over those behind the file's end that it maps anew afterwards; reading there is SIGBUS.
fn present(range: &Range<u64>) -> u64 {
    let readable = |page: u64| {
        let start = core::ptr::with_exposed_provenance_mut((range.start + page * PAGE) as usize);
        // SAFETY: populating for reading changes nothing the program can see.
        unsafe { madvise(start, PAGE as usize, Advice::LinuxPopulateRead) }.is_ok()
    };
    let pages = (range.end - range.start) / PAGE;
    if pages == 0 || readable(pages - 1) {
        return pages * PAGE;
    }
    let (mut low, mut high) = (0, pages - 1);
    while low < high {
        let middle = low.midpoint(high);
        if readable(middle) { low = middle + 1 } else { high = middle }
    }
    low * PAGE
}

/// `55d0c0a00000-55d0c0a02000 r--p 00000000 08:01 1234    /usr/bin/true`
fn parse_line(line: &[u8], line_start: usize) -> Option<Mapping> {
    let (start, rest) = hex(line)?;
    let (end, rest) = hex(rest.strip_prefix(b"-")?)?;
    let [b' ', read, write, execute, shared, b' ', rest @ ..] = rest else { return None };
    let (offset, rest) = hex(rest)?;
    let (major, rest) = hex(rest.strip_prefix(b" ")?)?;
    let (minor, rest) = hex(rest.strip_prefix(b":")?)?;
    let rest = rest.strip_prefix(b" ")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let inode = rest[..digits].iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let path = rest[digits..].trim_ascii_start();
    let path_start = line_start + line.len() - path.len();
    Some(Mapping {
        range: start..end,
        read: *read == b'r',
        write: *write == b'w',
        execute: *execute == b'x',
        shared: *shared == b's',
        offset,
        device: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
        inode,
        path: path_start..path_start + path.len(),
    })
}

fn hex(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let value = text[..digits]
        .iter()
        .fold(0_u64, |sum, &digit| sum << 4 | u64::from((digit as char).to_digit(16).unwrap_or(0)));
    (1..=16).contains(&digits).then_some((value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_read_it_agree() {
        let file = openat(CWD, c"/proc/self/maps", OFlags::RDONLY, Mode::empty()).unwrap();
        let Some((text, mappings)) = query::mappings(&file, Which::All) else { return };
        let asked = AddressMap { text, mappings, partial: false };
        let read = AddressMap::read_text(&file).unwrap();
        // What other threads map and the heap grow meanwhile is in one only; what is from a file stays.
        let of_files = |map: &AddressMap| -> Vec<String> {
            let all = map.mappings().iter().filter(|mapping| mapping.inode != 0);
            all.map(|mapping| told(map, mapping)).collect()
        };
        assert!(of_files(&read).len() > 8);
        assert_eq!(of_files(&asked), of_files(&read));
        let files = AddressMap::read_of_files().unwrap();
        assert_eq!(of_files(&files), of_files(&read));
        assert!(files.mappings().len() < read.mappings().len());
        for name in [&b"[stack]"[..], b"[vdso]"] {
            assert!(asked.mappings().iter().any(|mapping| asked.path(mapping) == name));
        }
    }

    fn told(map: &AddressMap, mapping: &Mapping) -> String {
        format!("{:?} {}", Mapping { path: 0..0, ..mapping.clone() }, map.path(mapping).escape_ascii())
    }

    #[test]
    fn what_is_read_around_a_range_has_its_objects_whole() {
        let whole = AddressMap::read().unwrap();
        let described = |object: &LoadedObject<'_>| -> Vec<String> {
            object.mappings.iter().map(|mapping| told(object.map, mapping)).collect()
        };
        let mut seen = 0;
        for object in whole.objects(&[]) {
            for mapping in object.mappings().iter().filter(|mapping| mapping.execute) {
                // All of it, and a part: ld.so maps the first, a program may change the other.
                for range in [mapping.range.clone(), mapping.range.start..mapping.range.start + PAGE] {
                    let around = AddressMap::read_around(&range).unwrap();
                    if !around.is_partial() {
                        continue; // A kernel that tells of all only.
                    }
                    let found: Vec<_> = around.objects(&[]).map(|object| described(&object)).collect();
                    assert_eq!(found, [described(&object)]);
                    assert!(around.mappings().len() < whole.mappings().len());
                    seen += 1;
                }
            }
        }
        println!("{seen} ranges");
    }

    #[test]
    fn nothing_is_read_where_nothing_is_mapped() {
        let around = AddressMap::read_around(&(PAGE..2 * PAGE)).unwrap();
        assert!(!around.is_partial() || around.mappings().is_empty());
    }
}
