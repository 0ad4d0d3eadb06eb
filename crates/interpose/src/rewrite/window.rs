//! Chooses which bytes around a `syscall` make room for the jump.

use super::effects::{Effects, FLAGS, R11_BIT, RCX_BIT, effects, repeatable};
use super::function::Function;
use super::instruction::{Flow, Instruction, Map};
use super::site::{Fixup, FixupKind, ORIGINAL_MAX, Pattern, Reason, Rewind, Site};

/// Length of a jump with a 32-bit displacement.
const JUMP: usize = 5;
/// Length of a jump with an 8-bit displacement.
const SHORT_JUMP: usize = 2;
/// Length of the `syscall` instruction.
const SYSCALL: usize = 2;
/// Most instructions to displace before the `syscall`.
const INSTRUCTIONS_MAX: usize = 6;
/// `mov %r11,8(%rsp)`, directly before the `syscall` in glibc 2.41's and musl's cancellable calls.
const STORE_R11: [u8; 5] = [0x4c, 0x89, 0x5c, 0x24, 0x08];
/// What the stub and the entry clobber before the entry decides.
const CLOBBERED: u32 = RCX_BIT | R11_BIT | FLAGS;

/// Decides how the `syscall` that is instruction `index` of `function` is diverted. The number is left open.
pub fn choose(text: &[u8], function: &mut Function, index: usize) -> Result<Site, Reason> {
    let (syscall, _) = function.instruction(text, index).ok_or(Reason::NotAnInstruction)?;
    let (runs, blocked) = runs(text, function, index);
    let keeps = |run: &&Run| run.len >= JUMP;
    let straight = |run: &&Run| !run.branches;
    let calm = |run: &&Run| run.rewind != Rewind::Never;
    let last = runs.first();

    // Best first; what the order weighs is said at Pattern and Rewind.
    let single = last.filter(keeps).filter(straight);
    let small = last.filter(|run| run.len >= SHORT_JUMP).filter(straight);
    let long = || runs.iter().filter(keeps);
    if let Some(run) = single.filter(calm) {
        return Ok(run.site(text, syscall, Pattern::Single));
    }
    if let Some(run) = small.filter(calm)
        && let Some(hole) = function.take_hole(run.start)
    {
        return Ok(Site { hole: Some(hole), ..run.site(text, syscall, Pattern::Hole) });
    }
    if let Some(run) = long().filter(straight).find(calm) {
        return Ok(run.site(text, syscall, Pattern::Run));
    }
    if let Some(run) = long().find(calm) {
        return Ok(run.site(text, syscall, Pattern::RunWithBranch));
    }
    if let Some(run) = single {
        return Ok(run.site(text, syscall, Pattern::Single));
    }
    if let Some(run) = small
        && let Some(hole) = function.take_hole(run.start)
    {
        return Ok(Site { hole: Some(hole), ..run.site(text, syscall, Pattern::Hole) });
    }
    if let Some(run) = long().next() {
        let pattern = if run.branches { Pattern::RunWithBranch } else { Pattern::Run };
        return Ok(run.site(text, syscall, pattern));
    }
    overwrite(text, function, index, syscall, &runs).ok_or(if blocked {
        Reason::BranchInto
    } else {
        Reason::NotMovable
    })
}

/// Instructions that end where the `syscall` begins.
struct Run {
    start: u32,
    len: usize,
    rewind: Rewind,
    /// One of them is a conditional branch.
    branches: bool,
    fixups: [Option<Fixup>; 2],
}

impl Run {
    fn site(&self, text: &[u8], syscall: u32, pattern: Pattern) -> Site {
        site(text, self.start, syscall, 0, pattern, self.rewind, self.fixups)
    }
}

fn site(
    text: &[u8],
    start: u32,
    syscall: u32,
    after: usize,
    pattern: Pattern,
    rewind: Rewind,
    fixups: [Option<Fixup>; 2],
) -> Site {
    let before = (syscall - start) as usize;
    let mut original = [0; ORIGINAL_MAX];
    let displaced = &text[start as usize..][..before + SYSCALL + after];
    original[..displaced.len()].copy_from_slice(displaced);
    Site {
        start,
        syscall,
        before: before as u8,
        after: after as u8,
        pattern,
        rewind,
        number: None,
        hole: None,
        original,
        fixups,
    }
}

