//! What a scan finds: the plan, its sites, and what stays as it is.

use core::fmt;

/// Most bytes of original code a site may displace.
pub const ORIGINAL_MAX: usize = 32;

/// How a site is diverted. In every pattern but the last the `syscall` instruction stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Pattern {
    /// One instruction of five or more bytes directly before the `syscall` is replaced by the jump. Usually
    /// `mov $nr,%eax`; also `mov %r11,8(%rsp)` and `mov 0x10(%rsp),%rax` of glibc 2.41's cancellable calls.
    /// Safe while other threads run: no thread can be inside.
    Single = 0,
    /// Several instructions directly before the `syscall`, together five or more bytes, are replaced.
    /// A thread preempted between two of them would come back into the middle of the jump: only while no
    /// other thread can be running this code.
    Run = 1,
    /// A two-byte jump replaces one instruction and leads to a five-byte jump in padding nearby, which nothing reaches.
    /// `xor %eax,%eax; syscall`, which is `read`. Safe while other threads run.
    Hole = 2,
    /// As `Run`, and one of the instructions is a conditional branch, done again in the stub.
    RunWithBranch = 3,
    /// The `syscall` itself is overwritten, along with instructions before or after it. The stub makes the call.
    /// A thread blocked in the call would return into the middle of the jump: only before any thread can be.
    Overwrite = 4,
}

/// What it takes to turn a PC inside the stub (or in the entry, before the entry did anything) back into
/// [`super::contract::SITE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rewind {
    /// Set the PC; with `rax` = the number on arrival. The displaced code can be run again.
    Plain = 0,
    /// The displaced code is `mov %r11,8(%rsp)`: load `r11` from `8(%rsp)`, then as `Plain`. If the PC is on the
    /// stub's first instruction nothing was clobbered yet and `r11` is right already.
    ReloadR11 = 1,
    /// Running the displaced code twice gives something else (`xor $0x80,%sil`, or it reads `rcx`). The PC cannot be
    /// rewound: let the stub run on, and show the site's address only as what the program was doing.
    Never = 2,
}

/// What has to be corrected in displaced code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FixupKind {
    /// The four bytes at the position are a displacement relative to the end of their instruction.
    Relative32 = 0,
    /// At the position stands a two-byte conditional branch; it becomes the six-byte form.
    ShortBranch = 1,
}

/// One correction in displaced code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fixup {
    /// What to correct.
    pub kind: FixupKind,
    /// Position in the displaced bytes: of the displacement, or of the branch's opcode.
    pub at: u8,
    /// Position in the displaced bytes of the end of the instruction.
    pub end: u8,
}

/// One `syscall` that can be diverted. Offsets count from the start of the scanned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// Where the jump is written; the first displaced instruction.
    pub start: u32,
    /// The `syscall` instruction (0f 05).
    pub syscall: u32,
    /// Number of bytes between `start` and `syscall` (run in the stub before the entry).
    pub before: u8,
    /// Number of bytes after the `syscall` that the jump displaces ([`Pattern::Overwrite`] only), run at `done`.
    pub after: u8,
    /// How it is diverted.
    pub pattern: Pattern,
    /// What rewinding takes.
    pub rewind: Rewind,
    /// The number, if the code says so.
    pub number: Option<u32>,
    /// Five bytes of padding for the second jump ([`Pattern::Hole`] only).
    pub hole: Option<u32>,
    /// The bytes at `start` that were read: `before` + 2 + `after` of them, the rest zero.
    pub original: [u8; ORIGINAL_MAX],
    /// Corrections, in the order of their position.
    pub fixups: [Option<Fixup>; 2],
}

impl Site {
    /// Number of bytes of original code from `start` to the end of what is displaced.
    pub fn len(&self) -> usize {
        self.before as usize + 2 + self.after as usize
    }

    /// Never: a site has at least its `syscall`.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Number of bytes that are overwritten at `start`.
    pub fn jump_len(&self) -> usize {
        if self.pattern == Pattern::Hole { 2 } else { 5 }
    }
}

/// Why a `syscall` is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The caller has no interest in its number.
    NoInterest = 0,
    /// The signal return trampoline: unwinders recognise its bytes.
    Restorer = 1,
    /// A branch leads into the bytes a jump would need, or past them to the `syscall`.
    BranchInto = 2,
    /// What stands around it cannot be moved (a call, an unknown instruction, the function's end).
    NotMovable = 3,
    /// The bytes 0f 05 are part of another instruction.
    NotAnInstruction = 4,
    /// The enclosing function cannot be decoded.
    UnknownFunction = 5,
    /// The object describes its functions and this is in none, nor does it decode as code: data.
    OutsideFunctions = 6,
    /// `int $0x80`, the 32-bit entry: its numbers and arguments are those of another table.
    ThirtyTwoBit = 7,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoInterest,
        Self::Restorer,
        Self::BranchInto,
        Self::NotMovable,
        Self::NotAnInstruction,
        Self::UnknownFunction,
        Self::OutsideFunctions,
        Self::ThirtyTwoBit,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoInterest => "number of no interest",
            Self::Restorer => "signal return trampoline",
            Self::BranchInto => "a branch leads into it",
            Self::NotMovable => "its surroundings cannot be moved",
            Self::NotAnInstruction => "part of another instruction",
            Self::UnknownFunction => "enclosing function not understood",
            Self::OutsideFunctions => "data between functions",
            Self::ThirtyTwoBit => "32-bit system call",
        })
    }
}

/// A `syscall` (or what looks like one) that is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unpatchable {
    /// Offset of the 0f 05 (cd 80 for [`Reason::ThirtyTwoBit`]) from the start of the text.
    pub offset: u32,
    /// The number, if the code says so.
    pub number: Option<u32>,
    /// Why.
    pub reason: Reason,
}

/// What a scan found in one text mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sites to divert, by rising `start`.
    pub sites: Vec<Site>,
    /// The rest, by rising offset.
    pub unpatchable: Vec<Unpatchable>,
}

impl Plan {
    /// Number of sites diverted by `pattern`.
    pub fn count(&self, pattern: Pattern) -> usize {
        self.sites.iter().filter(|site| site.pattern == pattern).count()
    }

    /// Number of `syscall`s left alone for `reason`.
    pub fn left(&self, reason: Reason) -> usize {
        self.unpatchable.iter().filter(|left| left.reason == reason).count()
    }

    /// Real, wanted system calls that cannot be diverted: what dispatch has to catch.
    pub fn missed(&self) -> impl Iterator<Item = &Unpatchable> {
        self.unpatchable.iter().filter(|left| {
            matches!(left.reason, Reason::BranchInto | Reason::NotMovable | Reason::UnknownFunction)
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Pattern::{Hole, Overwrite, Run, RunWithBranch, Single};
        write!(f, "{} system call sites can be rewritten", self.sites.len())?;
        let patterns = [
            (Single, "single"),
            (Run, "run"),
            (Hole, "hole"),
            (RunWithBranch, "branch"),
            (Overwrite, "overwrite"),
        ];
        let counts = patterns.map(|(pattern, name)| (self.count(pattern), name)).into_iter();
        for (n, (count, name)) in counts.filter(|(count, _)| *count > 0).enumerate() {
            write!(f, "{}{count} {name}", if n == 0 { " (" } else { ", " })?;
        }
        f.write_str(if self.sites.is_empty() { "" } else { ")" })?;
        for reason in Reason::ALL {
            let count = self.left(reason);
            if count > 0 {
                write!(f, "; {count} left: {reason}")?;
            }
        }
        Ok(())
    }
}
