//! Looks over the whole text for jumps from other functions into bytes that are to be overwritten.

use core::arch::x86_64::{__m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};

use super::site::{Plan, Reason, Site, Unpatchable};

/// The sites that something may jump into.
pub struct Landings(Vec<usize>);

impl Landings {
    /// Finds them, reading every byte that could be the opcode of a jump with a 32-bit displacement as one: more than
    /// there are, never less. Jumps with an 8-bit one do not leave their function.
    pub fn find(text: &[u8], sites: &[Site]) -> Self {
        let mut hit = Vec::new();
        if sites.is_empty() {
            return Self(hit);
        }
        let blocks = Blocks::around(sites, text.len());
        let mut consider = |at: usize| {
            // Where the displacement stands; the opcode's second byte was seen already.
            let from = at + if text[at] == 0xe9 { 1 } else { 2 };
            let Some(&[a, b, c, d]) = text.get(from..from + 4) else { return };
            let next = from + 4;
            let target = next as i64 + i64::from(i32::from_le_bytes([a, b, c, d]));
            let Ok(target) = u32::try_from(target) else { return };
            if !blocks.contains(target) {
                return;
            }
            let Some(index) = sites.partition_point(|site| site.start < target).checked_sub(1) else {
                return;
            };
            if forbidden(&sites[index], target) && !hit.contains(&index) {
                hit.push(index);
            }
        };
        // Every position is in a chunk; the last ones may be looked at twice.
        let (chunks, _) = text.as_chunks::<CHUNK>();
        let whole = chunks.len() * CHUNK;
        for (index, chunk) in chunks.iter().enumerate() {
            let following = text.get((index + 1) * CHUNK).copied().unwrap_or(0);
            let mut mask = candidates(*chunk, following);
            while mask != 0 {
                consider(index * CHUNK + mask.trailing_zeros() as usize);
                mask &= mask - 1;
            }
        }
        // What is left of less than a chunk.
        for at in whole.saturating_sub(1)..text.len() {
            if matches!(text[at..], [0xe9, ..] | [0x0f, 0x80..=0x8f, ..]) {
                consider(at);
            }
        }
        Self(hit)
    }

    /// Moves them from the plan's sites to those left alone.
    pub fn refuse(self, plan: &mut Plan) {
        let Self(mut hit) = self;
        hit.sort_unstable();
        for index in hit.into_iter().rev() {
            let site = plan.sites.remove(index);
            plan.unpatchable.push(Unpatchable {
                offset: site.syscall,
                number: site.number,
                reason: Reason::BranchInto,
            });
        }
    }
}

/// Whether a jump to `target` would meet half a jump or pass it by.
fn forbidden(site: &Site, target: u32) -> bool {
    let overwritten = site.start + 1..site.start + site.jump_len() as u32;
    let passed = site.start + 1..site.syscall + 1;
    overwritten.contains(&target) || passed.contains(&target)
}

const CHUNK: usize = 16;

/// The positions in `chunk` of e9, and of 0f before 8x (`following` is the byte behind the chunk), as a bit mask.
#[inline]
fn candidates(chunk: [u8; CHUNK], following: u8) -> u32 {
    // SAFETY: every x86-64 processor has SSE2. Any sixteen bytes are a vector.
    let (jump, escape, conditional) = unsafe {
        let bytes = core::mem::transmute::<[u8; CHUNK], __m128i>(chunk);
        let high = _mm_and_si128(bytes, _mm_set1_epi8(0xf0_u8 as i8));
        (
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(0xe9_u8 as i8))) as u32,
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x0f))) as u32,
            _mm_movemask_epi8(_mm_cmpeq_epi8(high, _mm_set1_epi8(0x80_u8 as i8))) as u32,
        )
    };
    let last = u32::from(following & 0xf0 == 0x80) << (CHUNK - 1);
    jump | escape & (conditional >> 1 | last)
}

/// A set of blocks of 64 bytes, for a quick "no".
struct Blocks(Vec<u64>);

impl Blocks {
    fn around(sites: &[Site], text_len: usize) -> Self {
        let mut words = vec![0; text_len / 4096 + 1];
        for site in sites {
            for block in site.start / 64..=(site.start + site.len() as u32) / 64 {
                if let Some(word) = words.get_mut(block as usize / 64) {
                    *word |= 1_u64 << (block % 64);
                }
            }
        }
        Self(words)
    }

    fn contains(&self, offset: u32) -> bool {
        let block = offset / 64;
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }
}
