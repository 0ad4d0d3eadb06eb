//! The session's arena as the runner uses it: to make it, and to know which processes live.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use defuse::log::Inode;
use defuse::session::{SessionError, names};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use stash::{Arena, ArenaConfig, StashError};

/// Room for 131,072 open file descriptions, 16,384 processes at one time, and 32,768 long paths and plugins' blobs: 170 MiB of every
/// process's address space, of which only what is used takes memory. What does not fit is ENFILE.
const SIZE: ArenaConfig = ArenaConfig { slots: 1 << 17, processes: 1 << 14, blocks: 1 << 15 };

/// Makes an arena of the empty file `fd`.
pub fn create(fd: BorrowedFd<'_>) -> Result<Arena, SessionError> {
    Arena::create(fd, &SIZE).map_err(|error| damaged("make the session's arena", &error))
}

/// Ids of the processes of the session that live now. A runner, which does not register, does not count.
///
/// `file` is the arena's own file. By its records the arena cannot tell whether a process in another PID namespace lives; those are
/// found by what they have mapped.
///
/// Nor does it know of one that was just made and has no record yet, but that there may be some.
pub fn live_processes(arena: &Arena, file: Inode) -> Vec<i32> {
    let own_namespace = rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino);
    loop {
        let births = arena.births();
        let mut pids = Vec::new();
        let mut elsewhere = false;
        for process in arena.live_processes().filter(|process| arena.process_is_alive(process.id)) {
            if process.pid_namespace == own_namespace {
                pids.push(process.pid as i32);
            } else {
                elsewhere = true;
            }
        }
        if elsewhere || pids.is_empty() && !births.all_ended() {
            pids.extend(processes_that_map(file));
            pids.sort_unstable();
            pids.dedup();
        }
        // Else somebody may have been made by one who had ended when we came to his record, and registered in one that we had passed.
        if !pids.is_empty() || arena.births().is_none_since(births) {
            return pids;
        }
    }
}

/// Ids of the processes but this one that have `file` mapped, as far as `/proc` lets us see.
fn processes_that_map(file: Inode) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id() as i32;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid: &i32| pid != own)
        .filter(|pid| fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| names_file(&maps, file)))
        .collect()
}

/// Whether one of the lines of a `/proc/PID/maps` is about `file`: `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE PATH`.
fn names_file(maps: &[u8], file: Inode) -> bool {
    let device = format!("{:02x}:{:02x}", rustix::fs::major(file.dev), rustix::fs::minor(file.dev));
    let inode = file.ino.to_string();
    maps.split(|&byte| byte == b'\n').any(|line| {
        let mut words = line.split(|&byte| byte == b' ').skip(3);
        words.next() == Some(device.as_bytes()) && words.next() == Some(inode.as_bytes())
    })
}

/// Whether any process lives of the session whose folder is `folder`: for [`sweep_stale`](defuse::session::sweep_stale).
///
/// # Errors
///
/// When there is an arena that cannot be read: then nobody can say.
pub fn any_alive(folder: BorrowedFd<'_>) -> Result<bool, SessionError> {
    // Until there is a configuration no process can open the session, and the arena may be half made.
    match statat(folder, names::CONFIG, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => {
            return Err(SessionError::System { attempted: "look for its configuration".into(), errno });
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, names::ARENA, flags, Mode::empty())
        .map_err(|errno| SessionError::System { attempted: "open its arena".into(), errno })?;
    let arena = Arena::open(file.as_fd()).map_err(|error| damaged("map its arena", &error))?;
    let inode = Inode::of(file.as_fd()).unwrap_or(Inode { dev: 0, ino: 0 });
    Ok(!live_processes(&arena, inode).is_empty())
}

fn damaged(attempted: &str, error: &StashError) -> SessionError {
    SessionError::Arena { attempted: attempted.into(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Arena, ArenaConfig, Inode, live_processes, names_file};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork, pause};
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_mapped_file_is_found_in_the_list_of_mappings() {
        let maps = fs::read("/proc/self/maps").unwrap();
        let inode = |path: &std::path::Path| {
            let metadata = fs::metadata(path).unwrap();
            Inode { dev: metadata.dev(), ino: metadata.ino() }
        };
        assert!(names_file(&maps, inode(&std::env::current_exe().unwrap())));
        let other = tempfile::NamedTempFile::new().unwrap();
        assert!(!names_file(&maps, inode(other.path())));
    }

    /// It has no record yet, and its maker may have ended.
    #[test]
    fn a_process_on_its_way_lives() {
        let file = tempfile::tempfile().unwrap();
        let size = ArenaConfig { slots: 64, processes: 64, blocks: 64 };
        let arena = Arena::create(file.as_fd(), &size).unwrap();
        let inode = Inode::of(file.as_fd()).unwrap();
        assert_eq!(live_processes(&arena, inode), []);
        arena.begin_birth();
        // SAFETY: the child calls nothing but pause(2).
        let ForkResult::Parent { child } = (unsafe { fork() }).unwrap() else {
            loop {
                pause();
            }
        };
        assert_eq!(live_processes(&arena, inode), [child.as_raw()]);
        // Killed on its way, it is looked for and not found.
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert_eq!(live_processes(&arena, inode), []);
        assert!(!arena.births().all_ended());
    }
}
