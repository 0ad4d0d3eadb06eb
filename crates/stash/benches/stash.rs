//! What the arena's operations cost, beside what they replace. Prints the best of several rounds: the machine may
//! be busy with other things.
//!
//! The DEFUSE paper keeps the offset in the kernel (lock, lseek, lseek, unlock: four system calls a read) and hands
//! FDs through exec in 3.7 us + 4 ns per FD.

#![allow(clippy::cast_precision_loss, reason = "durations and counts are far below 2^52")]

use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use stash::{Arena, ArenaConfig, Description, ExecEntry, Holder, StashError};

const ROUNDS: usize = 15;

/// Nanoseconds per call, best of the rounds.
fn best(calls: usize, mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..calls {
            call();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / calls as f64);
    }
    best
}

fn report(what: &str, nanoseconds: f64) {
    println!("{what:<58} {nanoseconds:>10.1} ns");
}

fn main() {
    let directory = tempfile::Builder::new().prefix("stash-bench").tempdir_in(session_folder()).unwrap();
    let file = tempfile::tempfile_in(directory.path()).unwrap();
    let arena = Arena::create(file.as_fd(), &ArenaConfig::default()).unwrap();
    let process = arena.register_process().unwrap();
    let me = Holder::current(process);

    println!("arena");
    report("create", best(20, || drop(create(directory.path()))));
    report("open (and unmap)", best(200, || drop(Arena::open(file.as_fd()).unwrap())));
    report(
        "register and unregister a process",
        best(200, || arena.unregister_process(arena.register_process().unwrap()).unwrap()),
    );
    slots(&arena, me);
    offsets(&arena, me, &file);
    exec_maps(&arena, me);
}

/// tmpfs, where a session's files lie.
fn session_folder() -> std::path::PathBuf {
    let shared_memory = std::path::PathBuf::from("/dev/shm");
    if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() }
}

fn create(directory: &std::path::Path) -> Arena {
    Arena::create(tempfile::tempfile_in(directory).unwrap().as_fd(), &ArenaConfig::default()).unwrap()
}

fn slots(arena: &Arena, me: Holder) {
    println!("\nslots");
    let process = me.process();
    for len in [0, 20, 120, 1000] {
        let path = vec![b'p'; len];
        let description = Description { path: &path, ..Description::default() };
        let cost = best(10_000, || {
            let slot = arena.alloc_slot(process, &description).unwrap();
            arena.free_slot(process, black_box(slot.id())).unwrap();
        });
        report(&format!("alloc and free, path of {len} bytes"), cost);
    }
    let held: Vec<_> = (0..100_000)
        .map(|_| {
            let slot =
                arena.alloc_slot(process, &Description { path: b"/mnt/file", ..Description::default() });
            slot.unwrap().id()
        })
        .collect();
    let cost = best(10_000, || {
        let slot = arena.alloc_slot(process, &Description::default()).unwrap();
        arena.free_slot(process, black_box(slot.id())).unwrap();
    });
    report("alloc and free, 100,000 in use", cost);
    for (n, &id) in held.iter().enumerate() {
        arena.slot(id).unwrap().set_shadow(1000 + 3 * n as u64).unwrap();
    }
    let mut n = 0;
    let cost = best(100_000, || {
        n = (n + 1) % held.len();
        assert_eq!(arena.find_by_shadow(1000 + 3 * n as u64), Some(held[n]));
    });
    report("find by shadow, 100,000 in use", cost);
    let slot = arena.slot(held[0]).unwrap();
    let mut buffer = [0; 4095];
    report("look a slot up", best(100_000, || _ = black_box(arena.slot(black_box(held[0])))));
    report("read a short path", best(100_000, || assert_eq!(slot.path(&mut buffer).unwrap().len(), 9)));
    for len in [64, 65_536] {
        let blob = vec![1; len];
        let mut back = vec![0; len];
        let cost = best(300, || slot.lock(me).unwrap().set_blob(&blob).unwrap());
        report(&format!("leave a blob of {len} bytes"), cost);
        let cost = best(300, || assert_eq!(slot.blob(&mut back).unwrap().len(), len));
        report(&format!("read a blob of {len} bytes"), cost);
    }
    let cost = best(1, || _ = black_box(arena.sweep(me, usize::MAX, |_| true)));
    report("sweep, per slot in use", cost / held.len() as f64);
    for id in held {
        arena.free_slot(process, id).unwrap();
    }
}

fn offsets(arena: &Arena, me: Holder, file: &File) {
    println!("\noffset protocol");
    let slot = arena.alloc_slot(me.process(), &Description::default()).unwrap();
    report("lock and unlock, uncontended", best(100_000, || drop(slot.lock(me).unwrap())));
    report("inode lock and unlock", best(100_000, || drop(arena.inode_lock(5, me).unwrap())));
    let read = best(100_000, || {
        slot.advance_read::<StashError>(me, |offset| Ok(black_box(offset as usize & 1) + 1)).unwrap();
    });
    report("advance by a read", read);
    let write = best(100_000, || {
        let transfer = |offset: i64| Ok(black_box(offset as usize & 1) + 1);
        slot.lock(me).unwrap().advance::<StashError>(transfer).unwrap();
    });
    report("advance by a write (under the lock)", write);
    let kernel = best(2000, || kernel_offset(file));
    report("the paper's way: lock, lseek, lseek, unlock", kernel);
    println!("{:<58} {:>10.1} times", "  a read's protocol is faster by", kernel / read);
    println!("{:<58} {:>10.1} times", "  a write's protocol is faster by", kernel / write);
}

fn kernel_offset(file: &File) {
    let fd = file.as_raw_fd();
    // SAFETY: system calls on an FD that `file` keeps open, with a lock record valid for the calls.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as i16;
        assert_eq!(libc::fcntl(fd, libc::F_SETLKW, &raw const lock), 0);
        let offset = libc::lseek(fd, 0, libc::SEEK_CUR);
        libc::lseek(fd, (offset + 1) & 0xffff, libc::SEEK_SET);
        lock.l_type = libc::F_UNLCK as i16;
        assert_eq!(libc::fcntl(fd, libc::F_SETLK, &raw const lock), 0);
    }
}

fn exec_maps(arena: &Arena, me: Holder) {
    println!("\nexec map: put and take together, beside the paper's 3.7 us + 4 ns per FD");
    let ids: Vec<_> =
        (0..4000).map(|_| arena.alloc_slot(me.process(), &Description::default()).unwrap().id()).collect();
    let mut taken = Vec::with_capacity(ids.len());
    for count in [1, 10, 100, 1000, 4000] {
        let cost = best(100_000 / count, || {
            let entries = ids[..count].iter().enumerate();
            let entries = entries.map(|(fd, &slot)| ExecEntry {
                fd: fd as u32,
                slot,
                cloexec: false,
                tag: 0,
                following: 0,
            });
            let token = arena.put_exec_map(me.process(), entries).unwrap();
            taken.clear();
            arena.take_exec_map(token, &mut taken).unwrap();
        });
        assert_eq!(taken.len(), count);
        let paper = 3700.0 + 4.0 * count as f64;
        println!(
            "{count:>5} FDs {:>38} {cost:>15.1} ns {:>8.2} ns/FD {:>6.1} times faster",
            "",
            cost / count as f64,
            paper / cost
        );
    }
}