/// All runs that may be displaced, shortest first, and whether a branch was what stopped the search.
fn runs(text: &[u8], function: &Function, index: usize) -> (Vec<Run>, bool) {
    let mut runs = Vec::new();
    let mut sequence: Vec<(u32, Instruction, Effects)> = Vec::new();
    let Some((syscall, _)) = function.instruction(text, index) else { return (runs, false) };
    let mut end = syscall;
    for before in (index.saturating_sub(INSTRUCTIONS_MAX)..index).rev() {
        if function.branch_to(end, end + 1) {
            return (runs, true);
        }
        let Some((start, it)) = function.instruction(text, before) else { break };
        let Some(effects) = displaceable(&it) else { break };
        if (syscall - start) as usize > ORIGINAL_MAX - SYSCALL {
            break;
        }
        sequence.insert(0, (start, it, effects));
        let branches = sequence.iter().filter(|(_, it, _)| it.flow != Flow::Next).count();
        let Some(fixups) = fixups(start, &sequence) else { break };
        if branches > 1 {
            break;
        }
        let touched: Vec<Effects> = sequence.iter().map(|&(_, _, effects)| effects).collect();
        let rewind = if text[start as usize..].starts_with(&STORE_R11) && sequence.len() == 1 {
            Rewind::ReloadR11
        } else if repeatable(&touched, CLOBBERED) {
            Rewind::Plain
        } else {
            Rewind::Never
        };
        runs.push(Run { start, len: (syscall - start) as usize, rewind, branches: branches > 0, fixups });
        end = start;
    }
    (runs, false)
}

/// The effects of what can be moved into a stub, conditional branches included.
fn displaceable(it: &Instruction) -> Option<Effects> {
    let conditional = match it.map {
        Map::Primary => matches!(it.opcode, 0x70..=0x7f),
        Map::Secondary => matches!(it.opcode, 0x80..=0x8f),
        Map::Other => false,
    };
    match it.flow {
        Flow::Branch(_) if conditional && !it.operand16 => Some(Effects { reads: FLAGS, writes: 0 }),
        Flow::Next => effects(it),
        _ => None,
    }
}

/// What has to be corrected in `sequence` when it is moved; `None` if that is more than a site can hold.
fn fixups(start: u32, sequence: &[(u32, Instruction, Effects)]) -> Option<[Option<Fixup>; 2]> {
    let mut fixups = [None; 2];
    let mut free = fixups.iter_mut();
    for (at, it, _) in sequence {
        let base = (at - start) as u8;
        let end = base + it.len;
        let kind = match (it.flow, it.map) {
            (Flow::Branch(_), Map::Primary) => Some((FixupKind::ShortBranch, base + it.immediate - 1)),
            (Flow::Branch(_), _) => Some((FixupKind::Relative32, base + it.immediate)),
            _ => it.rip_relative.map(|position| (FixupKind::Relative32, base + position)),
        };
        if let Some((kind, at)) = kind {
            *free.next()? = Some(Fixup { kind, at, end });
        }
    }
    Some(fixups)
}

/// The last resort: the `syscall` goes, too.
fn overwrite(text: &[u8], function: &Function, index: usize, syscall: u32, runs: &[Run]) -> Option<Site> {
    let with_before = runs
        .iter()
        .filter(|run| !run.branches && run.rewind != Rewind::Never)
        .find(|run| run.len + SYSCALL >= JUMP)
        .map(|run| run.site(text, syscall, Pattern::Overwrite));
    with_before.or_else(|| overwrite_after(text, function, index, syscall))
}

/// From the `syscall` on: whoever branches to it meets the jump.
fn overwrite_after(text: &[u8], function: &Function, index: usize, syscall: u32) -> Option<Site> {
    let mut sequence: Vec<(u32, Instruction, Effects)> = Vec::new();
    let mut end = syscall + SYSCALL as u32;
    for next in index + 1..=index + INSTRUCTIONS_MAX {
        let (start, it) = function.instruction(text, next)?;
        if it.flow != Flow::Next || function.branch_to(start, start + 1) {
            return None;
        }
        sequence.push((start, it, effects(&it)?));
        end = start + u32::from(it.len);
        if (end - syscall) as usize >= JUMP {
            break;
        }
    }
    let len = (end - syscall) as usize;
    if !(JUMP..=ORIGINAL_MAX).contains(&len) {
        return None;
    }
    let fixups = fixups(syscall, &sequence)?;
    Some(site(text, syscall, syscall, len - SYSCALL, Pattern::Overwrite, Rewind::Plain, fixups))
}
