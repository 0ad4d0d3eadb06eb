//! The machine code a site's jump leads to, and what an address inside it stands for.

use super::contract::{NUMBER_UNKNOWN, RESUME_ALIGN};
use super::site::{Fixup, FixupKind, Pattern, Rewind, Site};

/// `lea disp32(%rip),%rcx`
const LOAD_RCX: [u8; 3] = [0x48, 0x8d, 0x0d];
/// `jmp disp32`
const JUMP: u8 = 0xe9;
/// `jmp *disp32(%rip)`
const JUMP_INDIRECT: [u8; 2] = [0xff, 0x25];
/// `jmp disp8`
const JUMP_SHORT: u8 = 0xeb;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Length of what loads rcx and jumps to the entry (room for the indirect form).
const APPROACH: u64 = 7 + 6;
/// Length of the data before `resume`.
const DATA: u64 = 24;
/// By how much a two-byte conditional branch grows.
const WIDENED: usize = 4;
/// A stub begins at a multiple of this.
pub const STUB_ALIGN: u64 = 16;

/// An address that a 32-bit displacement cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach;

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Start of the text that [`Site`] counts from.
    pub text: u64,
    /// Start of the stub; a multiple of [`STUB_ALIGN`].
    pub stub: u64,
    /// The entry.
    pub entry: u64,
    /// A `u64` holding the entry's address, within reach of the stub, used if the entry itself is not.
    pub cell: u64,
}

/// The stub of one site.
#[derive(Clone, Copy, Debug)]
pub struct Stub<'a> {
    site: &'a Site,
    at: Addresses,
}

/// How far the code at an address inside a stub has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the entry; [`StubInfo::rewind`] tells whether it can start over.
    Before,
    /// At `resume`: the original call is about to be made. Not to be rewound: the decision was taken.
    Resumed,
    /// The call was made ([`Pattern::Overwrite`] only), displaced code follows.
    After,
}

/// What an address inside a stub stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StubInfo {
    /// Start of the site in the original text.
    pub site: u64,
    /// The original instruction that corresponds to the address, for display. Do not resume there.
    pub original: u64,
    /// The `resume` label.
    pub resume: u64,
    /// Where to jump with the result.
    pub done: u64,
    /// What setting the PC back to `site` takes, from this very address.
    pub rewind: Rewind,
    /// How far the code has got.
    pub phase: Phase,
    /// The number, if the code says so.
    pub number: Option<u32>,
}

impl<'a> Stub<'a> {
    /// The stub of `site` with everything at these addresses.
    pub fn new(site: &'a Site, at: Addresses) -> Self {
        Self { site, at }
    }

    /// Length in bytes.
    pub fn len(site: &'a Site) -> u64 {
        let stub = Self::new(site, Addresses { text: 0, stub: 0, entry: 0, cell: 0 });
        stub.resume() + stub.tail().len() as u64 + if site.pattern == Pattern::Overwrite { 7 } else { 5 }
    }

    /// Its machine code.
    pub fn code(&self) -> Result<Vec<u8>, OutOfReach> {
        let mut code = Vec::with_capacity(Self::len(self.site) as usize);
        self.displaced(&mut code, 0, usize::from(self.site.before))?;
        code.extend(LOAD_RCX);
        self.relative(&mut code, self.resume())?;
        if distance(self.here(&code) + 5, self.at.entry).is_ok() {
            code.push(JUMP);
            self.relative(&mut code, self.at.entry)?;
        } else {
            code.extend(JUMP_INDIRECT);
            self.relative(&mut code, self.at.cell)?;
        }
        // Never executed; a trap if it were.
        code.resize((self.resume() - self.at.stub - DATA) as usize, 0xcc);
        code.extend([self.site.rewind as u8, 0, 0, 0]);
        code.extend(self.site.number.unwrap_or(NUMBER_UNKNOWN).to_le_bytes());
        code.extend(self.start().to_le_bytes());
        code.extend(self.done().to_le_bytes());
        if self.site.pattern == Pattern::Overwrite {
            code.extend(SYSCALL);
            let before = usize::from(self.site.before) + SYSCALL.len();
            self.displaced(&mut code, before, usize::from(self.site.after))?;
            code.push(JUMP);
            self.relative(&mut code, self.start() + self.site.len() as u64)?;
        } else {
            code.push(JUMP);
            self.relative(&mut code, self.syscall())?;
        }
        Ok(code)
    }

    /// What to write at its hole, first, and at the site.
    pub fn jumps(&self) -> Result<(Option<HoleJump>, Patch), OutOfReach> {
        let Some(hole) = self.site.hole else {
            return Ok((None, Patch::Long(self.long_jump(self.site.start)?)));
        };
        let next = i64::from(self.site.start) + 2;
        let relative = i8::try_from(i64::from(hole) - next).map_err(|_| OutOfReach)?;
        Ok((
            Some(HoleJump { at: hole, jump: self.long_jump(hole)? }),
            Patch::Short([JUMP_SHORT, relative as u8]),
        ))
    }

