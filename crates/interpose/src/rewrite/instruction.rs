//! A decoder for the lengths and branches of x86-64 instructions.
//!
//! Full decoders build tables when first used (iced-x86: 0.5 ms, more than the whole start-up may take); all a scan
//! needs is where instructions begin and where branches lead. The tests compare it with iced-x86 over whole libraries.

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction only. Calls come back, so they count here.
    Next,
    /// To the next instruction or to this offset from the next instruction.
    Branch(i32),
    /// To this offset from the next instruction.
    Jump(i32),
    /// Somewhere else: return, indirect jump, trap.
    Stop,
}

/// Which of the opcode tables an instruction is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// One byte.
    Primary,
    /// 0f.
    Secondary,
    /// Anything else: 0f 38, 0f 3a, VEX, EVEX.
    Other,
}

/// One decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Where control goes.
    pub flow: Flow,
    /// The table of `opcode`.
    pub map: Map,
    /// The opcode byte.
    pub opcode: u8,
    /// The REX prefix, or 0.
    pub rex: u8,
    /// Prefix 66.
    pub operand16: bool,
    /// Prefix f2 or f3, or 0.
    pub repeat: u8,
    /// Prefix f0.
    pub lock: bool,
    /// Prefix 67.
    pub address32: bool,
    /// The `ModRM` byte if the instruction has one.
    pub modrm: Option<u8>,
    /// The SIB byte if there is one.
    pub sib: Option<u8>,
    /// Position of a displacement relative to the next instruction.
    pub rip_relative: Option<u8>,
    /// Position of the immediate (or branch displacement); `len` if there is none.
    pub immediate: u8,
}

impl Instruction {
    /// REX.W: a 64-bit operation.
    pub fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// Whether it does nothing: what compilers and linkers pad code with.
    pub fn is_padding(&self) -> bool {
        match self.map {
            Map::Primary => matches!(self.opcode, 0x90 | 0xcc) && self.rex & 1 == 0 && self.repeat != 0xf3,
            Map::Secondary => self.opcode == 0x1f && self.modrm.is_some_and(|modrm| extension(modrm) == 0),
            Map::Other => false,
        }
    }
}

/// The middle field of a `ModRM` byte: a register, or a part of the opcode.
pub fn extension(modrm: u8) -> u8 {
    modrm >> 3 & 7
}

/// Decodes the instruction at the start of `code`. `None` if it is invalid in 64-bit mode, unknown, or cut off.
pub fn decode(code: &[u8]) -> Option<Instruction> {
    let code = &code[..code.len().min(15)];
    let mut at = 0;
    let mut it = Instruction {
        len: 0,
        flow: Flow::Next,
        map: Map::Primary,
        opcode: 0,
        rex: 0,
        operand16: false,
        repeat: 0,
        lock: false,
        address32: false,
        modrm: None,
        sib: None,
        rip_relative: None,
        immediate: 0,
    };
    let mut form;
    loop {
        let byte = *code.get(at)?;
        at += 1;
        form = PRIMARY[usize::from(byte)];
        if form & KIND != PREFIX {
            it.opcode = byte;
            break;
        }
        // A REX prefix counts only directly before the opcode.
        it.rex = 0;
        match byte {
            0x40..=0x4f => it.rex = byte,
            0x66 => it.operand16 = true,
            0xf2 | 0xf3 => it.repeat = byte,
            0xf0 => it.lock = true,
            0x67 => it.address32 = true,
            _ => {}
        }
    }
    if form & KIND == ESCAPE {
        form = escaped(code, &mut at, &mut it)?;
    }
    if form & KIND == INVALID {
        return None;
    }
    let mut size = form & SIZE;
    if form & MODRM != 0 {
        let modrm = *code.get(at)?;
        at += 1;
        it.modrm = Some(modrm);
        at = memory_operand(code, at, modrm, &mut it)?;
        if it.map == Map::Primary && matches!(it.opcode, 0xc6 | 0xc7 | 0xf6 | 0xf7 | 0xff) {
            match (it.opcode, extension(modrm)) {
                // test has an immediate, its neighbours not, neg, mul... have none
                (0xf6 | 0xf7, 2..) => size = NONE,
                (0xff, 4 | 5) => it.flow = Flow::Stop,
                (0xff, 7) => return None,
                // xabort and xbegin share them
                (0xc6 | 0xc7, 1..) if modrm != 0xf8 => return None,
                _ => {}
            }
        }
    }
    it.immediate = at as u8;
    at += bytes_of(size, &it);
    it.len = at as u8;
    let immediate = code.get(usize::from(it.immediate)..at)?;
    let xbegin = it.map == Map::Primary && it.opcode == 0xc7 && it.modrm == Some(0xf8);
    if form & KIND != PLAIN || xbegin {
        let relative = match *immediate {
            [byte] => i32::from(byte as i8),
            [a, b] => i32::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
            _ => 0,
        };
        it.flow = match form & KIND {
            JUMP => Flow::Jump(relative),
            STOP => Flow::Stop,
            _ => Flow::Branch(relative),
        };
    }
    Some(it)
}

/// What an opcode says about the rest of its instruction: kind, whether a `ModRM` byte follows, size of the immediate.
type Form = u8;

const KIND: Form = 0x70;
const PLAIN: Form = 0x00;
const BRANCH: Form = 0x10;
const JUMP: Form = 0x20;
const STOP: Form = 0x30;
const PREFIX: Form = 0x40;
const ESCAPE: Form = 0x50;
const INVALID: Form = 0x60;

const MODRM: Form = 0x80;

