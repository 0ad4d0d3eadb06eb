//! Plugins that are not thread-safe, and fork.

mod common;

use common::{load, open, path};
use plugin_abi::{Errno, Host, Instance};

fn instance(capabilities: &str) -> Instance {
    let plugin = load(&["tests/fixtures/not_thread_safe.c"], &[&format!("-DCAPABILITIES={capabilities}")]);
    plugin.instantiate(c"/m", c"", c"", Host::STDERR).unwrap()
}

fn hammer(fs: &Instance) -> i64 {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    fs.getattr(path(c"/f")).unwrap();
                }
            });
        }
    });
    fs.getattr(path(c"/f")).unwrap().st_size
}

#[test]
fn one_thread_at_a_time_without_the_capability() {
    assert_eq!(hammer(&instance("0")), 0);
}

#[test]
fn many_threads_at_once_with_it() {
    let fs = instance("DEFUSE_CAP_THREAD_SAFE");
    // The fixture yields twenty times inside a call; that four threads never meet there would mean a lock.
    let met = (0..50).any(|_| hammer(&fs) > 0);
    assert!(met);
}

#[test]
fn a_serialised_plugin_is_not_asked_for_locks() {
    let mut lock = libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    for (capabilities, answer) in [("0", Err(Errno::ENOSYS)), ("DEFUSE_CAP_THREAD_SAFE", Ok(()))] {
        let fs = instance(capabilities);
        let file = open(&fs, c"/f", libc::O_RDWR).unwrap();
        assert_eq!(fs.lock(&file, libc::F_SETLK, &mut lock), answer);
        fs.close(file).unwrap();
    }
}

/// Runs in a child; the result is its exit status, 99 for a crash.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child makes system calls and plugin calls only, none of which allocates.
    match unsafe { libc::fork() } {
        0 => {
            let status = body();
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 99 }
        }
    }
}

#[test]
fn a_child_forked_while_another_thread_is_inside_can_go_on() {
    let fs = instance("0");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fs.getattr(path(c"/f")).unwrap();
                }
            });
        }
        for _ in 0..50 {
            fs.fork_prepare();
            let status = in_child(|| {
                fs.fork_child();
                // Nobody was inside when it forked, so the fixture sees no collision.
                fs.getattr(path(c"/f")).map_or(98, |st| i32::try_from(st.st_size).unwrap_or(97))
            });
            fs.fork_parent();
            assert_eq!(status, 0);
        }
        // A fork that nobody prepared: the lock is free all the same.
        for _ in 0..50 {
            let status = in_child(|| {
                fs.fork_child();
                fs.getattr(path(c"/f")).map_or(98, |_| 0)
            });
            assert_eq!(status, 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn hooks_run_for_those_who_want_them() {
    for (capabilities, in_parent, in_the_child) in [("DEFUSE_CAP_FORK_HOOKS", 11, 101), ("0", 0, 0)] {
        let fs = instance(capabilities);
        fs.fork_prepare();
        let status = in_child(|| {
            fs.fork_child();
            fs.getattr(path(c"/f")).map_or(98, |st| i32::try_from(st.st_uid).unwrap_or(97))
        });
        fs.fork_parent();
        assert_eq!(status, in_the_child);
        assert_eq!(fs.getattr(path(c"/f")).unwrap().st_uid, in_parent);
    }
}
