//! Where functions begin and end, from the tables unwinders use.

use core::ops::Range;

/// How many entries directly before that of an address are taken to be one function with it.
const ENTRIES_JOINED: usize = 2;

/// The sorted table of functions in `.eh_frame_hdr` and the `.eh_frame` it leads to, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct FunctionTable<'a> {
    entries: &'a [[u8; 8]],
    /// The piece of the object that holds header and frames, and its address.
    segment: &'a [u8],
    segment_address: u64,
    header_address: u64,
    text_address: u64,
}

/// What surrounds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Where to decode, as offsets in the text.
    pub range: Range<usize>,
    /// Whether the table says that a function is there. Else it is what lies between two functions: padding, data, or
    /// hand-written code without unwind information.
    pub known: bool,
}

impl<'a> FunctionTable<'a> {
    /// The table at `header_address`, inside the mapped piece `segment` of an object that begins at `segment_address`,
    /// for text at `text_address`. `None` for a form other than the one all linkers write (four-byte entries relative
    /// to the header).
    pub fn parse(
        segment: &'a [u8],
        segment_address: u64,
        header_address: u64,
        text_address: u64,
    ) -> Option<Self> {
        const VERSION: u8 = 1;
        const POINTER_RELATIVE_4: u8 = 0x1b;
        const COUNT_4: u8 = 0x03;
        const TABLE_RELATIVE_4: u8 = 0x3b;
        let header = segment.get(header_address.checked_sub(segment_address)? as usize..)?;
        let [VERSION, POINTER_RELATIVE_4, COUNT_4, TABLE_RELATIVE_4, _, _, _, _, a, b, c, d, rest @ ..] =
            header
        else {
            return None;
        };
        let count = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let (entries, _) = rest.as_chunks::<8>();
        let entries = entries.get(..count)?;
        Some(Self { entries, segment, segment_address, header_address, text_address })
    }

    /// What surrounds `offset` in a text of `len` bytes. Without a table, all of the text, known.
    pub fn around(&self, offset: usize, len: usize) -> Bounds {
        if self.entries.is_empty() {
            return Bounds { range: 0..len, known: true };
        }
        let after = self.entries.partition_point(|entry| self.start(*entry) <= offset as i64);
        let next = self.entries.get(after).map_or(len as i64, |entry| self.start(*entry));
        let end = after.checked_sub(1).map_or(0, |at| self.end(at).unwrap_or(next)).min(next);
        // An entry before the text (another text mapping) or behind it bounds nothing.
        let clamp = |position: i64| position.clamp(0, len as i64) as usize;
        let known = (offset as i64) < end;
        // Hand-written code (vfork, clone) has a gap around its `syscall`, or changes from one entry to another there.
        let mut first = after.saturating_sub(1);
        for _ in 0..ENTRIES_JOINED {
            if first > 0 && self.end(first - 1) == Some(self.start(self.entries[first])) {
                first -= 1;
            }
        }
        let start = if after == 0 { 0 } else { self.start(self.entries[first]) };
        Bounds { range: clamp(start)..clamp(if known { end } else { next }), known }
    }

    /// End of the function with this index, if its frame description is in the usual form.
    fn end(&self, index: usize) -> Option<i64> {
        let entry = *self.entries.get(index)?;
        Some(self.start(entry) + self.length(entry)?)
    }

    fn start(&self, entry: [u8; 8]) -> i64 {
        let [a, b, c, d, ..] = entry;
        self.header_address.wrapping_sub(self.text_address) as i64
            + i64::from(i32::from_le_bytes([a, b, c, d]))
    }

    /// The function's length, from its frame description.
    fn length(&self, entry: [u8; 8]) -> Option<i64> {
        let [.., a, b, c, d] = entry;
        let frame = self.header_address.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        let frame_at = frame.checked_sub(self.segment_address)? as usize;
        // Length, CIE, start, length of the function.
        let words = self.segment.get(frame_at..frame_at.checked_add(16)?)?;
        let word = |at: usize| i32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        // The CIE says how the start is encoded. If reading it in the usual way gives what the table says, it is that.
        let start = (frame + 8).wrapping_add_signed(i64::from(word(8)));
        let matches = start.wrapping_sub(self.text_address) as i64 == self.start(entry);
        (matches && word(12) > 0).then(|| i64::from(word(12)))
    }
}
