//! Freeing what dead processes left.

use core::sync::atomic::Ordering;

use crate::block::{Owner, OwnerKind};
use crate::slot::{CLAIMED, Control, FREE, SHARED};
use crate::{Arena, Holder, ProcessId, Slot, SlotId, bitmap};

/// What one sweep freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Slots nobody holds any more.
    pub slots: u32,
    /// Records of dead processes.
    pub processes: u32,
    /// Blocks whose owner is gone or does not use them.
    pub blocks: u32,
}

impl Arena {
    /// Frees what dead processes left: their private slots, shared slots for which `held` (asked without any lock)
    /// says that no open FD is left, their records and exec maps, and blocks lost by a kill.
    ///
    /// After a look at all of them the next slot to be allocated is the first that is free.
    ///
    /// Looks at no more than `max` slots (all of them if `max` reaches the number in use), going on with the next ones
    /// at the next call. Any number of processes may sweep at once; a slot changed while `held` looks is left alone.
    pub fn sweep(&self, me: Holder, max: usize, mut held: impl FnMut(Slot<'_>) -> bool) -> Swept {
        let mut swept = Swept::default();
        let mut liveness = Liveness { arena: self, last: None };
        let top = self.slots_top();
        let start = self.sweep_cursor.load(Ordering::Relaxed) as usize;
        let examined = max.min(top);
        for step in 0..examined {
            let index = (start + step) % top;
            swept.slots += u32::from(self.sweep_slot(index, me.process(), &mut liveness, &mut held));
        }
        self.sweep_cursor.store((start + examined).checked_rem(top).unwrap_or(0) as u32, Ordering::Relaxed);
        if examined == top {
            // Others have freed entries before the cursor, too.
            self.slot_cursor.store(0, Ordering::Relaxed);
        }
        for index in 0..self.processes_top() {
            swept.processes += u32::from(self.sweep_process(index));
        }
        for index in 0..self.blocks_top() {
            swept.blocks += u32::from(self.sweep_block(index as u32, me));
        }
        swept
    }

    fn sweep_slot(
        &self,
        index: usize,
        me: ProcessId,
        liveness: &mut Liveness<'_>,
        held: &mut impl FnMut(Slot<'_>) -> bool,
    ) -> bool {
        let raw = &self.map.slots()[index];
        let control = Control::of(raw);
        let gone = match control.state() {
            FREE => {
                bitmap::heal(self.map.slot_bits(), index);
                false
            }
            SHARED => self.live_at(index).is_some_and(|slot| !held(slot)),
            _ => !liveness.is_alive(control.owner()),
        };
        let id = SlotId { index: index as u32, generation: control.generation() };
        let claimed = Control::new(CLAIMED, id.generation, me);
        let mine = gone && control.replace(raw, claimed);
        if mine {
            self.finish_freeing(id, claimed);
        }
        mine
    }

    fn sweep_block(&self, index: u32, me: Holder) -> bool {
        let owner = Owner(self.map.block_owners()[index as usize].load(Ordering::Acquire));
        if owner.0 == 0 {
            bitmap::heal(self.map.block_bits(), index as usize);
            return false;
        }
        let free = || self.free_block(index, owner);
        match owner.kind() {
            OwnerKind::Slot(id) => self.sweep_block_of_slot(id, index, me),
            // A live process may be writing its list: the block's turn comes with the record's end.
            OwnerKind::Process(id) => self.process(id).is_err() && free(),
            OwnerKind::Unknown => free(),
        }
    }

    fn sweep_block_of_slot(&self, id: SlotId, block: u32, me: Holder) -> bool {
        let free = || self.free_block(block, Owner::slot(id));
        let Some(raw) = self.raw_slot(id.index as usize) else { return free() };
        let control = Control::of(raw);
        if control.generation() != id.generation || control.state() == FREE {
            return free();
        }
        let Ok(slot) = self.slot(id) else { return false };
        let in_use = || slot.path_uses_block(block) || slot.blob_uses_block(block);
        // Whoever holds the lock may be about to use the block. Freed under the lock: otherwise another sweeper could
        // free it first, and the slot use it again, before this one gets to it.
        !in_use() && slot.try_lock(me).is_ok_and(|_guard| !in_use() && free())
    }
}

/// Remembers the last answer: neighbouring slots often have one owner.
struct Liveness<'a> {
    arena: &'a Arena,
    last: Option<(ProcessId, bool)>,
}

impl Liveness<'_> {
    fn is_alive(&mut self, process: ProcessId) -> bool {
        if let Some((last, alive)) = self.last
            && last == process
        {
            return alive;
        }
        let alive = self.arena.process_is_alive(process);
        self.last = Some((process, alive));
        alive
    }
}
