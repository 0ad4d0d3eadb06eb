//! Processes killed at any instruction block nobody, corrupt nothing, and lose nothing for ever.

mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use session::{Child, Random, two_mappings};
use stash::{
    Arena, ArenaConfig, BLOB_MAX_LEN, Description, ExecEntry, Holder, PATH_MAX_LEN, Slot, SlotId, StashError,
};

const COMMON: usize = 3;
const CONFIG: ArenaConfig = ArenaConfig { slots: 128, processes: 64, blocks: 512 };

/// How many processes are killed: `STASH_KILLS`, else a number that takes about a second.
fn rounds() -> u64 {
    std::env::var("STASH_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

/// The value of length `len` that a process writes: a first byte and its successors, so that a mixture shows.
fn fill(buffer: &mut [u8], first: u8) {
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = first.wrapping_add(i as u8);
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(i, &byte)| byte == bytes[0].wrapping_add(i as u8))
}

/// Two words that only a lock keeps equal.
fn bump_both(words: &[AtomicU64; 4], recovered: bool) {
    let [first, second] = [&words[0], &words[1]].map(|word| word.load(Ordering::Relaxed));
    assert!(first == second || recovered, "two holders at a time: {first} {second}");
    words[0].store(first + 1, Ordering::Relaxed);
    words[1].store(first + 1, Ordering::Relaxed);
}

/// What a child does for ever. Allocates nothing.
fn work(arena: &Arena, common: &[SlotId; COMMON], progress: &AtomicU64, buffer: &mut [u8], seed: u64) {
    let mut random = Random(seed | 1);
    let me = Holder::current(arena.register_process().unwrap());
    let process = me.process();
    loop {
        progress.fetch_add(1, Ordering::Relaxed);
        let slot = arena.slot(common[random.below(COMMON as u64) as usize]).unwrap();
        match random.below(9) {
            0 | 1 => {
                let path = &mut buffer[..=random.below(300) as usize];
                fill(path, random.0 as u8);
                slot.lock(me).unwrap().set_path(path).unwrap();
            }
            2 | 3 => {
                let limit = [60, 9000, BLOB_MAX_LEN as u64 - 1][random.below(3) as usize];
                let blob = &mut buffer[..=random.below(limit) as usize];
                fill(blob, random.0 as u8);
                slot.lock(me).unwrap().set_blob(blob).unwrap();
            }
            4 => {
                let guard = slot.lock(me).unwrap();
                bump_both(slot.user_words(), guard.recovered());
                guard.advance::<StashError>(|_| Ok(2)).unwrap();
            }
            5 => assert_eq!(slot.advance_read::<StashError>(me, |_| Ok(2)), Ok(2)),
            6 => drop(arena.inode_lock(random.below(3), me).unwrap()),
            7 => {
                fill(&mut buffer[..200], 3);
                let path = &buffer[..random.below(200) as usize];
                let mine =
                    arena.alloc_slot(process, &Description { path, ..Description::default() }).unwrap();
                mine.lock(me).unwrap().set_blob(&[1; 100]).unwrap();
                if random.below(2) == 0 {
                    arena.free_slot(process, mine.id()).unwrap();
                } else {
                    // Left for the sweep. One at a time: the previous one is freed by its own owner word.
                    free_others(arena, me, mine.id());
                }
            }
            _ => {
                let entry = |fd| ExecEntry { fd, slot: slot.id(), cloexec: false, tag: 0, following: 0 };
                arena.put_exec_map(process, (0..random.below(600) as u32).map(entry)).unwrap();
            }
        }
    }
}

fn free_others(arena: &Arena, me: Holder, keep: SlotId) {
    arena.for_each_live(|slot| {
        if slot.owner() == Ok(me.process()) && slot.id() != keep {
            arena.free_slot(me.process(), slot.id()).unwrap();
        }
    });
}

fn check_common(slot: Slot<'_>, me: Holder) {
    // Takes over from the dead; a lock that could not be taken would hang here.
    let guard = slot.lock(me).unwrap();
    bump_both(slot.user_words(), guard.recovered());
    assert_eq!(guard.pin_offset() % 2, 0, "an advance is made whole or not at all");
    drop(guard);
    assert_eq!(slot.advance_read::<StashError>(me, |_| Ok(0)), Ok(0));
    assert!(is_whole(slot.path(&mut [0; PATH_MAX_LEN]).unwrap()));
    let mut buffer = vec![0; BLOB_MAX_LEN];
    match slot.blob(&mut buffer) {
        Ok(blob) => assert!(is_whole(blob)),
        Err(error) => assert_eq!(error, StashError::Absent("blob")),
    }
}

/// Blocks that the common slots' values need.
fn blocks_in_use(arena: &Arena, common: &[SlotId; COMMON]) -> u32 {
    common.iter().map(|&id| blob_blocks(arena.slot(id).unwrap())).sum()
}

fn blob_blocks(slot: Slot<'_>) -> u32 {
    let len = slot.blob_len().unwrap().unwrap_or(0);
    if len > 64 { len.div_ceil(4096) as u32 } else { 0 }
}

#[test]
fn survivors_of_a_kill_find_everything_whole_and_sweep_the_rest() {
    let (ours, theirs) = two_mappings(&CONFIG);
    let me = Holder::current(ours.register_process().unwrap());
    let common = [(); COMMON].map(|()| {
        let slot =
            ours.alloc_slot(me.process(), &Description { path: b"a", ..Description::default() }).unwrap();
        slot.mark_shared().unwrap();
        slot.id()
    });
    let progress = ours.alloc_slot(me.process(), &Description::default()).unwrap();
    let progress = &progress.user_words()[0];
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed | 1);
    let mut buffer = vec![0; BLOB_MAX_LEN];
    let mut worker = || {
        let seed = random.below(u64::MAX);
        (Child::fork(|| work(&theirs, &common, progress, &mut buffer, seed)), seed)
    };
    let mut survivor = worker();
    for _ in 0..rounds() {
        let (victim, seed) = std::mem::replace(&mut survivor, worker());
        let until = progress.load(Ordering::Relaxed) + 1 + seed % 3000;
        while progress.load(Ordering::Relaxed) < until && !victim.has_ended() {
            std::thread::yield_now();
        }
        victim.kill();
        assert_eq!(victim.wait(), -libc::SIGKILL, "the worker failed by itself");
        for id in common {
            check_common(ours.slot(id).unwrap(), me);
        }
        ours.sweep(me, usize::MAX, |slot| common.contains(&slot.id()));
    }
    survivor.0.kill();
    assert_eq!(survivor.0.wait(), -libc::SIGKILL);
    for id in common {
        check_common(ours.slot(id).unwrap(), me);
    }
    ours.sweep(me, usize::MAX, |slot| common.contains(&slot.id()));
    // The paths may or may not use a block each, as both places serve in turn.
    let stats = ours.stats();
    let needed = blocks_in_use(&ours, &common);
    assert_eq!((stats.slots, stats.processes), (COMMON as u32 + 1, 1));
    assert!((needed..=needed + COMMON as u32).contains(&stats.blocks), "{stats:?}, {needed} needed");
    for id in common {
        ours.free_slot(me.process(), id).unwrap();
    }
    assert_eq!(ours.stats().blocks, 0, "a block is owned by nobody's value");
}