const SIZE: Form = 0x0f;
const NONE: Form = 0;
const BYTE: Form = 1;
const WORD: Form = 2;
/// enter
const THREE: Form = 3;
const FOUR: Form = 4;
/// 4 bytes, 2 with prefix 66 unless REX.W
const OPERAND: Form = 5;
/// as `OPERAND`, 8 with REX.W
const FULL: Form = 6;
/// an address
const OFFSET: Form = 7;

macro_rules! table {
    ($name:ident) => {{
        let mut forms = [INVALID; 256];
        let mut opcode = 0;
        while opcode < 256 {
            forms[opcode] = $name(opcode as u8);
            opcode += 1;
        }
        forms
    }};
}
static PRIMARY: [Form; 256] = table!(primary);
static SECONDARY: [Form; 256] = table!(secondary);

fn bytes_of(size: Form, it: &Instruction) -> usize {
    match size {
        NONE..=FOUR => usize::from(size),
        FULL if it.wide() => 8,
        OPERAND | FULL if it.operand16 && !it.wide() => 2,
        OFFSET if !it.address32 => 8,
        _ => 4,
    }
}

const fn primary(opcode: u8) -> Form {
    match opcode {
        0x0f | 0x62 | 0x8f | 0xc4 | 0xc5 => ESCAPE,
        0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => PREFIX,
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => BYTE,
            5 => OPERAND,
            _ => INVALID,
        },
        0x63 | 0x84..=0x8e | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => MODRM,
        0x50..=0x5f
        | 0x6c..=0x6f
        | 0x90..=0x99
        | 0x9b..=0x9f
        | 0xa4..=0xa7
        | 0xaa..=0xaf
        | 0xc9
        | 0xcc
        | 0xd7
        | 0xec..=0xef
        | 0xf1
        | 0xf5
        | 0xf8..=0xfd => PLAIN,
        0x68 | 0xa9 => OPERAND,
        0x69 | 0x81 | 0xc7 | 0xf7 => MODRM | OPERAND,
        0x6a | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe4..=0xe7 => BYTE,
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0xf6 => MODRM | BYTE,
        0x70..=0x7f | 0xe0..=0xe3 => BRANCH | BYTE,
        0xa0..=0xa3 => OFFSET,
        0xb8..=0xbf => FULL,
        0xc2 | 0xca => STOP | WORD,
        0xc3 | 0xcb | 0xcf | 0xf4 => STOP,
        0xc8 => THREE,
        0xe8 => FOUR,
        0xe9 => JUMP | FOUR,
        0xeb => JUMP | BYTE,
        _ => INVALID,
    }
}

/// After 0f.
const fn secondary(opcode: u8) -> Form {
    match opcode {
        0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x36 | 0x39 | 0x3b..=0x3f | 0x7a | 0x7b => INVALID,
        0x05
        | 0x06
        | 0x08
        | 0x09
        | 0x0e
        | 0x30..=0x34
        | 0x37
        | 0x77
        | 0xa0..=0xa2
        | 0xa8
        | 0xa9
        | 0xc8..=0xcf => PLAIN,
        // ud2; and sysret, sysexit, rsm, which only the kernel may
        0x0b | 0x07 | 0x35 | 0xaa => STOP,
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM | BYTE,
        0x80..=0x8f => BRANCH | FOUR,
        _ => MODRM,
    }
}

/// Steps over what follows 0f and the vector prefixes, up to and including the opcode.
fn escaped(code: &[u8], at: &mut usize, it: &mut Instruction) -> Option<Form> {
    let next = |at: &mut usize| {
        let byte = code.get(*at).copied();
        *at += 1;
        byte
    };
    // The table of the opcode, numbered as the vector prefixes do.
    let table = match it.opcode {
        // pop, and AMD's XOP with its tables 8, 9 and 10
        0x8f => match code.get(*at)? {
            &modrm if extension(modrm) == 0 => return Some(MODRM),
            table => {
                let table = table & 0x1f;
                *at += 2;
                table
            }
        },
        0x0f => {
            it.map = Map::Secondary;
            it.opcode = next(at)?;
            match it.opcode {
                0x38 => 2,
                0x3a => 3,
                0x78 if it.operand16 || it.repeat == 0xf2 => return Some(MODRM | WORD),
                opcode => return Some(SECONDARY[usize::from(opcode)]),
            }
        }
        0xc5 => {
            next(at)?;
            1
        }
        0xc4 => {
            let table = next(at)? & 0x1f;
            next(at)?;
            table
        }
        _ => {
            let table = next(at)? & 7;
            next(at)?;
            next(at)?;
            table
        }
    };
    it.map = Map::Other;
    it.opcode = next(at)?;
    Some(match (table, it.opcode) {
        (1, 0x77) => PLAIN,
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3 | 8, _) => MODRM | BYTE,
        (1 | 2 | 5 | 6 | 9, _) => MODRM,
        (10, _) => MODRM | FOUR,
        _ => INVALID,
    })
}

/// Steps over SIB and displacement.
fn memory_operand(code: &[u8], mut at: usize, modrm: u8, it: &mut Instruction) -> Option<usize> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    // Moves to and from control registers take all values of the mode for a register.
    if mode == 3 || (it.map == Map::Secondary && matches!(it.opcode, 0x20..=0x23)) {
        return Some(at);
    }
    let mut base = rm;
    if rm == 4 {
        let sib = *code.get(at)?;
        it.sib = Some(sib);
        base = sib & 7;
        at += 1;
    }
    Some(match mode {
        0 if base == 5 => {
            if rm == 5 {
                it.rip_relative = Some(at as u8);
            }
            at + 4
        }
        0 => at,
        1 => at + 1,
        _ => at + 4,
    })
}
