//! The promises of single operations.

mod session;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use session::{SMALL, two_mappings};
use stash::{ArenaConfig, Description, ExecEntry, Holder, Kind, SlotId, StashError};

#[test]
fn keeps_what_a_description_starts_with() {
    let (first, second) = two_mappings(&SMALL);
    let process = first.register_process().unwrap();
    let description = Description {
        status_flags: 0o2000,
        access_mode: 2,
        mount: 3,
        kind: Kind::DIRECTORY,
        inode_key: (7, u64::MAX),
        path: b"/mnt/a",
    };
    let id = first.alloc_slot(process, &description).unwrap().id();
    let slot = second.slot(id).unwrap();
    assert_eq!(slot.status_flags(), 0o2000);
    assert_eq!((slot.access_mode(), slot.mount(), slot.kind()), (2, 3, Kind::DIRECTORY));
    assert_eq!(slot.inode_key(), (7, u64::MAX));
    assert_eq!(slot.path(&mut [0; 100]).unwrap(), b"/mnt/a");
    assert_eq!(slot.path(&mut [0; 5]), Err(StashError::BufferTooSmall { needed: 6 }));
    assert_eq!(slot.blob(&mut []), Err(StashError::Absent("blob")));
    slot.user_words()[3].store(9, Ordering::Relaxed);
    second.free_slot(process, id).unwrap();
    let again = first.alloc_slot(process, &Description::default()).unwrap();
    assert_eq!(again.id().index, id.index, "a freed slot is used again first");
    assert_eq!(again.user_words()[3].load(Ordering::Relaxed), 0);
}

#[test]
fn every_slot_can_be_used_and_no_more() {
    let (arena, _) = two_mappings(&SMALL);
    let process = arena.register_process().unwrap();
    let used: BTreeSet<u32> =
        (0..64).map(|_| arena.alloc_slot(process, &Description::default()).unwrap().id().index).collect();
    assert_eq!(used.len(), 64);
    let more = arena.alloc_slot(process, &Description::default());
    assert_eq!(more.unwrap_err(), StashError::Full("slots"));
}

#[test]
fn processes_register_and_unregister() {
    let (first, second) = two_mappings(&SMALL);
    let one = first.register_process().unwrap();
    let two = second.register_process().unwrap();
    assert_ne!(one, two);
    assert!(second.process_is_alive(one));
    let pids: Vec<u32> = second.live_processes().map(|process| process.pid).collect();
    assert_eq!(pids, [std::process::id(); 2]);
    second.unregister_process(one).unwrap();
    assert!(!first.process_is_alive(one));
    assert_eq!(first.unregister_process(one), Err(StashError::NoSuchProcess(one)));
    let three = first.register_process().unwrap();
    assert_ne!(one, three, "the record is used again under another name");
    assert_eq!(first.stats().processes, 2);
}

#[test]
fn a_long_exec_map_arrives_whole() {
    let config = ArenaConfig { blocks: 1024, ..SMALL };
    let (first, second) = two_mappings(&config);
    let process = first.register_process().unwrap();
    for len in [0, 1, 253, 254, 255, 508, 509, 100_000] {
        let entry = |fd: u32| ExecEntry {
            fd,
            slot: SlotId { index: fd * 3, generation: fd + 1 },
            cloexec: fd.is_multiple_of(5),
            tag: fd as u8,
            following: fd as u16,
        };
        let token = first.put_exec_map(process, (0..len).map(entry)).unwrap();
        assert_eq!(second.find_exec_map(), Some(token));
        let mut entries = Vec::new();
        second.take_exec_map(token, &mut entries).unwrap();
        assert!(entries.into_iter().eq((0..len).map(entry)));
        assert_eq!(first.stats().blocks, 0);
    }
    first.put_exec_map(process, []).unwrap();
    first.drop_exec_map(process).unwrap();
    assert_eq!((first.stats().blocks, first.find_exec_map()), (0, None));
}

