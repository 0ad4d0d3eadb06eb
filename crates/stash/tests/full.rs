//! On a file system that is full there are errors, and no SIGBUS.

mod session;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr;

use session::SMALL;
use stash::{Arena, ArenaConfig, Description, Holder, SlotId, StashError};

/// Runs `test` in a folder on a tmpfs of its own, of so many KiB; as root only.
fn on_tmpfs(kib: u32, test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
    let options = std::ffi::CString::new(format!("size={kib}k")).unwrap();
    let run = || {
        // SAFETY: gives this thread, which ends with the test, mounts of its own, and changes only these.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    ptr::null(),
                    c"/".as_ptr(),
                    ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    ptr::null(),
                ) == 0
                && libc::mount(
                    c"tmpfs".as_ptr(),
                    path.as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    options.as_ptr().cast(),
                ) == 0
        };
        if mounted { test(folder.path()) } else { println!("skipped: no right to mount a tmpfs") }
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

fn new_file(folder: &Path, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(folder.join(name)).unwrap()
}

/// Takes all that is left, and but for `left` KiB gives it back.
fn fill(folder: &Path, left: usize) -> File {
    let mut filler = new_file(folder, "filler");
    let mut taken = 0;
    while filler.write_all(&[1; 4096]).is_ok() {
        taken += 4096;
    }
    filler.set_len((taken - left * 1024) as u64).unwrap();
    filler
}

#[test]
fn an_arena_is_made_whole_or_not_at_all() {
    on_tmpfs(64, |folder| {
        let file = new_file(folder, "arena");
        assert_eq!(Arena::create(file.as_fd(), &SMALL).unwrap_err(), StashError::NoSpace);
    });
}

#[test]
fn what_finds_no_memory_fails_and_the_rest_goes_on() {
    const LARGE: ArenaConfig = ArenaConfig { slots: 1 << 15, processes: 1 << 12, blocks: 1 << 12 };
    on_tmpfs(4096, |folder| {
        let file = new_file(folder, "arena");
        let arena = Arena::create(file.as_fd(), &LARGE).unwrap();
        let me = Holder::current(arena.register_process().unwrap());
        let filler = fill(folder, 200);
        let allocate =
            |path: &[u8]| arena.alloc_slot(me.process(), &Description { path, ..Description::default() });
        let mut slots = Vec::new();
        let full = loop {
            // Each with a shadow, some with a path that takes a block.
            let path = vec![b'p'; if slots.len() % 10 == 0 { 2000 } else { 10 }];
            let made = allocate(&path).and_then(|slot| {
                slot.set_shadow(1000 + slots.len() as u64)?;
                slots.push((slot.id(), path));
                Ok(())
            });
            match made {
                Ok(()) => assert!(slots.len() < 10_000, "the file system is not full"),
                Err(error) => break error,
            }
        };
        assert_eq!(full, StashError::NoSpace);
        // The last room goes for shadows; then nothing takes any.
        drop(fill_rest(folder));
        for inode in 0..20_000 {
            let found = arena.find_by_shadow(inode);
            let expected = inode.checked_sub(1000).and_then(|at| Some(slots.get(at as usize)?.0));
            assert_eq!(found, expected, "{inode}");
        }
        let live =
            (0..LARGE.slots).filter(|&index| arena.slot(SlotId { index, generation: 1 }).is_ok()).count();
        // Perhaps one for whose shadow there was no room.
        assert!((slots.len()..=slots.len() + 1).contains(&live), "{live}");
        let large = vec![7; 60_000];
        for (id, path) in &slots {
            let slot = arena.slot(*id).unwrap();
            assert_eq!(slot.path(&mut [0; 4095]).unwrap(), path);
            let guard = slot.lock(me).unwrap();
            guard.set_blob(b"short").unwrap();
            assert!(matches!(guard.set_blob(&large), Ok(()) | Err(StashError::NoSpace)));
        }
        let records: Vec<_> = (0..LARGE.processes).map_while(|_| arena.register_process().ok()).collect();
        assert_eq!(arena.register_process(), Err(StashError::NoSpace));
        arena.unregister_process(records[3]).unwrap();
        assert!(arena.register_process().is_ok());
        // What is freed can be had again.
        let (id, _) = slots.swap_remove(5);
        arena.free_slot(me.process(), id).unwrap();
        let again = allocate(b"again").unwrap();
        assert_eq!(again.id().index, id.index);
        // And with room there is all that there was not.
        filler.set_len(0).unwrap();
        std::fs::remove_file(folder.join("rest")).unwrap();
        assert!(arena.register_process().is_ok());
        for at in 0..100 {
            allocate(&[b'q'; 300]).unwrap().set_shadow(100_000 + at).unwrap();
        }
        arena.sweep(me, usize::MAX, |_| true);
    });
}

fn fill_rest(folder: &Path) -> File {
    let mut rest = new_file(folder, "rest");
    while rest.write_all(&[1; 4096]).is_ok() {}
    rest
}
