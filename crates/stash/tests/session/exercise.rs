//! Everything a process does with an arena, done to one whose bytes may be anything. Shared with the fuzz target.

use stash::{Arena, BLOB_MAX_LEN, Description, Holder, PATH_MAX_LEN, StashError};

/// Returns; that is the promise. The answers may be errors.
pub fn exercise(arena: &Arena, inodes: &[u64]) {
    let (mut path, mut blob) = (vec![0; PATH_MAX_LEN], vec![0; BLOB_MAX_LEN]);
    arena.for_each_live(|slot| {
        let _ = slot.path(&mut path);
        let _ = slot.path(&mut []);
        let _ = slot.blob(&mut blob);
        let _ = (slot.owner(), slot.is_shared(), slot.shadow(), slot.inode_key());
        assert!(slot.offset() >= 0);
        assert_eq!(arena.slot(slot.id()).map(|same| same.id()), Ok(slot.id()));
    });
    for &inode in inodes {
        if let Some(id) = arena.find_by_shadow(inode) {
            assert_eq!(arena.slot(id).unwrap().shadow(), inode);
        }
    }
    for process in arena.live_processes() {
        let _ = arena.process_is_alive(process.id);
    }
    if let Some(token) = arena.find_exec_map() {
        let _ = arena.take_exec_map(token, &mut Vec::new());
    }
    if let Ok(process) = arena.register_process() {
        let me = Holder::current(process);
        change(arena, me);
        arena.sweep(me, usize::MAX, |_| true);
        arena.sweep(me, usize::MAX, |_| false);
        let _ = arena.unregister_process(process);
    }
    arena.stats();
}

fn change(arena: &Arena, me: Holder) {
    arena.for_each_live(|slot| {
        // Bytes can claim that a living thread holds a lock, which is nobody's to break: so no waiting here.
        if let Ok(guard) = slot.try_lock(me) {
            let _ = guard.set_path(&[b'p'; 1000]);
            let _ = guard.set_path(b"short");
            let _ = guard.set_blob(&[b'b'; 10_000]);
            let _ = guard.advance::<StashError>(|_| Ok(1));
            let _ = guard.clear_blob();
        }
        let _ = slot.set_shadow(3);
        let _ = slot.adopt(me.process());
    });
    if let Ok(slot) = arena.alloc_slot(me.process(), &Description { path: b"new", ..Description::default() })
    {
        assert_eq!(slot.path(&mut [0; 3]), Ok(&b"new"[..]));
        let _ = arena.free_slot(me.process(), slot.id());
    }
    let _ = arena.put_exec_map(me.process(), []);
}
