//! Finds the sites of a text mapping and decides for each how it can be diverted.
//!
//! # Why the bytes may be overwritten
//!
//! The function around each site is decoded from its start, and no branch in it leads behind the first overwritten
//! byte. Of what the decoder does not see: jumps from other functions lead to function starts, and those from a
//! function's cold part to the start of a basic block; they are looked for over the whole text by
//! [`super::jumps::Landings`]. Jump tables and exception landing pads lead to the start of a basic block as well. Between
//! the instruction that sets the number and the `syscall` there is none: compilers emit both from one
//! `asm` statement, and in hand-written code a `switch` never leads between the two.

use memchr::memmem;

use super::function::Function;
use super::functions::FunctionTable;
use super::jumps::Landings;
use super::number::static_number;
use super::site::{Plan, Reason, Site, Unpatchable};
use super::window;

/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `int $0x80`.
const INT_80: [u8; 2] = [0xcd, 0x80];
/// `rt_sigreturn`.
const RT_SIGRETURN: u32 = 15;
/// `mov $15,%rax`: with the `syscall` what unwinders know a signal frame by. Its unwind entry begins one byte early, so
/// decoding from there would miss it.
const RESTORER: [u8; 7] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0];

/// Scans `text`, whose functions are given by `functions`, for `syscall` instructions. `interest` is asked for each
/// with its number if the code tells (else `None`): sites it does not want are left alone.
pub fn scan(text: &[u8], functions: &FunctionTable, interest: &dyn Fn(Option<u32>) -> bool) -> Plan {
    let mut plan = Plan::default();
    let mut function = Function::default();
    let mut decodes = Ok(());
    for offset in memmem::find_iter(text, &SYSCALL) {
        if plan.sites.is_empty() && plan.unpatchable.is_empty() || !function.range.contains(&offset) {
            let bounds = functions.around(offset, text.len());
            let failure = if bounds.known { Reason::UnknownFunction } else { Reason::OutsideFunctions };
            decodes = function.decode(text, bounds.range).then_some(()).ok_or(failure);
        }
        let offset = offset as u32;
        let (number, verdict) = judge(text, &mut function, decodes, offset, interest);
        match verdict {
            Ok(site) => plan.sites.push(Site { number, ..site }),
            Err(reason) => plan.unpatchable.push(Unpatchable { offset, number, reason }),
        }
    }
    for offset in memmem::find_iter(text, &INT_80) {
        let bounds = functions.around(offset, text.len());
        // In data, or inside another instruction, the bytes mean nothing.
        if bounds.known && function.decode(text, bounds.range) && function.index_of(offset as u32).is_some() {
            let offset = offset as u32;
            plan.unpatchable.push(Unpatchable { offset, number: None, reason: Reason::ThirtyTwoBit });
        }
    }
    refuse_overlaps(&mut plan);
    Landings::find(text, &plan.sites).refuse(&mut plan);
    plan.unpatchable.sort_unstable_by_key(|left| left.offset);
    plan
}

fn judge(
    text: &[u8],
    function: &mut Function,
    decodes: Result<(), Reason>,
    offset: u32,
    interest: &dyn Fn(Option<u32>) -> bool,
) -> (Option<u32>, Result<Site, Reason>) {
    if text[..offset as usize].ends_with(&RESTORER) {
        return (Some(RT_SIGRETURN), Err(Reason::Restorer));
    }
    let Some(index) = function.index_of(offset) else {
        return (None, Err(decodes.err().unwrap_or(Reason::NotAnInstruction)));
    };
    let number = static_number(text, function, index);
    let verdict = if number == Some(RT_SIGRETURN) {
        Err(Reason::Restorer)
    } else if !interest(number) {
        Err(Reason::NoInterest)
    } else {
        decodes.and_then(|()| window::choose(text, function, index))
    };
    (number, verdict)
}

/// Two sites must not displace the same bytes. The later one gives way.
fn refuse_overlaps(plan: &mut Plan) {
    let mut end = 0;
    let left = &mut plan.unpatchable;
    plan.sites.retain(|site| {
        let free = site.start >= end;
        if free {
            end = site.start + site.len() as u32;
        } else {
            left.push(Unpatchable { offset: site.syscall, number: site.number, reason: Reason::NotMovable });
        }
        free
    });
}
