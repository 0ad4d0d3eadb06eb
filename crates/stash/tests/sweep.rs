//! A sweep frees what nobody holds any more, and nothing else.

mod session;

use session::{Child, SMALL, two_mappings};
use stash::{Arena, ArenaConfig, Description, ExecEntry, Holder, SlotId, StashError, Swept};

/// A dead process that left `private` and `shared` slots with long paths, and an exec map.
fn leave(arena: &Arena, private: u32, shared: u32) -> Vec<SlotId> {
    let child = Child::fork(|| {
        let process = arena.register_process().unwrap();
        for n in 0..private + shared {
            let path = [b'p'; 1000];
            let slot =
                arena.alloc_slot(process, &Description { path: &path, ..Description::default() }).unwrap();
            if n >= private {
                slot.mark_shared().unwrap();
            }
        }
        let entry = |fd| ExecEntry { fd, slot: SlotId::from_bits(0), cloexec: false, tag: 0, following: 0 };
        arena.put_exec_map(process, (0..300).map(entry)).unwrap();
    });
    assert_eq!(child.wait(), 0);
    let mut left = Vec::new();
    arena.for_each_live(|slot| left.push(slot.id()));
    left
}

#[test]
fn private_slots_of_the_dead_go_and_shared_ones_stay_while_held() {
    let (arena, _) = two_mappings(&SMALL);
    let me = Holder::current(arena.register_process().unwrap());
    let left = leave(&arena, 3, 2);
    let own = arena.alloc_slot(me.process(), &Description::default()).unwrap();
    let mut asked = Vec::new();
    let swept = arena.sweep(me, usize::MAX, |slot| {
        asked.push(slot.id());
        slot.id() == left[4]
    });
    assert_eq!(asked, left[3..], "only shared slots are asked about");
    // Four paths and the two blocks of the exec map; those of freed slots go with them.
    assert_eq!(swept, Swept { slots: 4, processes: 1, blocks: 0 });
    let mut live = Vec::new();
    arena.for_each_live(|slot| live.push(slot.id()));
    live.sort();
    let mut expected = [own.id(), left[4]];
    expected.sort();
    assert_eq!(live, expected);
    assert_eq!(arena.stats().blocks, 1);
}

#[test]
fn what_is_allocated_after_a_sweep_is_the_first_that_is_free() {
    let (arena, other) = two_mappings(&ArenaConfig { slots: 512, ..SMALL });
    let me = Holder::current(arena.register_process().unwrap());
    let description = Description::default();
    let slots: Vec<SlotId> =
        (0..300).map(|_| arena.alloc_slot(me.process(), &description).unwrap().id()).collect();
    // By another mapping, so this one does not know.
    other.free_slot(me.process(), slots[3]).unwrap();
    let last = arena.alloc_slot(me.process(), &description).unwrap().id();
    assert!(last.index >= 300);
    arena.sweep(me, usize::MAX, |_| true);
    assert_eq!(arena.alloc_slot(me.process(), &description).unwrap().id().index, slots[3].index);
    // Nor does a slot that is freed behind others draw the next ones there.
    arena.free_slot(me.process(), last).unwrap();
    other.free_slot(me.process(), slots[5]).unwrap();
    arena.sweep(me, usize::MAX, |_| true);
    arena.free_slot(me.process(), slots[299]).unwrap();
    assert_eq!(arena.alloc_slot(me.process(), &description).unwrap().id().index, slots[5].index);
}

#[test]
fn an_adopted_slot_lives_on_with_its_new_owner() {
    let (arena, _) = two_mappings(&SMALL);
    let me = Holder::current(arena.register_process().unwrap());
    let left = leave(&arena, 2, 0);
    arena.slot(left[0]).unwrap().adopt(me.process()).unwrap();
    assert_eq!(arena.sweep(me, usize::MAX, |_| false).slots, 1);
    assert_eq!(arena.slot(left[0]).unwrap().owner(), Ok(me.process()));
    assert_eq!(arena.slot(left[1]).err(), Some(StashError::StaleSlot(left[1])));
}

#[test]
fn a_slot_that_changes_while_it_is_looked_at_is_left_alone() {
    let (arena, other) = two_mappings(&SMALL);
    let me = Holder::current(arena.register_process().unwrap());
    let left = leave(&arena, 0, 2);
    let swept = arena.sweep(me, usize::MAX, |slot| {
        if slot.id() == left[0] {
            other.slot(left[0]).unwrap().adopt(me.process()).unwrap();
        } else {
            // Freed, and used again for another description.
            other.free_slot(me.process(), left[1]).unwrap();
            other.alloc_slot(me.process(), &Description::default()).unwrap();
        }
        false
    });
    assert_eq!(swept.slots, 0);
    assert!(arena.slot(left[0]).is_ok());
    assert_eq!(arena.stats().slots, 2);
}

#[test]
fn a_bounded_sweep_comes_round() {
    let (arena, _) = two_mappings(&SMALL);
    let me = Holder::current(arena.register_process().unwrap());
    leave(&arena, 10, 0);
    let freed: Vec<u32> = (0..4).map(|_| arena.sweep(me, 4, |_| false).slots).collect();
    assert_eq!(freed, [4, 4, 2, 0]);
}

#[test]
fn two_sweepers_free_everything_once() {
    for _ in 0..20 {
        let (arena, other) = two_mappings(&SMALL);
        let me = arena.register_process().unwrap();
        leave(&arena, 20, 20);
        let sweep = |arena: &Arena| arena.sweep(Holder::current(me), usize::MAX, |_| false);
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| sweep(&arena));
            let two = sweep(&other);
            (one.join().unwrap(), two)
        });
        assert_eq!((one.slots + two.slots, one.processes + two.processes), (40, 1));
        let stats = arena.stats();
        assert_eq!((stats.slots, stats.processes, stats.blocks), (0, 1, 0));
    }
}
