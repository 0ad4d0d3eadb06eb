//! What goes through exec, and what does not.

mod session;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use session::{SMALL, arena_file};
use stash::{Arena, Description, ExecEntry, Holder, StashError};

const IMAGE: &str = "STASH_TEST_IMAGE";
const SECOND_DONE: &str = "the second image found everything";

#[test]
fn slots_go_through_exec_and_locks_do_not() {
    match std::env::var(IMAGE).as_deref() {
        Err(_) => {
            let output = this_test().env(IMAGE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains(SECOND_DONE), "{output:?}");
        }
        Ok("1") => first_image(),
        Ok(inherited) => second_image(inherited.parse().unwrap()),
    }
}

fn this_test() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "slots_go_through_exec_and_locks_do_not", "--nocapture"]);
    command
}

fn first_image() {
    let file = arena_file();
    let arena = Arena::create(file.as_fd(), &SMALL).unwrap();
    let process = arena.register_process().unwrap();
    let entries = [10, 20, 30].map(|fd| {
        let slot =
            arena.alloc_slot(process, &Description { path: b"/mnt/x", ..Description::default() }).unwrap();
        slot.lock(Holder::current(process)).unwrap().set_offset(fd.into()).unwrap();
        ExecEntry { fd, slot: slot.id(), cloexec: fd == 30, tag: fd as u8, following: fd as u16 }
    });
    arena.slot(entries[0].slot).unwrap().mark_shared().unwrap();
    // A thread in the middle of a write, which exec ends.
    let (locked, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let guard = arena.slot(entries[0].slot).unwrap().lock(Holder::current(process)).unwrap();
            locked.send(guard.pin_offset()).unwrap();
            loop {
                std::thread::park();
            }
        });
        assert_eq!(wait.recv(), Ok(10));
        arena.put_exec_map(process, entries).unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let fd = file.as_raw_fd().to_string();
        let error = this_test().env_clear().env(IMAGE, fd).exec();
        // The parked thread would be waited for.
        eprintln!("exec failed: {error}");
        std::process::exit(1);
    });
}

fn second_image(inherited: i32) {
    // SAFETY: the first image left this FD open for us.
    let file = unsafe { File::from_raw_fd(inherited) };
    let arena = Arena::open(file.as_fd()).unwrap();
    let token = arena.find_exec_map().expect("the list of the image before");
    let me = Holder::current(arena.register_process().unwrap());
    let mut entries = Vec::new();
    arena.take_exec_map(token, &mut entries).unwrap();
    assert_eq!(
        entries.iter().map(|e| (e.fd, e.cloexec)).collect::<Vec<_>>(),
        [(10, false), (20, false), (30, true)]
    );
    let written = arena.slot(entries[0].slot).unwrap();
    assert!(arena.process_is_alive(token.process()), "the pid is still ours");
    let guard = written.lock(me).unwrap();
    assert!(guard.recovered(), "the thread that held it is gone");
    assert_eq!(guard.pin_offset(), 10);
    drop(guard);
    arena.slot(entries[1].slot).unwrap().adopt(me.process()).unwrap();
    arena.unregister_process(token.process()).unwrap();
    // The third was private to the first image, and nobody adopted it.
    assert_eq!(arena.sweep(me, usize::MAX, |_| true).slots, 1);
    assert_eq!(arena.slot(entries[2].slot).err(), Some(StashError::StaleSlot(entries[2].slot)));
    assert_eq!(arena.slot(entries[1].slot).unwrap().offset(), 20);
    println!("{SECOND_DONE}");
}
