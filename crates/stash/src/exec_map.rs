//! The list of (FD, slot) pairs that a process hands to its next image through exec.

use core::fmt;
use core::str::FromStr;
use core::sync::atomic::Ordering;

use crate::block::Owner;
use crate::checksum::Checksum;
use crate::layout::{BLOCK_WORDS, RawBlock, RawProcess};
use crate::{Arena, ProcessId, SlotId, StashError};

/// One FD of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecEntry {
    /// The FD's number.
    pub fd: u32,
    /// Its open file description.
    pub slot: SlotId,
    /// Whether the kernel closes it at exec (unless that fails).
    pub cloexec: bool,
    /// The caller's own mark.
    pub tag: u8,
    /// So many FDs that follow stand for the slots that follow, in the same generation.
    pub following: u16,
}

/// Names one list: the record of the process that made it, and a number that no other list has. As text
/// (`Display`, `FromStr`) it fits in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecToken {
    process: ProcessId,
    nonce: u64,
}

impl ExecToken {
    /// The record of the process that made the list.
    pub fn process(self) -> ProcessId {
        self.process
    }
}

impl fmt::Display for ExecToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.process.to_bits(), self.nonce)
    }
}

impl FromStr for ExecToken {
    type Err = StashError;

    fn from_str(text: &str) -> Result<Self, StashError> {
        let parse = || {
            let (process, nonce) = text.split_once('-')?;
            let process = ProcessId::from_bits(u32::from_str_radix(process, 16).ok()?);
            Some(Self { process, nonce: u64::from_str_radix(nonce, 16).ok()? })
        };
        parse().ok_or(StashError::Absent("exec map token"))
    }
}

/// Words of a block before its entries: next block plus one; in the first block also nonce, count, check.
const HEAD_WORDS: usize = 4;
const NEXT: usize = 0;
const NONCE: usize = 1;
const COUNT: usize = 2;
const CHECK: usize = 3;
/// Entries have two words: FD, slot index; generation, close-on-exec, tag, FDs following.
const PER_BLOCK: usize = (BLOCK_WORDS - HEAD_WORDS) / 2;
const CLOEXEC: u64 = 1 << 32;
const TAG_SHIFT: u32 = 40;
const FOLLOWING_SHIFT: u32 = 48;

impl Arena {
    /// Leaves a list for the image which the calling process is about to become. Replaces an earlier list of `me`.
    /// It is freed when taken, dropped, or, with the process dead, swept.
    pub fn put_exec_map<I>(&self, me: ProcessId, entries: I) -> Result<ExecToken, StashError>
    where
        I: IntoIterator<Item = ExecEntry>,
    {
        let raw = self.record(me)?;
        let nonce = self.map.header().exec_maps.fetch_add(1, Ordering::Relaxed);
        let first = self.write_exec_map(me, nonce, entries.into_iter())?;
        let old = raw.exec_map.swap(first as u64 + 1, Ordering::AcqRel);
        self.free_exec_blocks(me, old);
        Ok(ExecToken { process: me, nonce })
    }

    /// Appends to `entries` the list that `token` names, and frees it. On an error nothing is appended.
    pub fn take_exec_map(&self, token: ExecToken, entries: &mut Vec<ExecEntry>) -> Result<(), StashError> {
        let raw = self.record(token.process)?;
        let head = raw.exec_map.load(Ordering::Acquire);
        let first = self.exec_block(token.process, head).ok_or(StashError::Absent("exec map"))?;
        if first[NONCE].load(Ordering::Relaxed) != token.nonce {
            return Err(StashError::Absent("exec map"));
        }
        let before = entries.len();
        self.read_exec_map(token, first, entries).inspect_err(|_| entries.truncate(before))?;
        if raw.exec_map.compare_exchange(head, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            entries.truncate(before);
            return Err(StashError::Absent("exec map"));
        }
        self.free_exec_blocks(token.process, head);
        Ok(())
    }

    /// The token of a list left by the calling process's earlier image, if it lost the token with its environment.
    /// Looks at every process record.
    pub fn find_exec_map(&self) -> Option<ExecToken> {
        let pid = rustix::process::getpid().as_raw_pid() as u32;
        let namespace = crate::process_status::own_pid_namespace();
        self.live_processes()
            .filter(|process| process.pid == pid && process.pid_namespace == namespace)
            .filter(|process| self.process_is_alive(process.id))
            .find_map(|process| {
                let head = self.record(process.id).ok()?.exec_map.load(Ordering::Acquire);
                let first = self.exec_block(process.id, head)?;
                Some(ExecToken { process: process.id, nonce: first[NONCE].load(Ordering::Relaxed) })
            })
    }

    /// Frees the list of `me`, if there is one: after an exec that failed.
    pub fn drop_exec_map(&self, me: ProcessId) -> Result<(), StashError> {
        self.drop_exec_map_of(me, self.record(me)?);
        Ok(())
    }

