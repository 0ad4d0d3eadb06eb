//! Slots: one open file description each.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::layout::RawSlot;
use crate::{Arena, Holder, ProcessId, StashError, bitmap, offset};

/// How often a read is tried again after losing to another reader before it takes the lock.
const READ_TRIES: u32 = 8;

/// A slot's number, valid until the slot is freed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    /// Position in the table.
    pub index: u32,
    /// Which use of that position (30 bits, never 0 for a slot that existed).
    pub generation: u32,
}

impl SlotId {
    /// The identifier as one number, for storing it elsewhere.
    pub fn to_bits(self) -> u64 {
        (self.index as u64) << 32 | self.generation as u64
    }

    /// The reverse of [`SlotId::to_bits`]; any number is safe to pass.
    pub fn from_bits(bits: u64) -> Self {
        Self { index: (bits >> 32) as u32, generation: bits as u32 }
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}.{}", self.index, self.generation)
    }
}

/// What sort of file a description is open on; the values are the caller's own, the named ones for convenience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kind(pub u32);

impl Kind {
    /// A regular file.
    pub const REGULAR: Self = Self(0);
    /// A directory.
    pub const DIRECTORY: Self = Self(1);
    /// Anything else.
    pub const OTHER: Self = Self(2);
}

/// What a new slot starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Description<'a> {
    /// `O_APPEND`, `O_NONBLOCK` and other flags of `F_SETFL`.
    pub status_flags: u32,
    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
    pub access_mode: u32,
    /// The caller's number of the mount.
    pub mount: u32,
    /// The sort of file.
    pub kind: Kind,
    /// Device and inode number: the file's identity.
    pub inode_key: (u64, u64),
    /// The path, at most [`crate::PATH_MAX_LEN`] bytes.
    pub path: &'a [u8],
}

pub(crate) const FREE: u64 = 0;
pub(crate) const CLAIMED: u64 = 1;
pub(crate) const PRIVATE: u64 = 2;
pub(crate) const SHARED: u64 = 3;

const GENERATION_MASK: u32 = (1 << 30) - 1;

/// A slot's control word: state in bits 0-1, generation in 2-31, owner in 32-63. In state `CLAIMED` the owner is
/// whoever prepares or clears the slot: should that process die, a sweep finishes its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control(u64);

impl Control {
    pub fn new(state: u64, generation: u32, owner: ProcessId) -> Self {
        Self(state | (generation as u64) << 2 | (owner.to_bits() as u64) << 32)
    }

    pub fn free(generation: u32) -> Self {
        Self(FREE | (generation as u64) << 2)
    }

    pub fn of(raw: &RawSlot) -> Self {
        Self(raw.control.load(Ordering::Acquire))
    }

    pub fn state(self) -> u64 {
        self.0 & 3
    }

    pub fn generation(self) -> u32 {
        (self.0 as u32) >> 2
    }

    pub fn owner(self) -> ProcessId {
        ProcessId::from_bits((self.0 >> 32) as u32)
    }

    pub fn is_live(self) -> bool {
        self.state() >= PRIVATE
    }

    pub fn replace(self, raw: &RawSlot, new: Self) -> bool {
        raw.control.compare_exchange(self.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A live slot. `Copy`: it holds nothing alive; once the slot is freed, its methods that can fail say
/// [`StashError::StaleSlot`], the others give the values of the slot's next use.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    arena: &'a Arena,
    raw: &'a RawSlot,
    id: SlotId,
}

impl Arena {
    /// Takes a free slot for an open file description that only `owner` (the calling process) knows so far.
    ///
    /// The owner matters until [`Slot::mark_shared`]: a private slot of a dead process is swept.
    pub fn alloc_slot(
        &self,
        owner: ProcessId,
        description: &Description<'_>,
    ) -> Result<Slot<'_>, StashError> {
        let slots = self.map.slots();
        let mut generation = 0;
        let index = bitmap::claim(self.map.slot_bits(), &self.slot_cursor, |index| {
            self.cover_slot(index)?;
            let raw = &slots[index];
            let old = Control::of(raw);
            generation = ((old.generation() + 1) & GENERATION_MASK).max(1);
            Ok(old.state() == FREE && old.replace(raw, Control::new(CLAIMED, generation, owner)))
        })?
        .ok_or(StashError::Full("slots"))?;
        let id = SlotId { index: index as u32, generation };
        let slot = Slot { arena: self, raw: &slots[index], id };
        if let Err(error) = slot.start(description) {
            self.finish_freeing(id, Control::new(CLAIMED, generation, owner));
            return Err(error);
        }
        let published = Control::new(CLAIMED, generation, owner)
            .replace(slot.raw, Control::new(PRIVATE, generation, owner));
        if published { Ok(slot) } else { Err(StashError::NoSuchProcess(owner)) }
    }

    /// The slot of this identifier, if it is still in that use.
    #[inline]
    pub fn slot(&self, id: SlotId) -> Result<Slot<'_>, StashError> {
        let raw = self.raw_slot(id.index as usize).ok_or(StashError::StaleSlot(id))?;
        let slot = Slot { arena: self, raw, id };
        slot.check_live()?;
        Ok(slot)
    }

