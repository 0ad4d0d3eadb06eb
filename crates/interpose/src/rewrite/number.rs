//! The system call number of a site, as far as the code says.

use super::effects::{Source, source_of};
use super::function::Function;
use super::instruction::Flow;

/// How many instructions to look back.
const DEPTH: usize = 64;

/// The constant in rax at the instruction `index` of `function`, if every way there sets it.
pub fn static_number(text: &[u8], function: &Function, index: usize) -> Option<u32> {
    const RAX: u8 = 0;
    let mut register = RAX;
    for back in 0..DEPTH {
        let (here, _) = function.instruction(text, index - back)?;
        if function.branch_to(here, here + 1) {
            // Reached from elsewhere, too.
            return None;
        }
        let before = index.checked_sub(back + 1)?;
        let (start, it) = function.instruction(text, before)?;
        match it.flow {
            // A branch not taken changes nothing.
            Flow::Branch(_) if matches!(it.opcode, 0x70..=0x8f) => continue,
            Flow::Next => {}
            _ => return None,
        }
        match source_of(&it, register, &text[start as usize..]) {
            Source::Unchanged => {}
            Source::Constant(number) => return Some(number),
            Source::Register(other) => register = other,
            Source::Unknown => return None,
        }
    }
    None
}
