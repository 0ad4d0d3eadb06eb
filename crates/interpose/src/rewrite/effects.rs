//! What a movable instruction reads and writes.

use super::instruction::{Instruction, Map, extension};

/// Things an instruction touches: bits 0 to 15 are the general registers by their number.
pub type Touched = u32;
/// The arithmetic flags.
pub const FLAGS: Touched = 1 << 16;
/// The vector registers, all as one.
pub const VECTORS: Touched = 1 << 17;
/// Memory, all as one.
pub const MEMORY: Touched = 1 << 18;
const RAX_BIT: Touched = 1;
/// rcx: loaded by the stub.
pub const RCX_BIT: Touched = 1 << 1;
/// rsp.
const RSP_BIT: Touched = 1 << 4;
/// r11: clobbered by the entry.
pub const R11_BIT: Touched = 1 << 11;

/// What an instruction reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Read.
    pub reads: Touched,
    /// Written. A partly written register counts as read as well.
    pub writes: Touched,
}

/// What an operand is used for.
#[derive(Clone, Copy)]
struct Use {
    read: bool,
    write: bool,
}

const READ: Use = Use { read: true, write: false };
const WRITE: Use = Use { read: false, write: true };
const BOTH: Use = Use { read: true, write: true };
const NONE: Use = Use { read: false, write: false };

/// The effects of an instruction that can run anywhere (apart from a displacement relative to its own address, see
/// [`Instruction::rip_relative`]), `None` for all others and for those not known here. Branches are not covered.
pub fn effects(it: &Instruction) -> Option<Effects> {
    if it.lock || it.address32 || it.map == Map::Other {
        return None;
    }
    if it.is_padding() {
        // int3 is a trap, not an instruction to move
        return (it.opcode != 0xcc).then(Effects::default);
    }
    match it.map {
        Map::Primary => primary(it),
        Map::Secondary => secondary(it),
        Map::Other => None,
    }
}

fn primary(it: &Instruction) -> Option<Effects> {
    if it.repeat != 0 {
        return None;
    }
    let byte_sized = it.opcode & 1 == 0;
    let extension = it.modrm.map_or(0, extension);
    Some(match it.opcode {
        0x00..=0x3b if it.opcode & 7 < 4 => {
            let operation = it.opcode >> 3;
            let flags = if matches!(operation, 2 | 3) { FLAGS } else { 0 };
            let target = if operation == 7 { READ } else { BOTH };
            let same = it.modrm.is_some_and(|m| m >= 0xc0 && register(it) == operand_register(it));
            // xor and sub of a register with itself only write it
            let cleared = same && matches!(operation, 5 | 6) && !byte_sized && !it.operand16;
            let (reg, rm) = match (cleared, it.opcode & 2 == 0) {
                (true, _) => (NONE, WRITE),
                (false, true) => (READ, target),
                (false, false) => (target, READ),
            };
            Effects { reads: flags, writes: FLAGS }.and(modrm(it, reg, rm, byte_sized)?)
        }
        // the same operations on al or rax with an immediate
        0x00..=0x3d if it.opcode & 7 < 6 => {
            let operation = it.opcode >> 3;
            let flags = if matches!(operation, 2 | 3) { FLAGS } else { 0 };
            let target = if operation == 7 { 0 } else { RAX_BIT };
            Effects { reads: flags | RAX_BIT, writes: FLAGS | target }
        }
        0xa8 | 0xa9 => Effects { reads: RAX_BIT, writes: FLAGS },
        0x50..=0x57 if !it.operand16 => Effects { reads: low(it) | RSP_BIT, writes: RSP_BIT | MEMORY },
        0x58..=0x5f if !it.operand16 => Effects { reads: RSP_BIT | MEMORY, writes: low(it) | RSP_BIT },
        0x63 => modrm(it, WRITE, READ, false)?,
        0x80 | 0x81 | 0x83 => {
            let flags = if matches!(extension, 2 | 3) { FLAGS } else { 0 };
            let target = if extension == 7 { READ } else { BOTH };
            Effects { reads: flags, writes: FLAGS }.and(modrm(it, NONE, target, byte_sized)?)
        }
        0x84 | 0x85 => Effects { reads: 0, writes: FLAGS }.and(modrm(it, READ, READ, byte_sized)?),
        0x88 | 0x89 => modrm(it, READ, WRITE, byte_sized)?,
        0x8a | 0x8b => modrm(it, WRITE, READ, byte_sized)?,
        0x8d => address_of(it)?,
        0xb0..=0xb7 => {
            let register = 1 << byte_register(opcode_register(it), it);
            Effects { reads: register, writes: register }
        }
        // the wide forms: a partial write counts as read, too
        0xb8..=0xbf if !it.operand16 => Effects { reads: 0, writes: low(it) },
        0xc0 | 0xc1 | 0xd0 | 0xd1 if matches!(extension, 4 | 5 | 7) => {
            // a shift by zero leaves the flags as they were
            Effects { reads: FLAGS, writes: FLAGS }.and(modrm(it, NONE, BOTH, byte_sized)?)
        }
        0xc6 | 0xc7 if extension == 0 => modrm(it, NONE, WRITE, byte_sized)?,
        0xf6 | 0xf7 if extension <= 1 => {
            Effects { reads: 0, writes: FLAGS }.and(modrm(it, NONE, READ, byte_sized)?)
        }
        0xf6 | 0xf7 if extension == 2 => modrm(it, NONE, BOTH, byte_sized)?,
        0xf6 | 0xf7 if extension == 3 => {
            Effects { reads: 0, writes: FLAGS }.and(modrm(it, NONE, BOTH, byte_sized)?)
        }
        0xfe | 0xff if extension <= 1 => {
            Effects { reads: FLAGS, writes: FLAGS }.and(modrm(it, NONE, BOTH, byte_sized)?)
        }
        _ => return None,
    })
}

