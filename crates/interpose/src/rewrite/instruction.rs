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
    /// The ModRM byte if the instruction has one.
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

    /// Whether this is `syscall`.
    pub fn is_syscall(&self) -> bool {
        self.map == Map::Secondary && self.opcode == 5
    }

    /// A near call (direct or indirect).
    pub fn is_call(&self) -> bool {
        self.map == Map::Primary
            && (self.opcode == 0xe8 || (self.opcode == 0xff && self.modrm.is_some_and(|m| m >> 3 & 7 == 2)))
    }

    /// Whether it does nothing: what compilers and linkers pad code with.
    pub fn is_padding(&self) -> bool {
        match self.map {
            Map::Primary => matches!(self.opcode, 0x90 | 0xcc) && self.rex & 1 == 0 && self.repeat != 0xf3,
            Map::Secondary => self.opcode == 0x1f && self.modrm.is_some_and(|m| m >> 3 & 7 == 0),
            Map::Other => false,
        }
    }
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
    loop {
        let byte = *code.get(at)?;
        match byte {
            0x66 => it.operand16 = true,
            0xf2 | 0xf3 => it.repeat = byte,
            0xf0 => it.lock = true,
            0x67 => it.address32 = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            0x40..=0x4f => {
                it.rex = byte;
                at += 1;
                continue;
            }
            _ => break,
        }
        // A REX prefix counts only directly before the opcode.
        it.rex = 0;
        at += 1;
    }
    it.opcode = code[at];
    at += 1;
    let mut operands = match it.opcode {
        0x0f => secondary(code, &mut at, &mut it)?,
        0xc4 | 0xc5 | 0x62 => vector(code, &mut at, &mut it)?,
        _ => primary(it.opcode)?,
    };
    if operands.modrm {
        let modrm = *code.get(at)?;
        at += 1;
        it.modrm = Some(modrm);
        at = memory_operand(code, at, modrm, &mut it)?;
        let reg = modrm >> 3 & 7;
        match (it.map, it.opcode) {
            // test has an immediate, its neighbours not, neg, mul... have none
            (Map::Primary, 0xf6 | 0xf7) if reg >= 2 => operands.immediate = Size::None,
            // XOP shares this opcode
            (Map::Primary, 0x8f) if reg != 0 => return None,
            (Map::Primary, 0xff) if matches!(reg, 4 | 5) => it.flow = Flow::Stop,
            (Map::Primary, 0xff) if reg == 7 => return None,
            (Map::Primary, 0xc6 | 0xc7) if reg != 0 && modrm != 0xf8 => return None,
            _ => {}
        }
    }
    it.immediate = at as u8;
    at += operands.immediate.bytes(&it);
    it.len = u8::try_from(at).ok()?;
    let immediate = code.get(usize::from(it.immediate)..at)?;
    if let Some(kind) = operands.flow {
        let relative = match *immediate {
            [byte] => i32::from(byte as i8),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
            _ => 0,
        };
        it.flow = match kind {
            Kind::Branch => Flow::Branch(relative),
            Kind::Jump => Flow::Jump(relative),
            Kind::Stop => Flow::Stop,
        };
    } else if it.map == Map::Primary && it.opcode == 0xc7 && it.modrm == Some(0xf8) {
        // xbegin: aborts to a relative address
        it.flow = Flow::Branch(i32::from_le_bytes(immediate.try_into().ok()?));
    }
    Some(it)
}

#[derive(Clone, Copy)]
enum Size {
    None,
    Byte,
    Word,
    /// enter
    Three,
    /// 4 bytes, 2 with prefix 66 unless REX.W
    Operand,
    /// as `Operand`, 8 with REX.W
    Full,
    Four,
    Address,
}

