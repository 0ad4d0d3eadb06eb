//! One function decoded from its start: where instructions begin, where branches lead, where padding lies.

use core::ops::Range;

use super::instruction::{Flow, Instruction, decode};

/// Least padding that holds a jump.
const HOLE: usize = 5;

/// The outcome of decoding one function. Offsets count from the start of the text.
#[derive(Default)]
pub struct Function {
    /// What was decoded.
    pub range: Range<usize>,
    /// Start of each instruction, rising.
    starts: Vec<u32>,
    /// Where branches and jumps lead, sorted.
    targets: Vec<u32>,
    /// Padding nothing falls into: it follows a jump or return, and no branch leads there.
    holes: Vec<Range<u32>>,
}

impl Function {
    /// Decodes `text[range]` anew, keeping the buffers, and the padding behind it. `false` if something in it cannot be
    /// decoded, so that its branches are not all known.
    pub fn decode(&mut self, text: &[u8], range: Range<usize>) -> bool {
        self.range = range.clone();
        self.starts.clear();
        self.targets.clear();
        self.holes.clear();
        let mut at = range.start;
        let mut stopped = false;
        let mut hole: Option<Range<u32>> = None;
        while at < text.len() {
            let decoded = decode(&text[at..]);
            if at >= range.end && !decoded.is_some_and(|it| stopped && it.is_padding()) {
                break;
            }
            let Some(it) = decoded else {
                self.targets.sort_unstable();
                self.holes.clear();
                return text[at..range.end].iter().all(|&byte| byte == 0);
            };
            let next = at + usize::from(it.len);
            if at < range.end {
                self.starts.push(at as u32);
            }
            if stopped && it.is_padding() {
                let start = hole.as_ref().map_or(at as u32, |hole| hole.start);
                hole = Some(start..next as u32);
            } else {
                self.keep(hole.take());
                stopped = matches!(it.flow, Flow::Jump(_) | Flow::Stop);
            }
            if let Flow::Branch(relative) | Flow::Jump(relative) = it.flow {
                let target = next as i64 + i64::from(relative);
                if let Ok(target) = u32::try_from(target) {
                    self.targets.push(target);
                }
            }
            at = next;
        }
        self.keep(hole.take());
        self.targets.sort_unstable();
        self.targets.dedup();
        let targets = &self.targets;
        self.holes.retain(|hole| !any_in(targets, hole.start, hole.end));
        true
    }

    /// Index of the instruction that begins at `offset`.
    pub fn index_of(&self, offset: u32) -> Option<usize> {
        self.starts.binary_search(&offset).ok()
    }

    /// The instruction with this index and where it begins.
    pub fn instruction(&self, text: &[u8], index: usize) -> Option<(u32, Instruction)> {
        let start = *self.starts.get(index)?;
        Some((start, decode(&text[start as usize..self.range.end])?))
    }

    /// Whether a branch leads to any offset from `from` up to but not including `to`.
    pub fn branch_to(&self, from: u32, to: u32) -> bool {
        any_in(&self.targets, from, to)
    }

    /// Takes a hole for a jump of five bytes that a two-byte jump at `from` reaches. It is not given out again.
    pub fn take_hole(&mut self, from: u32) -> Option<u32> {
        let next = i64::from(from) + 2;
        let reach = next - 128..=next + 127;
        for hole in &mut self.holes {
            let at = hole.start;
            if hole.len() >= HOLE && reach.contains(&i64::from(at)) {
                hole.start += HOLE as u32;
                return Some(at);
            }
        }
        None
    }

    fn keep(&mut self, hole: Option<Range<u32>>) {
        self.holes.extend(hole.filter(|hole| hole.len() >= HOLE));
    }
}

/// Whether five bytes look like a part of padding: a cheap second look at a hole from a cached plan.
pub fn may_be_padding(bytes: &[u8]) -> bool {
    // The bytes no-operation instructions are made of, and int3.
    bytes.iter().all(|byte| {
        matches!(byte, 0x00 | 0x0f | 0x1f | 0x2e | 0x40 | 0x44 | 0x66 | 0x80 | 0x84 | 0x90 | 0xcc)
    })
}

fn any_in(sorted: &[u32], from: u32, to: u32) -> bool {
    let first = sorted.partition_point(|&target| target < from);
    sorted.get(first).is_some_and(|&target| target < to)
}