    /// Frees a slot whose description nobody holds any more. `me` is the calling process.
    pub fn free_slot(&self, me: ProcessId, id: SlotId) -> Result<(), StashError> {
        let slot = self.slot(id)?;
        loop {
            let control = slot.check_live()?;
            let claimed = Control::new(CLAIMED, id.generation, me);
            if control.replace(slot.raw, claimed) {
                self.finish_freeing(id, claimed);
                return Ok(());
            }
        }
    }

    /// Calls `visit` with each live slot. Slots allocated or freed meanwhile may or may not be seen.
    pub fn for_each_live<'a>(&'a self, mut visit: impl FnMut(Slot<'a>)) {
        for index in 0..self.slots_top() {
            if let Some(slot) = self.live_at(index) {
                visit(slot);
            }
        }
    }

    /// The record at `index` if there ever was a slot.
    #[inline]
    pub(crate) fn raw_slot(&self, index: usize) -> Option<&RawSlot> {
        self.map.slots()[..self.slots_top()].get(index)
    }

    pub(crate) fn live_at(&self, index: usize) -> Option<Slot<'_>> {
        let raw = self.raw_slot(index)?;
        let control = Control::of(raw);
        let id = SlotId { index: index as u32, generation: control.generation() };
        control.is_live().then_some(Slot { arena: self, raw, id })
    }

    /// Clears a slot that the caller has claimed, and makes it free.
    pub(crate) fn finish_freeing(&self, id: SlotId, claimed: Control) {
        let raw = &self.map.slots()[id.index as usize];
        let slot = Slot { arena: self, raw, id };
        slot.drop_path();
        slot.drop_blob();
        if claimed.replace(raw, Control::free(id.generation)) {
            bitmap::release(self.map.slot_bits(), &self.slot_cursor, id.index as usize);
        }
    }
}

impl<'a> Slot<'a> {
    fn start(&self, description: &Description<'_>) -> Result<(), StashError> {
        let raw = self.raw;
        raw.offset.store(0, Ordering::Relaxed);
        raw.lock.store(0, Ordering::Relaxed);
        raw.status_flags.store(description.status_flags, Ordering::Relaxed);
        raw.access_mode.store(description.access_mode, Ordering::Relaxed);
        raw.kind.store(description.kind.0, Ordering::Relaxed);
        raw.mount.store(description.mount, Ordering::Relaxed);
        raw.device.store(description.inode_key.0, Ordering::Relaxed);
        raw.inode.store(description.inode_key.1, Ordering::Relaxed);
        for word in &raw.user {
            word.store(0, Ordering::Relaxed);
        }
        self.start_path(description.path)
    }