#[test]
fn a_shadow_can_be_replaced_and_unknown_ones_are_not_found() {
    let (first, second) = two_mappings(&SMALL);
    let process = first.register_process().unwrap();
    let slot = first.alloc_slot(process, &Description::default()).unwrap();
    assert_eq!(second.find_by_shadow(0), None);
    assert_eq!(second.find_by_shadow(5), None);
    slot.set_shadow(5).unwrap();
    assert_eq!(second.find_by_shadow(5), Some(slot.id()));
    slot.set_shadow(6).unwrap();
    assert_eq!((second.find_by_shadow(5), second.find_by_shadow(6)), (None, Some(slot.id())));
    first.free_slot(process, slot.id()).unwrap();
    assert_eq!(second.find_by_shadow(6), None);
    assert!(slot.set_shadow(0).is_err());
}

#[test]
fn a_thread_that_locks_twice_is_told() {
    let (first, second) = two_mappings(&SMALL);
    let me = Holder::current(first.register_process().unwrap());
    let id = first.alloc_slot(me.process(), &Description::default()).unwrap().id();
    let slot = first.slot(id).unwrap();
    let guard = slot.lock(me).unwrap();
    assert_eq!(second.slot(id).unwrap().lock(me).err(), Some(StashError::WouldDeadlock));
    guard.pin_offset();
    let read = second.slot(id).unwrap().advance_read::<StashError>(me, |_| Ok(1));
    assert_eq!(read, Err(StashError::WouldDeadlock));
    drop(guard);
    assert_eq!(slot.advance_read::<StashError>(me, |_| Ok(1)), Ok(1));
    let inode = first.inode_lock(9, me).unwrap();
    assert_eq!(second.inode_lock(9, me).err(), Some(StashError::WouldDeadlock));
    drop(inode);
    assert!(!second.inode_lock(9, me).unwrap().recovered());
}

#[test]
fn a_slot_freed_under_its_lock_is_stale_to_the_next() {
    let (arena, _) = two_mappings(&SMALL);
    let me = Holder::current(arena.register_process().unwrap());
    let slot = arena.alloc_slot(me.process(), &Description::default()).unwrap();
    arena.free_slot(me.process(), slot.id()).unwrap();
    assert_eq!(slot.lock(me).err(), Some(StashError::StaleSlot(slot.id())));
    assert_eq!(slot.mark_shared(), Err(StashError::StaleSlot(slot.id())));
    // The refused lock was given back.
    let next = arena.alloc_slot(me.process(), &Description::default()).unwrap();
    assert!(next.try_lock(me).is_ok());
}

#[test]
fn readers_see_whole_values_while_a_writer_changes_them() {
    fn is_whole(bytes: &[u8], lengths: &[usize]) -> bool {
        lengths.contains(&bytes.len()) && bytes.iter().all(|&byte| byte == bytes.len() as u8)
    }
    const PATHS: [usize; 4] = [5, 90, 128, 2000];
    const BLOBS: [usize; 4] = [1, 64, 65, 9000];
    let (first, second) = two_mappings(&SMALL);
    let process = first.register_process().unwrap();
    let id =
        first.alloc_slot(process, &Description { path: &[5; 5], ..Description::default() }).unwrap().id();
    let done = AtomicBool::new(false);
    let read = || {
        let (slot, mut buffer, mut found) = (second.slot(id).unwrap(), vec![0; 10_000], 0_u32);
        while !done.load(Ordering::Relaxed) || found == 0 {
            assert!(is_whole(slot.path(&mut buffer).unwrap(), &PATHS));
            match slot.blob(&mut buffer) {
                Ok(blob) => assert!(is_whole(blob, &BLOBS)),
                Err(error) => assert_eq!(error, StashError::Absent("blob")),
            }
            found += 1;
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let (slot, me) = (first.slot(id).unwrap(), Holder::current(process));
        for turn in 0..20_000 {
            let guard = slot.lock(me).unwrap();
            let (path, blob) = (PATHS[turn % 4], BLOBS[turn / 3 % 4]);
            guard.set_path(&vec![path as u8; path]).unwrap();
            guard.set_blob(&vec![blob as u8; blob]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