    pub(crate) fn drop_exec_map_of(&self, id: ProcessId, raw: &RawProcess) {
        let head = raw.exec_map.swap(0, Ordering::AcqRel);
        self.free_exec_blocks(id, head);
    }

    fn write_exec_map(
        &self,
        me: ProcessId,
        nonce: u64,
        mut entries: impl Iterator<Item = ExecEntry>,
    ) -> Result<u32, StashError> {
        let owner = Owner::process(me);
        let first = self.alloc_block(owner)?;
        let head = &self.map.blocks()[first as usize];
        head[NEXT].store(0, Ordering::Relaxed);
        let (mut block, mut count, mut check) = (head, 0_u64, Checksum::new(nonce));
        let mut entry = entries.next();
        while entry.is_some() {
            for quad in block[HEAD_WORDS..].as_chunks::<4>().0 {
                let Some(first) = entry else { break };
                let second = entries.next();
                count += 1 + u64::from(second.is_some());
                entry = if second.is_some() { entries.next() } else { None };
                let words = encode(first, second);
                check.add(words);
                for (to, word) in quad.iter().zip(words) {
                    to.store(word, Ordering::Relaxed);
                }
            }
            if entry.is_some() {
                let next =
                    self.alloc_block(owner).inspect_err(|_| self.free_exec_blocks(me, first as u64 + 1))?;
                block[NEXT].store(next as u64 + 1, Ordering::Relaxed);
                block = &self.map.blocks()[next as usize];
                block[NEXT].store(0, Ordering::Relaxed);
            }
        }
        head[NONCE].store(nonce, Ordering::Relaxed);
        head[COUNT].store(count, Ordering::Relaxed);
        head[CHECK].store(check.finish(), Ordering::Relaxed);
        Ok(first)
    }

    fn read_exec_map(
        &self,
        token: ExecToken,
        first: &RawBlock,
        entries: &mut Vec<ExecEntry>,
    ) -> Result<(), StashError> {
        let corrupt = StashError::Corrupt("exec map");
        let count = first[COUNT].load(Ordering::Relaxed) as usize;
        // A damaged count must not make the list longer than the arena could hold.
        if count > self.map.layout().blocks * PER_BLOCK {
            return Err(corrupt);
        }
        let end = entries.len() + count;
        let mut check = Checksum::new(token.nonce);
        let mut block = first;
        while entries.len() < end {
            let here = (end - entries.len()).min(PER_BLOCK);
            let quads = &block[HEAD_WORDS..].as_chunks::<4>().0[..here.div_ceil(2)];
            entries.extend(quads.iter().flat_map(|quad| {
                let words = core::array::from_fn(|n| quad[n].load(Ordering::Relaxed));
                check.add(words);
                decode(words)
            }));
            if entries.len() < end {
                let next = block[NEXT].load(Ordering::Relaxed);
                block = self.exec_block(token.process, next).ok_or(corrupt)?;
            }
        }
        entries.truncate(end);
        if check.finish() == first[CHECK].load(Ordering::Relaxed) { Ok(()) } else { Err(corrupt) }
    }

    /// Frees a chain of blocks as far as they are this process's. Each is freed before the next is looked at, so a
    /// damaged chain that returns to itself ends there.
    fn free_exec_blocks(&self, me: ProcessId, mut link: u64) {
        while let Some(block) = self.exec_block(me, link) {
            let next = block[NEXT].load(Ordering::Relaxed);
            if !self.free_block((link - 1) as u32, Owner::process(me)) {
                return;
            }
            link = next;
        }
    }

    fn exec_block(&self, me: ProcessId, link: u64) -> Option<&RawBlock> {
        let index = u32::try_from(link.checked_sub(1)?).ok()?;
        self.block(index, Owner::process(me))
    }
}

/// Two entries in four words, as the check has four lanes. A missing second one is zeros.
#[inline]
fn encode(first: ExecEntry, second: Option<ExecEntry>) -> [u64; 4] {
    let words = |entry: ExecEntry| {
        let cloexec = if entry.cloexec { CLOEXEC } else { 0 };
        let rest = entry.slot.generation as u64 | cloexec;
        let marks = (entry.tag as u64) << TAG_SHIFT | (entry.following as u64) << FOLLOWING_SHIFT;
        [(entry.fd as u64) << 32 | entry.slot.index as u64, rest | marks]
    };
    let ([a, b], [c, d]) = (words(first), second.map_or([0; 2], words));
    [a, b, c, d]
}

#[inline]
fn decode([a, b, c, d]: [u64; 4]) -> [ExecEntry; 2] {
    let entry = |place: u64, rest: u64| ExecEntry {
        fd: (place >> 32) as u32,
        slot: SlotId { index: place as u32, generation: rest as u32 },
        cloexec: rest & CLOEXEC != 0,
        tag: (rest >> TAG_SHIFT) as u8,
        following: (rest >> FOLLOWING_SHIFT) as u16,
    };
    [entry(a, b), entry(c, d)]
}
