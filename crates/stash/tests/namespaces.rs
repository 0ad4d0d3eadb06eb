//! Which pid namespace a record is of, with and without a look at `/proc`, and what is known of those of another.

mod session;

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use session::{Child, SMALL, arena_file, two_mappings};
use stash::{Arena, Description, Holder, ProcessId, StashError};

/// Where the first record's namespace is in the file.
const PID_NAMESPACE: u64 = 4096 + 16;

/// Forks a child that does `register`, and waits for it.
fn in_child(register: impl FnOnce()) {
    assert_eq!(Child::fork(register).wait(), 0);
}

/// The namespace of the record that `make` adds.
fn noted(arena: &Arena, make: impl FnOnce()) -> u64 {
    let before: Vec<ProcessId> = arena.live_processes().map(|process| process.id).collect();
    make();
    let new = arena.live_processes().find(|process| !before.contains(&process.id));
    new.unwrap().pid_namespace
}

#[test]
fn a_child_is_in_the_namespace_of_who_made_it() {
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let me = arena.register_process().unwrap();
    let own = arena.process(me).unwrap().pid_namespace;
    if own == 0 {
        println!("skipped: no /proc/self/ns/pid");
        return;
    }
    // So that it shows who was asked.
    let marked = own + 1;
    file.write_all_at(&marked.to_ne_bytes(), PID_NAMESPACE).unwrap();
    assert_eq!(arena.process(me).unwrap().pid_namespace, marked);
    let look = || assert!(arena.register_process().is_ok());
    let go_by_me = || assert!(arena.register_child(me).is_ok());
    assert_eq!(noted(&arena, || in_child(look)), own);
    assert_eq!(noted(&arena, || in_child(go_by_me)), marked);
    // A grandchild is not made by this process.
    assert_eq!(noted(&arena, || in_child(|| in_child(go_by_me))), own);
    // Nor does a record say anything that is gone.
    arena.unregister_process(me).unwrap();
    assert_eq!(noted(&arena, || in_child(go_by_me)), own);
}

#[test]
fn a_child_in_a_new_namespace_is_not_in_that_of_who_made_it() {
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let child = Child::fork(|| {
        let me = arena.register_process().unwrap();
        // SAFETY: changes nothing but where this process's children will be.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            arena.unregister_process(me).unwrap();
            return;
        }
        in_child(|| assert!(arena.register_child(me).is_ok()));
    });
    assert_eq!(child.wait(), 0);
    let found: Vec<u64> = arena.live_processes().map(|process| process.pid_namespace).collect();
    match found[..] {
        [] => println!("skipped: no right to make a pid namespace"),
        [parent, child] => assert!(parent == 0 || parent != child, "{parent} {child}"),
        _ => panic!("{found:?}"),
    }
}

/// What the two processes of the next test tell each other.
const HELD: u64 = 1;
const KILL: u64 = 2;
const REFUSED: u64 = 3;

#[test]
fn a_holder_killed_in_another_namespace_is_replaced() {
    let initial =
        std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.ends_with("pid:[4026531836]"));
    if !initial {
        println!("skipped: not in the initial pid namespace");
        return;
    }
    let (ours, theirs) = two_mappings(&SMALL);
    let me = Holder::current(ours.register_process().unwrap());
    let slot = ours.alloc_slot(me.process(), &Description::default()).unwrap();
    let stage = &slot.user_words()[0];
    let until = |wanted: fn(u64) -> bool| {
        while !wanted(stage.load(Ordering::Acquire)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let child = Child::fork(|| {
        // SAFETY: changes nothing but where this process's children will be.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            stage.store(REFUSED, Ordering::Release);
            return;
        }
        let holder = Child::fork(|| {
            let me = Holder::current(theirs.register_process().unwrap());
            let _slot = theirs.slot(slot.id()).unwrap().lock(me).unwrap();
            let _inode = theirs.inode_lock(5, me).unwrap();
            stage.store(HELD, Ordering::Release);
            loop {
                // SAFETY: only waits.
                unsafe { libc::pause() };
            }
        });
        until(|stage| stage == KILL);
        drop(holder);
    });
    until(|stage| stage != 0);
    if stage.load(Ordering::Acquire) == REFUSED {
        println!("skipped: no right to make a pid namespace");
        return;
    }
    assert_eq!(slot.lock_for(me, Duration::from_millis(300)).err(), Some(StashError::Locked));
    stage.store(KILL, Ordering::Release);
    let guard = slot.lock_for(me, Duration::from_secs(20)).unwrap();
    assert!(guard.recovered());
    assert!(ours.inode_lock(5, me).unwrap().recovered());
    assert_eq!(child.wait(), 0);
}