fn secondary(it: &Instruction) -> Option<Effects> {
    Some(match it.opcode {
        // Vector moves: loads, then stores. Some loads keep part of the register.
        0x10 | 0x16 | 0x28 | 0x6f => vector_move(it, VECTORS, VECTORS, READ)?,
        0x11 | 0x17 | 0x29 | 0x7f => vector_move(it, VECTORS, 0, WRITE)?,
        // punpcklqdq
        0x6c if it.operand16 => vector_move(it, VECTORS, VECTORS, READ)?,
        // movq to memory
        0xd6 if it.operand16 => vector_move(it, VECTORS, 0, WRITE)?,
        0x40..=0x4f if it.repeat == 0 => {
            Effects { reads: FLAGS, writes: 0 }.and(modrm(it, BOTH, READ, false)?)
        }
        0xb6 | 0xbe if it.repeat == 0 => modrm_mixed(it, READ)?,
        0xb7 | 0xbf if it.repeat == 0 => modrm(it, WRITE, READ, false)?,
        _ => return None,
    })
}

impl Effects {
    fn and(self, other: Self) -> Self {
        Self { reads: self.reads | other.reads, writes: self.writes | other.writes }
    }

    fn of(bits: Touched, how: Use, partial: bool) -> Self {
        let reads = if how.read || (how.write && partial) { bits } else { 0 };
        Self { reads, writes: if how.write { bits } else { 0 } }
    }
}

/// The register of ModRM.reg.
pub fn register(it: &Instruction) -> u8 {
    extension(it.modrm.unwrap_or(0)) | (it.rex & 4) << 1
}

/// The register of ModRM.rm, where that is one.
pub fn operand_register(it: &Instruction) -> u8 {
    (it.modrm.unwrap_or(0) & 7) | (it.rex & 1) << 3
}

/// The register in the low bits of the opcode.
pub fn opcode_register(it: &Instruction) -> u8 {
    (it.opcode & 7) | (it.rex & 1) << 3
}

fn low(it: &Instruction) -> Touched {
    1 << opcode_register(it)
}

/// Without REX the byte registers 4 to 7 are ah, ch, dh, bh.
fn byte_register(number: u8, it: &Instruction) -> u8 {
    if it.rex == 0 && number >= 4 { number - 4 } else { number }
}

