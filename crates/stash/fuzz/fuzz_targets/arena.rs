//! Arbitrary bytes as an arena: `cargo +nightly fuzz run arena`.
//!
//! An input with an even first byte is a file; with an odd one, it is damage done to an arena in use: groups of three
//! bytes of position and five of value.

#![no_main]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use libfuzzer_sys::fuzz_target;
use stash::{Arena, ArenaConfig, Description, ExecEntry, Holder};

#[path = "../../tests/session/exercise.rs"]
mod exercise;

const INODES: [u64; 4] = [0, 3, 900, 901];
const LARGEST: u64 = 1 << 26;

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    if first % 2 == 0 { open(rest) } else { damage(rest) }
});

fn open(bytes: &[u8]) {
    let file = file();
    file.write_all_at(bytes, 0).unwrap();
    // The size the header asks for, so that the rest of the checks is reached too.
    if let Some(len) = bytes.get(48..56) {
        let len = u64::from_le_bytes(len.try_into().unwrap());
        file.set_len(len.clamp(bytes.len() as u64, LARGEST)).unwrap();
    }
    if let Ok(arena) = Arena::open(file.as_fd()) {
        exercise::exercise(&arena, &INODES);
    }
}

fn damage(bytes: &[u8]) {
    let file = file();
    let arena = Arena::create(file.as_fd(), &ArenaConfig { slots: 64, processes: 64, blocks: 64 }).unwrap();
    let me = Holder::current(arena.register_process().unwrap());
    for (inode, len) in [(900, 20), (901, 10_000)] {
        let path = vec![b'p'; len % 4096];
        let slot = arena.alloc_slot(me.process(), &Description { path: &path, ..Description::default() }).unwrap();
        slot.lock(me).unwrap().set_blob(&vec![b'b'; len]).unwrap();
        slot.set_shadow(inode).unwrap();
        let entry = |fd| ExecEntry { fd, slot: slot.id(), cloexec: false, tag: 0, following: 0 };
        arena.put_exec_map(me.process(), (0..300).map(entry)).unwrap();
    }
    for group in bytes.chunks_exact(8) {
        let at = u32::from_le_bytes([group[0], group[1], group[2], 0]) as u64;
        file.write_all_at(&group[3..], at.min(arena.map_len() as u64 - 5)).unwrap();
    }
    exercise::exercise(&arena, &INODES);
    if let Ok(opened) = Arena::open(file.as_fd()) {
        exercise::exercise(&opened, &INODES);
    }
}

fn file() -> File {
    let file = memfd::MemfdOptions::default().create("stash fuzz").unwrap().into_file();
    file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    file
}