    pub(crate) fn arena(&self) -> &'a Arena {
        self.arena
    }

    #[inline]
    pub(crate) fn raw(&self) -> &'a RawSlot {
        self.raw
    }

    #[inline]
    pub(crate) fn check_live(&self) -> Result<Control, StashError> {
        let control = Control::of(self.raw);
        if control.is_live() && control.generation() == self.id.generation {
            Ok(control)
        } else {
            Err(StashError::StaleSlot(self.id))
        }
    }

    /// The slot's identifier.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The file offset in bytes, as the last completed operation left it.
    #[inline]
    pub fn offset(&self) -> i64 {
        offset::load(&self.raw.offset)
    }

    /// Reads at the current offset and advances it by the number of bytes that `read` returns.
    ///
    /// `read` runs without a lock and runs again if another reader was faster, so it must have no effect but to fill
    /// the caller's buffer. While a writer works with the offset ([`SlotGuard`](crate::SlotGuard)) the read waits for
    /// it.
    #[inline]
    pub fn advance_read<E: From<StashError>>(
        &self,
        me: Holder,
        mut read: impl FnMut(i64) -> Result<usize, E>,
    ) -> Result<usize, E> {
        match self.try_advance_read(&mut read)? {
            Some(count) => Ok(count),
            None => self.lock(me)?.advance(read),
        }
    }

    /// As [`advance_read`](Self::advance_read); `None` where the slot's lock has to be taken, and the read made under it.
    #[inline]
    pub fn try_advance_read<E: From<StashError>>(
        &self,
        mut read: impl FnMut(i64) -> Result<usize, E>,
    ) -> Result<Option<usize>, E> {
        for _ in 0..READ_TRIES {
            let Some(start) = offset::start_of_read(&self.raw.offset) else { break };
            let count = read(start)?;
            let end = end_of_transfer(start, count)?;
            if count == 0 || offset::finish_read(&self.raw.offset, start, end) {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    /// The status flags (`O_APPEND`...).
    #[inline]
    pub fn status_flags(&self) -> u32 {
        self.raw.status_flags.load(Ordering::Acquire)
    }

    /// Replaces the status flags, as `F_SETFL` does.
    pub fn set_status_flags(&self, flags: u32) {
        self.raw.status_flags.store(flags, Ordering::Release);
    }

    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`, as given at the start.
    #[inline]
    pub fn access_mode(&self) -> u32 {
        self.raw.access_mode.load(Ordering::Relaxed)
    }

    /// The caller's number of the mount.
    pub fn mount(&self) -> u32 {
        self.raw.mount.load(Ordering::Relaxed)
    }

    /// The sort of file.
    pub fn kind(&self) -> Kind {
        Kind(self.raw.kind.load(Ordering::Relaxed))
    }

    /// Device and inode number: the file's identity.
    pub fn inode_key(&self) -> (u64, u64) {
        (self.raw.device.load(Ordering::Relaxed), self.raw.inode.load(Ordering::Relaxed))
    }

    /// Four words for the caller's own use, zero at the start.
    pub fn user_words(&self) -> &'a [AtomicU64; 4] {
        &self.raw.user
    }

    /// The process that allocated or last adopted the slot.
    pub fn owner(&self) -> Result<ProcessId, StashError> {
        Ok(self.check_live()?.owner())
    }

    /// Whether other processes may know the description.
    pub fn is_shared(&self) -> Result<bool, StashError> {
        Ok(self.check_live()?.state() == SHARED)
    }

    /// Says that the description is about to be known to other processes, so that it outlives its owner.
    ///
    /// From then on [`Arena::sweep`] asks its callback whether anybody holds it: call this only once that question is
    /// answered with yes.
    pub fn mark_shared(&self) -> Result<(), StashError> {
        self.change(|control| Control::new(SHARED, control.generation(), control.owner()))
    }

    /// Makes `me`, the calling process, the owner; whether the slot is shared stays as it is.
    pub fn adopt(&self, me: ProcessId) -> Result<(), StashError> {
        self.change(|control| Control::new(control.state(), control.generation(), me))
    }

    fn change(&self, new: impl Fn(Control) -> Control) -> Result<(), StashError> {
        loop {
            let control = self.check_live()?;
            if control.replace(self.raw, new(control)) {
                return Ok(());
            }
        }
    }
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at offset {}", self.id, self.offset())
    }
}

pub(crate) fn end_of_transfer(start: i64, count: usize) -> Result<i64, StashError> {
    i64::try_from(count).ok().and_then(|count| start.checked_add(count)).ok_or(StashError::OffsetOverflow)
}