fn modrm(it: &Instruction, reg: Use, rm: Use, byte_sized: bool) -> Option<Effects> {
    let number = |n| if byte_sized { byte_register(n, it) } else { n };
    let partial = byte_sized || it.operand16;
    let reg = Effects::of(1 << number(register(it)), reg, partial);
    let rm = if it.modrm? >= 0xc0 {
        Effects::of(1 << number(operand_register(it)), rm, partial)
    } else {
        memory(it, rm)?
    };
    Some(reg.and(rm))
}

/// movzx and movsx from a byte: the sizes of the operands differ.
fn modrm_mixed(it: &Instruction, rm: Use) -> Option<Effects> {
    let reg = Effects::of(1 << register(it), WRITE, it.operand16);
    let rm = if it.modrm? >= 0xc0 {
        Effects::of(1 << byte_register(operand_register(it), it), rm, true)
    } else {
        memory(it, rm)?
    };
    Some(reg.and(rm))
}

fn vector_move(it: &Instruction, reads: Touched, writes: Touched, rm: Use) -> Option<Effects> {
    let own = Effects { reads, writes };
    if it.modrm? >= 0xc0 {
        return Some(own.and(Effects { reads: VECTORS, writes: VECTORS }));
    }
    Some(own.and(memory(it, rm)?))
}

fn memory(it: &Instruction, how: Use) -> Option<Effects> {
    Some(Effects { reads: address(it)?, writes: 0 }.and(Effects::of(MEMORY, how, false)))
}

fn address_of(it: &Instruction) -> Option<Effects> {
    if it.modrm? >= 0xc0 {
        return None;
    }
    Some(Effects { reads: address(it)?, writes: 0 }.and(Effects::of(1 << register(it), WRITE, it.operand16)))
}

/// The registers an address is made of.
fn address(it: &Instruction) -> Option<Touched> {
    let modrm = it.modrm?;
    if it.rip_relative.is_some() {
        return Some(0);
    }
    let Some(sib) = it.sib else { return Some(1 << operand_register(it)) };
    let index = (sib >> 3 & 7) | (it.rex & 2) << 2;
    let base = (sib & 7) | (it.rex & 1) << 3;
    let index = if index == 4 { 0 } else { 1 << index };
    let base = if sib & 7 == 5 && modrm >> 6 == 0 { 0 } else { 1 << base };
    Some(index | base)
}

/// If the instruction sets `register` to a constant or copies it from another one: which.
pub fn source_of(it: &Instruction, register_wanted: u8, code: &[u8]) -> Source {
    let Some(effects) = effects(it) else { return Source::Unknown };
    if effects.writes & 1 << register_wanted == 0 {
        return Source::Unchanged;
    }
    if it.map != Map::Primary || it.operand16 {
        return Source::Unknown;
    }
    let immediate = || {
        let at = usize::from(it.immediate);
        code.get(at..at + 4)
            .map_or(Source::Unknown, |b| Source::Constant(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    };
    let registers = it.modrm.is_some_and(|modrm| modrm >= 0xc0);
    match it.opcode {
        // A 64-bit immediate would be no system call number.
        0xb8..=0xbf if it.wide() => Source::Unknown,
        0xb8..=0xbf => immediate(),
        0xc7 if registers => immediate(),
        0x31 | 0x33 | 0x29 | 0x2b if registers && register(it) == operand_register(it) => Source::Constant(0),
        0x89 if registers => Source::Register(register(it)),
        0x8b if registers => Source::Register(operand_register(it)),
        _ => Source::Unknown,
    }
}

/// Where a register's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The instruction does not write it.
    Unchanged,
    /// A constant.
    Constant(u32),
    /// Another register.
    Register(u8),
    /// Computed, loaded, or not understood.
    Unknown,
}

/// Whether the sequence may be run again from its start after having been interrupted anywhere: nothing in it may
/// overwrite what an instruction before it, or itself, took from outside. `also_clobbered` is written after it.
pub fn repeatable(sequence: &[Effects], also_clobbered: Touched) -> bool {
    let mut inputs = 0;
    let mut written = 0;
    for effects in sequence {
        inputs |= effects.reads & !(written & !MEMORY);
        written |= effects.writes;
        if effects.writes & inputs != 0 {
            return false;
        }
    }
    inputs & also_clobbered == 0
}
