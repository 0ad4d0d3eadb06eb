//! A program that hands state per FD to its next image, through an exec with an empty environment.
//!
//! Here the state is how often each file was used, and where the program was in it. The arena lives in a memfd that
//! the second image inherits and recognises among its FDs; a program with a place of its own on disk would rather
//! keep it in a file there.

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use memfd::{FileSeal, MemfdOptions};
use rustix::io::FdFlags;
use stash::{Arena, ArenaConfig, Description, ExecEntry, Holder, StashError};

const NAME: &str = "through_exec session";

fn main() -> Result<(), Box<dyn Error>> {
    match inherited_arena()? {
        None => first_image(),
        Some(arena) => second_image(&arena),
    }
}

fn first_image() -> Result<(), Box<dyn Error>> {
    let memory = MemfdOptions::default().allow_sealing(true).create(NAME)?;
    let config = ArenaConfig { slots: 1024, processes: 64, blocks: 1024 };
    let arena = Arena::create(memory.as_file().as_fd(), &config)?;
    memory.add_seal(FileSeal::SealSeal)?;
    let me = Holder::current(arena.register_process()?);

    let mut entries = Vec::new();
    for path in ["/proc/self/status", "/proc/self/limits"] {
        let file = OwnedFd::from(File::open(path)?);
        let slot =
            arena.alloc_slot(me.process(), &Description { path: path.as_bytes(), ..Default::default() })?;
        slot.advance_read::<StashError>(me, |_| Ok(10 * path.len()))?;
        slot.lock(me)?.set_blob(format!("{path} was used once").as_bytes())?;
        // It is to outlive this image; whether it does will be asked of the FD's next owner.
        slot.mark_shared()?;
        let fd = inherit(file);
        println!("first image: {path} is FD {fd}, at offset {}", slot.offset());
        entries.push(ExecEntry { fd: fd as u32, slot: slot.id(), cloexec: false, tag: 0, following: 0 });
    }
    arena.put_exec_map(me.process(), entries)?;
    inherit(memory.into_file().into());
    // Only returns if it fails.
    Err(Command::new("/proc/self/exe").env_clear().exec().into())
}

fn second_image(arena: &Arena) -> Result<(), Box<dyn Error>> {
    let token = arena.find_exec_map().ok_or("no exec map")?;
    let mut entries = Vec::new();
    arena.take_exec_map(token, &mut entries)?;
    // A new registration: the first image's locks, if its other threads held any, count as those of the dead.
    let me = arena.register_process()?;
    for ExecEntry { fd, slot, .. } in entries {
        let slot = arena.slot(slot)?;
        slot.adopt(me)?;
        let (mut path, mut blob) = ([0; stash::PATH_MAX_LEN], [0; 100]);
        let (path, blob) = (slot.path(&mut path)?, slot.blob(&mut blob)?);
        let (path, blob) = (std::str::from_utf8(path)?, std::str::from_utf8(blob)?);
        println!("second image: FD {fd} is {path}, at offset {}; \"{blob}\"", slot.offset());
    }
    arena.unregister_process(token.process())?;
    Ok(())
}

/// The arena among the inherited FDs, if there is one. Its FD is closed: the mapping is enough.
fn inherited_arena() -> Result<Option<Arena>, Box<dyn Error>> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if target.to_string_lossy().contains(NAME) {
            let fd: i32 = entry.file_name().to_string_lossy().parse()?;
            // SAFETY: the first image left this FD to us; nobody else in this process knows of it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            return Ok(Some(Arena::open(fd.as_fd())?));
        }
    }
    Ok(None)
}

/// Leaves an FD open, across the exec too, and returns its number.
fn inherit(fd: OwnedFd) -> i32 {
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).expect("an open FD");
    fd.into_raw_fd()
}
