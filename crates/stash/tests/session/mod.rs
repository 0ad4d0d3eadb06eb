//! What the tests of several processes share: arenas, and children by plain fork(2).

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::os::fd::AsFd;

use stash::{Arena, ArenaConfig};

pub const SMALL: ArenaConfig = ArenaConfig { slots: 64, processes: 64, blocks: 64 };

pub fn arena_file() -> File {
    memfd::MemfdOptions::default().create("stash test").unwrap().into_file()
}

/// Two mappings of one new arena, as two processes have them.
pub fn two_mappings(config: &ArenaConfig) -> (Arena, Arena) {
    let file = arena_file();
    let first = Arena::create(file.as_fd(), config).unwrap();
    let second = Arena::open(file.as_fd()).unwrap();
    (first, second)
}

/// A forked child, killed and reaped on drop.
pub struct Child {
    pid: libc::pid_t,
}

impl Child {
    /// Forks a child that runs `body` and exits with 0, or with 1 if that panics. The test process has several
    /// threads, so the body must not allocate.
    pub fn fork(body: impl FnOnce()) -> Self {
        // SAFETY: the child only runs `body`, which by contract allocates nothing, and `_exit`s.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).map_or(1, |()| 0);
            // SAFETY: ends the process without running anything of the parent's.
            unsafe { libc::_exit(code) }
        }
        Self { pid }
    }

    pub fn kill(&self) {
        // SAFETY: the child is not yet reaped, so the pid is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits until the child has ended, and leaves it a zombie.
    pub fn wait_until_zombie(&self) {
        self.look(0);
    }

    /// Whether the child is a zombie.
    pub fn has_ended(&self) -> bool {
        self.look(libc::WNOHANG)
    }

    fn look(&self, how: i32) -> bool {
        // SAFETY: all zeros are a valid `siginfo_t`, which the call fills in.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let how = libc::WEXITED | libc::WNOWAIT | how;
            assert_eq!(libc::waitid(libc::P_PID, self.pid as u32, &raw mut info, how), 0);
            info.si_pid() != 0
        }
    }

    /// Waits for the child's end and returns its exit code, or minus the signal that killed it.
    pub fn wait(self) -> i32 {
        let status = reap(self.pid);
        std::mem::forget(self);
        if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        reap(self.pid);
    }
}

fn reap(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// Marsaglia's xorshift: enough randomness to vary the order of operations, without allocating.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