impl Size {
    fn bytes(self, it: &Instruction) -> usize {
        match self {
            Self::None => 0,
            Self::Byte => 1,
            Self::Word => 2,
            Self::Three => 3,
            Self::Full if it.wide() => 8,
            Self::Operand | Self::Full if it.operand16 && !it.wide() => 2,
            Self::Operand | Self::Full | Self::Four => 4,
            Self::Address if it.address32 => 4,
            Self::Address => 8,
        }
    }
}

enum Kind {
    Branch,
    Jump,
    Stop,
}

struct Operands {
    modrm: bool,
    immediate: Size,
    flow: Option<Kind>,
}

const fn plain(modrm: bool, immediate: Size) -> Operands {
    Operands { modrm, immediate, flow: None }
}

const fn flow(immediate: Size, kind: Kind) -> Operands {
    Operands { modrm: false, immediate, flow: Some(kind) }
}

fn primary(opcode: u8) -> Option<Operands> {
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => plain(true, Size::None),
            4 => plain(false, Size::Byte),
            5 => plain(false, Size::Operand),
            _ => return None,
        },
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => plain(true, Size::None),
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => {
            plain(false, Size::None)
        }
        0xc9 | 0xcc | 0xd7 | 0xec..=0xef | 0xf1 | 0xf5 | 0xf8..=0xfd => plain(false, Size::None),
        0x68 | 0xa9 => plain(false, Size::Operand),
        0x69 | 0x81 | 0xc7 | 0xf7 => plain(true, Size::Operand),
        0x6a | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe4..=0xe7 => plain(false, Size::Byte),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0xf6 => plain(true, Size::Byte),
        0x70..=0x7f | 0xe0..=0xe3 => flow(Size::Byte, Kind::Branch),
        0xa0..=0xa3 => plain(false, Size::Address),
        0xb8..=0xbf => plain(false, Size::Full),
        0xc2 | 0xca => flow(Size::Word, Kind::Stop),
        0xc3 | 0xcb | 0xcf | 0xf4 => flow(Size::None, Kind::Stop),
        0xc8 => plain(false, Size::Three),
        0xe8 => plain(false, Size::Four),
        0xe9 => flow(Size::Four, Kind::Jump),
        0xeb => flow(Size::Byte, Kind::Jump),
        _ => return None,
    })
}

fn secondary(code: &[u8], at: &mut usize, it: &mut Instruction) -> Option<Operands> {
    it.map = Map::Secondary;
    it.opcode = *code.get(*at)?;
    *at += 1;
    Some(match it.opcode {
        0x38 | 0x3a => {
            let immediate = if it.opcode == 0x3a { Size::Byte } else { Size::None };
            it.map = Map::Other;
            it.opcode = *code.get(*at)?;
            *at += 1;
            plain(true, immediate)
        }
        0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x36 | 0x39 | 0x3b..=0x3f | 0x7a | 0x7b => return None,
        0x05..=0x09 | 0x0e | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => {
            plain(false, Size::None)
        }
        0x0b => flow(Size::None, Kind::Stop),
        0x78 if it.operand16 || it.repeat == 0xf2 => plain(true, Size::Word),
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => plain(true, Size::Byte),
        0x80..=0x8f => flow(Size::Four, Kind::Branch),
        _ => plain(true, Size::None),
    })
}

fn vector(code: &[u8], at: &mut usize, it: &mut Instruction) -> Option<Operands> {
    it.map = Map::Other;
    let (map, payload) = match it.opcode {
        0xc5 => (1, 1),
        0xc4 => (*code.get(*at)? & 0x1f, 2),
        _ => (*code.get(*at)? & 7, 3),
    };
    *at += payload;
    it.opcode = *code.get(*at)?;
    *at += 1;
    Some(match (map, it.opcode) {
        (1, 0x77) => plain(false, Size::None),
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => plain(true, Size::Byte),
        (1 | 2 | 5 | 6, _) => plain(true, Size::None),
        _ => return None,
    })
}

/// Steps over SIB and displacement.
fn memory_operand(code: &[u8], mut at: usize, modrm: u8, it: &mut Instruction) -> Option<usize> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
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
