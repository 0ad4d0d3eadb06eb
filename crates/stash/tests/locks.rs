//! Locks exclude, over processes and threads, and none is held by the dead.

mod session;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::Duration;

use session::{Child, SMALL, arena_file, two_mappings};
use stash::{Arena, Description, Holder, StashError};
use std::os::fd::AsFd;

#[test]
fn two_processes_exclude_each_other() {
    const TURNS: u64 = 100_000;
    let (ours, theirs) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let [a, b] = [(); 2].map(|()| ours.alloc_slot(process, &Description::default()).unwrap().id());
    let hammer = |arena: &Arena| {
        let me = Holder::current(arena.register_process().unwrap());
        let (slot, file) = (arena.slot(a).unwrap(), arena.slot(b).unwrap());
        let ready = &file.user_words()[0];
        ready.fetch_add(1, Ordering::Relaxed);
        while ready.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        for _ in 0..TURNS {
            let guard = slot.lock(me).unwrap();
            assert!(!guard.recovered());
            let word = &slot.user_words()[0];
            word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            drop(guard);
            // A write in the middle of reads.
            slot.advance_read::<StashError>(me, |_| Ok(3)).unwrap();
            slot.lock(me).unwrap().advance::<StashError>(|_| Ok(4)).unwrap();
            // An append: the end of the file, here a word, is found and moved under the inode's lock.
            let guard = arena.inode_lock(77, me).unwrap();
            assert!(!guard.recovered());
            let end = &file.user_words()[1];
            end.store(end.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    };
    let child = Child::fork(|| hammer(&theirs));
    hammer(&ours);
    assert_eq!(child.wait(), 0);
    assert_eq!(ours.slot(a).unwrap().user_words()[0].load(Ordering::Relaxed), 2 * TURNS);
    assert_eq!(ours.slot(b).unwrap().user_words()[1].load(Ordering::Relaxed), 2 * TURNS);
    assert_eq!(ours.slot(a).unwrap().offset(), 2 * 7 * TURNS as i64);
}

#[test]
fn concurrent_reads_of_one_description_get_disjoint_parts() {
    const TOTAL: usize = 300_000;
    let (ours, _) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let id = ours.alloc_slot(process, &Description::default()).unwrap().id();
    let start_together = Barrier::new(3);
    let read_all = || {
        start_together.wait();
        let (me, slot) = (Holder::current(process), ours.slot(id).unwrap());
        let mut parts = Vec::new();
        loop {
            let mut start = 0;
            let read = |offset: i64| {
                start = offset as usize;
                Ok((TOTAL - start).min(3))
            };
            match slot.advance_read::<StashError>(me, read).unwrap() {
                0 => return parts,
                count => parts.push(start..start + count),
            }
        }
    };
    let mut parts: Vec<_> = std::thread::scope(|scope| {
        let threads = [scope.spawn(read_all), scope.spawn(read_all), scope.spawn(read_all)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    parts.sort_by_key(|part| part.start);
    let end = parts.iter().try_fold(0, |end, part| (part.start == end).then_some(part.end));
    assert_eq!(end, Some(TOTAL), "parts neither overlap nor leave a gap");
}

#[test]
fn a_read_that_was_overtaken_runs_again() {
    let (ours, theirs) = two_mappings(&SMALL);
    let [me, other] = [(); 2].map(|()| Holder::current(ours.register_process().unwrap()));
    let id = ours.alloc_slot(me.process(), &Description::default()).unwrap().id();
    let (slot, same) = (ours.slot(id).unwrap(), theirs.slot(id).unwrap());
    let mut starts = Vec::new();
    let read = |offset| {
        starts.push(offset);
        match offset {
            // A reader, then a writer, come between the look at the offset and its change.
            0 => same.advance_read::<StashError>(other, |_| Ok(3)),
            3 => same.lock(other)?.advance::<StashError>(|_| Ok(4)),
            _ => Ok(5),
        }
    };
    assert_eq!(slot.advance_read(me, read), Ok(5));
    assert_eq!((starts, slot.offset()), (vec![0, 3, 7], 12));
}

#[test]
fn a_read_waits_for_a_write_that_has_begun() {
    let (ours, theirs) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let id = ours.alloc_slot(process, &Description::default()).unwrap().id();
    let guard = ours.slot(id).unwrap().lock(Holder::current(process)).unwrap();
    assert_eq!(guard.pin_offset(), 0);
    let (tell, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            tell.send(()).unwrap();
            theirs.slot(id).unwrap().advance_read::<StashError>(Holder::current(process), |offset| {
                assert_eq!(offset, 100);
                Ok(1)
            })
        });
        wait.recv().unwrap();
        guard.set_offset(100).unwrap();
        drop(guard);
        assert_eq!(reader.join().unwrap(), Ok(1));
    });
}

#[test]
fn a_lock_of_a_dead_process_not_yet_reaped_is_taken_over() {
    let (ours, theirs) = two_mappings(&SMALL);
    let me = Holder::current(ours.register_process().unwrap());
    let slot = ours.alloc_slot(me.process(), &Description::default()).unwrap();
    slot.lock(me).unwrap().set_offset(50).unwrap();
    let child = Child::fork(|| {
        let other = Holder::current(theirs.register_process().unwrap());
        let guard = theirs.slot(slot.id()).unwrap().lock(other).unwrap();
        assert_eq!(guard.pin_offset(), 50);
        std::mem::forget(guard);
    });
    child.wait_until_zombie();
    let dead = ours.live_processes().find(|process| process.id != me.process()).unwrap();
    assert!(!ours.process_is_alive(dead.id), "a zombie is dead");
    assert_eq!(slot.try_lock(me).err(), Some(StashError::Locked));
    // A reader, which meets the dead holder's mark in the offset.
    let read = slot.advance_read::<StashError>(me, |offset| {
        assert_eq!(offset, 50);
        Ok(5)
    });
    assert_eq!((read, slot.offset()), (Ok(5), 55));
    assert!(!slot.try_lock(me).unwrap().recovered());
    assert_eq!(child.wait(), 0);
}

#[test]
fn what_a_dead_writer_was_about_to_write_is_known() {
    let (ours, theirs) = two_mappings(&SMALL);
    let me = Holder::current(ours.register_process().unwrap());
    let slot = ours.alloc_slot(me.process(), &Description::default()).unwrap();
    slot.lock(me).unwrap().set_offset(50).unwrap();
    let die_after = |write: bool| {
        let child = Child::fork(|| {
            let other = Holder::current(theirs.register_process().unwrap());
            let guard = theirs.slot(slot.id()).unwrap().lock(other).unwrap();
            assert_eq!(guard.unfinished(), None);
            let done = if write {
                guard.advance_by(7, |_| Err(StashError::Locked))
            } else {
                guard.advance(|_| Err(StashError::Locked))
            };
            assert_eq!((done, guard.unfinished()), (Err(StashError::Locked), None));
            std::mem::forget(guard);
        });
        child.wait_until_zombie();
        child
    };
    let child = die_after(true);
    let guard = slot.lock(me).unwrap();
    assert_eq!((guard.recovered(), guard.unfinished(), guard.slot().offset()), (true, Some(50..57), 50));
    drop(guard);
    // Who has nothing to do with the offset leaves it to the next.
    let guard = slot.lock(me).unwrap();
    assert_eq!((guard.recovered(), guard.unfinished()), (false, Some(50..57)));
    guard.set_offset(53).unwrap();
    assert_eq!((guard.unfinished(), guard.slot().offset()), (None, 53));
    drop(guard);
    assert_eq!(child.wait(), 0);
    let child = die_after(false);
    assert_eq!(slot.lock(me).unwrap().unfinished(), Some(53..53));
    assert_eq!(child.wait(), 0);
}

#[test]
fn a_lock_of_a_dead_thread_is_taken_over() {
    let (ours, _) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let id = ours.alloc_slot(process, &Description::default()).unwrap().id();
    std::thread::scope(|scope| {
        // Joined by the scope when the closure is done; the thread itself may still be on its way out.
        let locked = scope.spawn(|| std::mem::forget(ours.slot(id).unwrap().lock(Holder::current(process))));
        locked.join().unwrap();
    });
    let guard = ours.slot(id).unwrap().lock(Holder::current(process)).unwrap();
    assert!(guard.recovered());
}

/// As of a main thread that another thread's exec has ended: the new image's main thread has its number.
#[test]
fn a_lock_of_the_image_before_is_taken_over() {
    let (ours, _) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let slot = ours.alloc_slot(process, &Description::default()).unwrap();
    let before = Holder::current(process);
    std::mem::forget(slot.lock(before).unwrap());
    assert_eq!(slot.lock(before).err(), Some(StashError::WouldDeadlock));
    let now = before.of_image(ours.begin_image(process).unwrap());
    assert!(slot.lock(now).unwrap().recovered());
    assert_eq!(slot.lock(now).map(|guard| guard.recovered()), Ok(false));
}

/// As a vfork child takes it, which has no registration of its own.
#[test]
fn a_lock_of_a_killed_child_in_its_parents_name_is_taken_over() {
    let (ours, theirs) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let slot = ours.alloc_slot(process, &Description::default()).unwrap();
    let child = Child::fork(|| {
        std::mem::forget(theirs.slot(slot.id()).unwrap().lock(Holder::current(process)));
        loop {
            std::thread::park();
        }
    });
    let me = Holder::current(process);
    while slot.try_lock(me).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(slot.lock_for(me, Duration::from_millis(60)).err(), Some(StashError::Locked));
    child.kill();
    child.wait_until_zombie();
    assert!(slot.lock(me).unwrap().recovered());
    child.wait();
}

#[test]
fn a_lock_is_not_taken_from_the_living() {
    let (ours, _) = two_mappings(&SMALL);
    let process = ours.register_process().unwrap();
    let id = ours.alloc_slot(process, &Description::default()).unwrap().id();
    let guard = ours.slot(id).unwrap().lock(Holder::current(process)).unwrap();
    std::thread::scope(|scope| {
        let waiter = || {
            let slot = ours.slot(id).unwrap();
            slot.lock_for(Holder::current(process), Duration::from_millis(60)).err()
        };
        assert_eq!(scope.spawn(waiter).join().unwrap(), Some(StashError::Locked));
    });
    drop(guard);
}

#[test]
fn a_forked_child_waits_for_its_parents_lock() {
    let (ours, theirs) = two_mappings(&SMALL);
    let me = Holder::current(ours.register_process().unwrap());
    let slot = ours.alloc_slot(me.process(), &Description::default()).unwrap();
    let (mut wait, mut tell) = std::io::pipe().unwrap();
    let guard = slot.lock(me).unwrap();
    let child = Child::fork(|| {
        let child = Holder::current(theirs.register_process().unwrap());
        let slot = theirs.slot(slot.id()).unwrap();
        assert_eq!(slot.try_lock(child).err(), Some(StashError::Locked));
        tell.write_all(b"x").unwrap();
        assert!(!slot.lock(child).unwrap().recovered());
    });
    wait.read_exact(&mut [0]).unwrap();
    drop(guard);
    assert_eq!(child.wait(), 0);
}

#[test]
fn a_reused_pid_is_not_the_registered_process() {
    const FIRST_RECORD: u64 = 4096;
    const REGISTERED_AT: u64 = FIRST_RECORD + 8;
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let process = arena.register_process().unwrap();
    assert!(arena.process_is_alive(process));
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, REGISTERED_AT).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes), arena.process(process).unwrap().registered_at);
    // As if a process of this pid had registered just after boot: this one was started later.
    file.write_all_at(&1_u64.to_ne_bytes(), REGISTERED_AT).unwrap();
    assert!(!arena.process_is_alive(process));
}

#[test]
fn a_process_of_another_pid_namespace_counts_as_alive() {
    const PID_NAMESPACE: u64 = 4096 + 16;
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let child = Child::fork(|| {
        arena.register_process().unwrap();
    });
    assert_eq!(child.wait(), 0);
    let process = arena.live_processes().next().unwrap();
    if process.pid_namespace == 0 {
        println!("skipped: no /proc/self/ns/pid");
        return;
    }
    assert!(!arena.process_is_alive(process.id));
    file.write_all_at(&(process.pid_namespace + 1).to_ne_bytes(), PID_NAMESPACE).unwrap();
    assert!(arena.process_is_alive(process.id));
}
