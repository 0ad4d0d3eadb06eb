//! Damaged and hostile files give errors: no panic, no hang, and no wrong path or blob.

#[path = "session/exercise.rs"]
mod exercise;
mod session;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use exercise::exercise;
use proptest::prelude::*;
use session::{SMALL, arena_file};
use stash::{Arena, ArenaConfig, Description, ExecEntry, Holder, SlotId, StashError, check_trusted};

const INODES: [u64; 3] = [900, 901, 902];

struct Populated {
    file: File,
    arena: Arena,
    values: Vec<(SlotId, Vec<u8>, Vec<u8>)>,
}

/// An arena that uses every kind of thing there is.
fn populated() -> Populated {
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let me = Holder::current(arena.register_process().unwrap());
    let mut values = Vec::new();
    for (path_len, blob_len) in [(0, 0), (5, 64), (128, 65), (129, 5000), (4095, 3), (50, 30_000)] {
        let (path, blob) = (vec![b'p'; path_len], vec![b'b'; blob_len]);
        let slot =
            arena.alloc_slot(me.process(), &Description { path: &path, ..Description::default() }).unwrap();
        slot.lock(me).unwrap().set_blob(&blob).unwrap();
        values.push((slot.id(), path, blob));
    }
    for (inode, (id, ..)) in INODES.iter().zip(&values) {
        arena.slot(*id).unwrap().set_shadow(*inode).unwrap();
    }
    arena.slot(values[1].0).unwrap().mark_shared().unwrap();
    let entry = |fd| ExecEntry { fd, slot: values[2].0, cloexec: true, tag: 7, following: 0 };
    arena.put_exec_map(me.process(), (0..300).map(entry)).unwrap();
    Populated { file, arena, values }
}

/// Offsets of the bytes worth damaging: words that hold something, and those beside them.
fn used_bytes(file: &File) -> Vec<u64> {
    let len = file.metadata().unwrap().len() as usize;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let used = |at: usize| bytes[at.saturating_sub(8)..(at + 8).min(len)].iter().any(|&byte| byte != 0);
    (0..len).filter(|&at| used(at)).map(|at| at as u64).collect()
}

fn flip(file: &File, at: u64, bits: u8) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_damaged_byte_changes_no_path_and_no_blob(at in any::<prop::sample::Index>(), bits in 1_u8..) {
        let Populated { file, arena, values } = populated();
        let used = used_bytes(&file);
        flip(&file, used[at.index(used.len())], bits);
        for (id, path, blob) in &values {
            let Ok(slot) = arena.slot(*id) else { continue };
            if let Ok(found) = slot.path(&mut [0; 4095]) {
                prop_assert_eq!(found, path);
            }
            if let Ok(found) = slot.blob(&mut vec![0; 65_536]) {
                prop_assert_eq!(found, blob);
            }
        }
        let mut entries = Vec::new();
        if let Some(token) = arena.find_exec_map()
            && arena.take_exec_map(token, &mut entries).is_ok()
        {
            prop_assert_eq!(entries.len(), 300);
            prop_assert!(entries.iter().all(|entry| entry.slot == values[2].0 && entry.cloexec));
        } else {
            prop_assert!(entries.is_empty());
        }
    }

    #[test]
    fn much_damage_is_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..200),
    ) {
        let Populated { file, arena, .. } = populated();
        let used = used_bytes(&file);
        for (at, value) in damage {
            let len = 1 + (value >> 60) as usize % 8;
            let at = used[at.index(used.len())].min(arena.map_len() as u64 - 8);
            file.write_all_at(&value.to_le_bytes()[..len], at).unwrap();
        }
        // Its header may say anything by now; the sizes known from before count.
        exercise(&arena, &INODES);
        if let Ok(opened) = Arena::open(file.as_fd()) {
            exercise(&opened, &INODES);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_arena(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        let mut file = private_file();
        file.write_all(&bytes).unwrap();
        prop_assert!(matches!(Arena::open(file.as_fd()), Err(StashError::NotAnArena(_))));
    }
}

fn private_file() -> File {
    let file = arena_file();
    file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    file
}

fn patched(at: u64, bytes: &[u8]) -> Result<Arena, StashError> {
    let file = arena_file();
    Arena::create(file.as_fd(), &SMALL).unwrap();
    file.write_all_at(bytes, at).unwrap();
    Arena::open(file.as_fd())
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    assert!(patched(60, &[0]).is_ok());
    assert!(matches!(patched(0, b"x"), Err(StashError::NotAnArena(_))));
    assert_eq!(patched(8, &[9]).err(), Some(StashError::Version { found: 9 }));
    for sizes in [32, 36, 40] {
        for value in [0_u32, 1, 63, 128, 1 << 16, 1 << 23, 1 << 24, u32::MAX] {
            assert!(matches!(patched(sizes, &value.to_le_bytes()), Err(StashError::NotAnArena(_))));
        }
    }
    assert!(matches!(patched(48, &[1]), Err(StashError::NotAnArena(_))));
}

#[test]
fn a_file_cut_short_is_refused_and_a_memfd_cannot_be_cut() {
    let directory = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile_in(directory.path()).unwrap();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    file.set_len(arena.map_len() as u64 - 4096).unwrap();
    assert!(matches!(Arena::open(file.as_fd()), Err(StashError::NotAnArena(_))));

    let file = memfd::MemfdOptions::default().allow_sealing(true).create("stash test").unwrap().into_file();
    Arena::create(file.as_fd(), &SMALL).unwrap();
    assert!(file.set_len(0).is_err());
}

#[test]
fn only_empty_files_and_supported_sizes_become_arenas() {
    let file = private_file();
    for slots in [0, 1, 65, 1 << 24, u32::MAX] {
        let config = ArenaConfig { slots, ..SMALL };
        assert!(matches!(Arena::create(file.as_fd(), &config), Err(StashError::BadConfig(_))));
    }
    assert_eq!(file.metadata().unwrap().len(), 0);
    Arena::create(file.as_fd(), &SMALL).unwrap();
    assert!(matches!(Arena::create(file.as_fd(), &SMALL), Err(StashError::BadConfig(_))));
}

#[test]
fn what_others_may_write_is_not_trusted() {
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "a memfd starts with 0777");
    let opened = Arena::open(file.as_fd()).unwrap();
    assert_eq!(opened.session_id(), arena.session_id());
    assert_ne!(arena.session_id(), 0);
    assert_eq!(opened.creator_uid(), rustix::process::geteuid().as_raw());
    for mode in [0o620, 0o602, 0o666] {
        file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
        assert!(matches!(Arena::open(file.as_fd()), Err(StashError::Untrusted { .. })));
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = File::open(directory.path()).unwrap();
    assert!(matches!(check_trusted(directory.as_fd()), Err(StashError::Untrusted { .. })));
}

#[test]
fn a_strangers_file_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to give a file away");
        return;
    }
    let file = arena_file();
    Arena::create(file.as_fd(), &SMALL).unwrap();
    // Still trusted for root's own files; not for anybody else's.
    assert!(Arena::open(file.as_fd()).is_ok());
    std::os::unix::fs::fchown(&file, Some(12345), None).unwrap();
    assert!(matches!(Arena::open(file.as_fd()), Err(StashError::Untrusted { uid: 12345, .. })));
}