    /// What `pc` stands for; `None` where no code is.
    pub fn describe(&self, pc: u64) -> Option<StubInfo> {
        let offset = pc.checked_sub(self.at.stub)?;
        let displaced = self.displaced_len(0, usize::from(self.site.before)) as u64;
        let info = |original, phase, rewind| StubInfo {
            site: self.start(),
            original,
            resume: self.resume(),
            done: self.done(),
            rewind,
            phase,
            number: self.site.number,
        };
        if offset == 0 {
            // Nothing was done yet.
            return Some(info(self.start(), Phase::Before, Rewind::Plain));
        }
        if offset < displaced {
            let original = self.start() + self.unwidened(0, offset);
            return Some(info(original, Phase::Before, self.site.rewind));
        }
        if offset < displaced + APPROACH {
            return Some(info(self.syscall(), Phase::Before, self.site.rewind));
        }
        let offset = pc.checked_sub(self.resume())?;
        if self.site.pattern != Pattern::Overwrite {
            return (offset < 5).then(|| info(self.syscall(), Phase::Resumed, Rewind::Never));
        }
        if offset < SYSCALL.len() as u64 {
            return Some(info(self.syscall(), Phase::Resumed, Rewind::Never));
        }
        let offset = offset - SYSCALL.len() as u64;
        let after = self.unwidened(usize::from(self.site.before) + SYSCALL.len(), offset);
        let original = self.syscall() + SYSCALL.len() as u64 + after.min(u64::from(self.site.after));
        (offset < self.tail().len() as u64 + 5).then(|| info(original, Phase::After, Rewind::Never))
    }

    /// What the hole's jump stands for.
    pub fn describe_hole(&self) -> StubInfo {
        StubInfo {
            site: self.start(),
            original: self.start(),
            resume: self.resume(),
            done: self.done(),
            rewind: Rewind::Plain,
            phase: Phase::Before,
            number: self.site.number,
        }
    }

    /// Address of the `resume` label.
    pub fn resume(&self) -> u64 {
        let displaced = self.displaced_len(0, usize::from(self.site.before)) as u64;
        self.at.stub + (displaced + APPROACH + DATA).next_multiple_of(RESUME_ALIGN)
    }

    /// Where to jump with the result.
    pub fn done(&self) -> u64 {
        let call = if self.site.pattern == Pattern::Overwrite { self.resume() } else { self.syscall() };
        call + SYSCALL.len() as u64
    }

    fn start(&self) -> u64 {
        self.at.text + u64::from(self.site.start)
    }

    fn syscall(&self) -> u64 {
        self.at.text + u64::from(self.site.syscall)
    }

    fn here(&self, code: &[u8]) -> u64 {
        self.at.stub + code.len() as u64
    }

    fn long_jump(&self, offset: u32) -> Result<[u8; 5], OutOfReach> {
        let next = self.at.text + u64::from(offset) + 5;
        let [a, b, c, d] = distance(next, self.at.stub)?.to_le_bytes();
        Ok([JUMP, a, b, c, d])
    }

    /// Appends a 32-bit displacement that ends its instruction.
    fn relative(&self, code: &mut Vec<u8>, target: u64) -> Result<(), OutOfReach> {
        let next = self.here(code) + 4;
        code.extend(distance(next, target)?.to_le_bytes());
        Ok(())
    }

    /// Appends `len` displaced bytes from position `from`, corrected for their new place.
    fn displaced(&self, code: &mut Vec<u8>, from: usize, len: usize) -> Result<(), OutOfReach> {
        let bytes = &self.site.original;
        let mut at = from;
        for fixup in self.fixups(from, len) {
            let (position, end) = (usize::from(fixup.at), usize::from(fixup.end));
            code.extend(&bytes[at..position]);
            let next = self.start() + end as u64;
            match fixup.kind {
                FixupKind::Relative32 => {
                    let old =
                        i32::from_le_bytes(bytes[position..position + 4].try_into().expect("four bytes"));
                    let target = next.wrapping_add_signed(i64::from(old));
                    // An immediate may follow the displacement.
                    let immediate = &bytes[position + 4..end];
                    let next = self.here(code) + 4 + immediate.len() as u64;
                    code.extend(distance(next, target)?.to_le_bytes());
                    code.extend(immediate);
                }
                FixupKind::ShortBranch => {
                    let target = next.wrapping_add_signed(i64::from(bytes[position + 1] as i8));
                    code.extend([0x0f, bytes[position] + 0x10]);
                    self.relative(code, target)?;
                }
            }
            at = end;
        }
        code.extend(&bytes[at..from + len]);
        Ok(())
    }

    fn tail(&self) -> core::ops::Range<usize> {
        let from = usize::from(self.site.before) + SYSCALL.len();
        from..from + self.displaced_len(from, usize::from(self.site.after))
    }

    fn displaced_len(&self, from: usize, len: usize) -> usize {
        len + WIDENED * self.fixups(from, len).filter(|fixup| fixup.kind == FixupKind::ShortBranch).count()
    }

    /// The position in the original bytes, from `from` on, of the instruction at `offset` in the moved ones.
    fn unwidened(&self, from: usize, offset: u64) -> u64 {
        let mut position = offset;
        for fixup in self.fixups(from, usize::MAX - from) {
            if fixup.kind == FixupKind::ShortBranch && position >= u64::from(fixup.end) - from as u64 {
                position -= WIDENED as u64;
            }
        }
        position
    }

    fn fixups(&self, from: usize, len: usize) -> impl Iterator<Item = Fixup> {
        let inside = from..from + len;
        self.site.fixups.into_iter().flatten().filter(move |fixup| inside.contains(&usize::from(fixup.at)))
    }
}

/// The jump written into padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoleJump {
    /// Where, as an offset in the text.
    pub at: u32,
    /// Its bytes.
    pub jump: [u8; 5],
}

/// What is written over the start of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// A jump to the stub.
    Long([u8; 5]),
    /// A jump to the hole.
    Short([u8; 2]),
}

fn distance(from: u64, to: u64) -> Result<i32, OutOfReach> {
    i32::try_from(to.wrapping_sub(from) as i64).map_err(|_| OutOfReach)
}
