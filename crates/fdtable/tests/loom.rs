//! Every interleaving (and every reordering the memory model allows) of two or three threads on one table.
//! Run as README.md tells: this file is empty without `--cfg loom`.
#![cfg(loom)]

use std::sync::atomic::{AtomicUsize, Ordering};

use fdtable::{Error, FdTable, Ref, Released};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A value that the model checker watches: reading it while, before or after it is dropped without synchronisation is
/// reported, and the number of drops is counted.
struct Watched {
    content: UnsafeCell<u32>,
    drops: std::sync::Arc<AtomicUsize>,
}

// SAFETY: written only by `Drop`, which is alone with the value; that this is so is what the models check.
unsafe impl Sync for Watched {}

const DROPPED: u32 = u32::MAX;

impl Watched {
    fn content(&self) -> u32 {
        // SAFETY: read only, as long as the value lives; otherwise the model checker stops here.
        let content = self.content.with(|content| unsafe { *content });
        assert_ne!(content, DROPPED, "used after its drop");
        content
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: `&mut self`; the model checker reports a reader that is not done.
        self.content.with_mut(|content| unsafe { *content = DROPPED });
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// A table, and how many values were made and dropped in this run of a model.
struct World {
    table: FdTable<Watched>,
    made: AtomicUsize,
    drops: std::sync::Arc<AtomicUsize>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { table: FdTable::new(), made: AtomicUsize::new(0), drops: std::sync::Arc::default() })
    }

    fn insert(&self, fd: i32, content: u32) -> Option<Released<Watched>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.table
            .insert(fd, Watched { content: UnsafeCell::new(content), drops: self.drops.clone() }, false)
            .unwrap()
    }

    fn drops(&self) -> usize {
        self.drops.load(Ordering::Relaxed)
    }

    /// All threads are done: what is still open is intact, all else was dropped once.
    fn check(&self, open: &[(i32, u32)]) {
        let mut found = Vec::new();
        self.table.for_each(|fd, value, _| found.push((fd, value.content())));
        assert_eq!(found, open);
        assert_eq!(self.table.len(), open.len());
        self.table.close_range(0, u32::MAX, |_, released| drop(released));
        assert_eq!(self.drops(), self.made.load(Ordering::Relaxed));
    }
}

/// With three threads, every interleaving would take hours: those with up to 3 preemptions (bugs need 2 as a rule).
fn three_threads(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

type Thread<R> = thread::JoinHandle<R>;

fn spawn<R: 'static>(world: &Arc<World>, run: impl FnOnce(&World) -> R + 'static) -> Thread<R> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

#[test]
fn get_against_remove() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let reader = spawn(&world, |world| world.table.get(0).map(|value| value.content()));
        let released = world.table.remove(0).expect("open");
        assert!(released.is_last_fd());
        assert_eq!(released.content(), 7);
        drop(released);
        assert!(matches!(reader.join().unwrap(), None | Some(7)));
        world.check(&[]);
    });
}

#[test]
fn two_readers_against_remove() {
    three_threads(|| {
        let world = World::new();
        world.insert(0, 7);
        let readers = [0, 1].map(|_| spawn(&world, |world| world.table.get(0).map(|value| value.content())));
        drop(world.table.remove(0).expect("open"));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(7)));
        }
        world.check(&[]);
    });
}

#[test]
fn a_kept_and_a_cloned_reader_against_remove() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let reader = spawn(&world, |world| {
            let Some(value) = world.table.get(0) else { return };
            let kept = Ref::clone(&value);
            drop(value);
            assert_eq!(kept.content(), 7);
            assert_eq!(world.drops(), 0);
        });
        drop(world.table.remove(0));
        reader.join().unwrap();
        world.check(&[]);
    });
}

#[test]
fn get_against_dup_over() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        world.insert(1, 8);
        let reader = spawn(&world, |world| world.table.get(1).expect("always open").content());
        let released = world.table.dup(0, 1, false).unwrap().expect("replaced");
        assert!(released.is_last_fd());
        drop(released);
        assert!(matches!(reader.join().unwrap(), 7 | 8));
        world.check(&[(0, 7), (1, 7)]);
    });
}

#[test]
fn remove_against_remove() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let other = spawn(&world, |world| world.table.remove(0).map(|released| released.is_last_fd()));
        let here = world.table.remove(0).map(|released| released.is_last_fd());
        let mut told = [here, other.join().unwrap()];
        told.sort_unstable();
        assert_eq!(told, [None, Some(true)]);
        world.check(&[]);
    });
}

#[test]
fn two_fds_of_one_description_closed_at_once() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        world.table.dup(0, 1, false).unwrap();
        let other = spawn(&world, |world| world.table.remove(0).expect("open").is_last_fd());
        let here = world.table.remove(1).expect("open").is_last_fd();
        assert!(here != other.join().unwrap(), "exactly one was the last");
        world.check(&[]);
    });
}

