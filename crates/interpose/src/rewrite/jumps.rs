//! Looks over the whole text for jumps from other functions into bytes that are to be overwritten.

use memchr::memchr2_iter;

use super::site::{Plan, Reason, Site, Unpatchable};

/// The sites that something may jump into.
pub struct Landings(Vec<usize>);

impl Landings {
    /// Finds them, reading every byte that could be the opcode of a jump with a 32-bit displacement as one: more than
    /// there are, never less. Jumps with an 8-bit one do not leave their function.
    pub fn find(text: &[u8], sites: &[Site]) -> Self {
        let mut hit = Vec::new();
        let Some(lowest) = sites.first().map(|site| site.start) else { return Self(hit) };
        let highest = sites.iter().map(|site| site.start + site.len() as u32).max().unwrap_or(0);
        for at in memchr2_iter(0xe9, 0x0f, text) {
            let next = match *text.get(at..).unwrap_or_default() {
                [0xe9, _, _, _, _, ..] => at + 5,
                [0x0f, 0x80..=0x8f, _, _, _, _, ..] => at + 6,
                _ => continue,
            };
            let Ok(relative) = text[next - 4..next].try_into().map(i32::from_le_bytes) else { continue };
            let Ok(target) = u32::try_from(next as i64 + i64::from(relative)) else { continue };
            if !(lowest..highest).contains(&target) {
                continue;
            }
            let Some(index) = sites.partition_point(|site| site.start < target).checked_sub(1) else {
                continue;
            };
            // The function's own jumps were looked at when the bytes were chosen.
            if forbidden(&sites[index], target) && !hit.contains(&index) {
                hit.push(index);
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
