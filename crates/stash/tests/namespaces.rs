//! Which pid namespace a record is of, with and without a look at `/proc`.

mod session;

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use session::{Child, SMALL, arena_file};
use stash::{Arena, ProcessId};

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