/// ABA: the address of the first description is free for the second as soon as its readers are done.
#[test]
fn get_against_replacement_at_the_same_address() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 1);
        let reader = spawn(&world, |world| world.table.get(0).expect("always open").content());
        drop(world.insert(0, 2));
        drop(world.insert(0, 3));
        assert!(matches!(reader.join().unwrap(), 1..=3));
        world.check(&[(0, 3)]);
    });
}

/// ABA with the empty word between: a reader may have counted itself in it.
#[test]
fn get_against_close_and_open() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 1);
        let reader = spawn(&world, |world| world.table.get(0).map(|value| value.content()));
        drop(world.table.remove(0));
        drop(world.insert(0, 2));
        assert!(matches!(reader.join().unwrap(), None | Some(1 | 2)));
        world.check(&[(0, 2)]);
    });
}

/// ABA proper: the same description leaves the entry and comes back while a reader counted by its first stay, and one
/// counted by its second, are in flight.
#[test]
fn readers_of_both_stays_of_one_description() {
    three_threads(|| {
        let world = World::new();
        world.insert(0, 7);
        world.table.dup(0, 1, false).unwrap();
        let readers = [0, 1].map(|_| spawn(&world, |world| world.table.get(0).map(|value| value.content())));
        drop(world.table.remove(0));
        world.table.dup(1, 0, false).unwrap();
        drop(world.table.remove(1));
        drop(world.table.remove(0));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(7)));
        }
        world.check(&[]);
    });
}

#[test]
fn dup_against_remove_of_its_source() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let remover = spawn(&world, |world| world.table.remove(0).expect("open").is_last_fd());
        let dup = world.table.dup(0, 1, false).map(drop);
        let was_last = remover.join().unwrap();
        // Told to be the last means that no FD of it can follow.
        match dup {
            Ok(()) => {
                assert!(!was_last);
                world.check(&[(1, 7)]);
            }
            Err(error) => {
                assert_eq!(error, Error::NotOpen { from: 0, to: 1 });
                assert!(was_last);
                world.check(&[]);
            }
        }
    });
}

#[test]
fn dup_against_remove_of_its_target() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        world.insert(1, 8);
        let remover = spawn(&world, |world| world.table.remove(1).expect("open").content());
        let replaced = world.table.dup(0, 1, false).unwrap().map(|released| released.content());
        match remover.join().unwrap() {
            7 => {
                assert_eq!(replaced, Some(8));
                world.check(&[(0, 7)]);
            }
            _ => {
                assert_eq!(replaced, None);
                world.check(&[(0, 7), (1, 7)]);
            }
        }
    });
}

#[test]
fn insert_against_insert_of_one_fd_in_a_new_chunk() {
    loom::model(|| {
        let world = World::new();
        let other = spawn(&world, |world| world.insert(0, 1).map(|released| released.content()));
        let here = world.insert(0, 2).map(|released| released.content());
        match (here, other.join().unwrap()) {
            (None, Some(2)) => world.check(&[(0, 1)]),
            (Some(1), None) => world.check(&[(0, 2)]),
            other => panic!("replaced {other:?}"),
        }
    });
}

#[test]
fn get_against_insert_in_a_new_chunk() {
    loom::model(|| {
        let world = World::new();
        let reader = spawn(&world, |world| world.table.get(0).map(|value| value.content()));
        assert!(world.insert(0, 7).is_none());
        assert!(matches!(reader.join().unwrap(), None | Some(7)));
        world.check(&[(0, 7)]);
    });
}

#[test]
fn taking_the_value_against_a_reader() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let reader = spawn(&world, |world| world.table.get(0).map(|value| value.content()));
        if let Some(value) = world.table.remove(0).expect("open").into_inner() {
            assert_eq!(value.content(), 7);
            assert_eq!(world.drops(), 0);
        }
        assert!(matches!(reader.join().unwrap(), None | Some(7)));
        world.check(&[]);
    });
}

#[test]
fn set_cloexec_against_exec_and_a_reader() {
    three_threads(|| {
        let world = World::new();
        world.insert(0, 7);
        world.table.set_cloexec(0, true);
        let clearer = spawn(&world, |world| world.table.set_cloexec(0, false));
        let reader = spawn(&world, |world| world.table.get(0).map(|value| value.content()));
        let mut closed = false;
        world.table.close_on_exec(|_, _| closed = true);
        let cleared = clearer.join().unwrap();
        assert!(matches!(reader.join().unwrap(), None | Some(7)));
        assert_eq!(cleared, if closed { None } else { Some(true) });
        world.check(if closed { &[] } else { &[(0, 7)] });
    });
}

#[test]
fn set_cloexec_leaves_no_mark_on_a_closed_fd() {
    loom::model(|| {
        let world = World::new();
        world.insert(0, 7);
        let setter = spawn(&world, |world| world.table.set_cloexec(0, true));
        drop(world.table.remove(0));
        assert!(matches!(setter.join().unwrap(), None | Some(false)));
        assert_eq!(world.table.cloexec(0), None);
        world.insert(0, 8);
        assert_eq!(world.table.cloexec(0), Some(false));
        world.check(&[(0, 8)]);
    });
}
