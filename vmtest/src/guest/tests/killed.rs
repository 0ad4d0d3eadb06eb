//! Who holds a shadow is killed, whatever he is doing: his descriptions end, and the pages that were his alone go.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::super::abi;
use super::super::mount::Mount;
use super::super::process::{Gate, fork, send_fd, socket_pair};
use super::super::shadow::{self, Request};
use super::super::uffd::Uffd;
use super::locks::{record_lock, set_lease};

super::tests![holders_are_killed_in_every_state: 120];

const PAGE: usize = 4096;

/// A state of a process.
struct State {
    name: &'static str,
    /// Gets a process, which has the shadow of file 1 open, into the state, for ever.
    enter: fn(&Mount, OwnedFd),
    /// Whether a process is in it, once it has opened the gate.
    entered: fn(&Seen) -> bool,
}

/// What the kernel shows of a process.
struct Seen {
    /// The letter of `/proc/PID/stat`: S sleeps, T is stopped, R runs.
    state: char,
    /// The first word of `/proc/PID/syscall`: the call that it sleeps in, -1 for none.
    call: String,
}

impl Seen {
    fn of(pid: i32) -> Seen {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        // The name, which may have any letters, stands in parentheses.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        let call = read("syscall").split_whitespace().next().unwrap_or_default().to_owned();
        Seen { state, call }
    }

    fn sleeps_in(&self, call: libc::c_long) -> bool {
        self.call == call.to_string()
    }
}

fn waits_at_a_gate(seen: &Seen) -> bool {
    seen.sleeps_in(libc::SYS_read)
}

/// Memory whose pages never come.
fn absent_page(uffd: &Uffd) -> *mut u8 {
    // SAFETY: a new mapping at an address that the kernel chooses.
    let at = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(at, libc::MAP_FAILED);
    uffd.register(at.cast(), PAGE).expect("catch missing pages");
    at.cast()
}

fn map(memory: &shadow::Memory) -> *mut u8 {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, rights, libc::MAP_SHARED, memory.fd.as_raw_fd(), 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.cast()
}

const STATES: &[State] = &[
    State { name: "idle", enter: |_, _file| Gate::new().pass(), entered: waits_at_a_gate },
    State {
        name: "waiting for a lock",
        enter: |_, file| {
            let mut lock =
                libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
            // SAFETY: the structure lives across the call.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &raw mut lock) };
        },
        entered: |seen| seen.sleeps_in(libc::SYS_fcntl),
    },
    State {
        name: "waiting for a lease to be given back",
        enter: |mount, _file| drop(mount.open(&leased().token(6))),
        entered: |seen| seen.sleeps_in(libc::SYS_ioctl),
    },
    State {
        name: "holding pages",
        enter: |_, file| {
            let _memory = shadow::cache(&file, PAGE as u64).expect("cache");
            drop(file);
            Gate::new().pass();
        },
        entered: waits_at_a_gate,
    },
    State {
        name: "mapping pages, without a descriptor",
        enter: |_, file| {
            let memory = shadow::cache(&file, PAGE as u64).expect("cache");
            let at = map(&memory);
            drop((file, memory));
            // SAFETY: the first page of the mapping.
            unsafe { at.write_volatile(1) };
            Gate::new().pass();
        },
        entered: waits_at_a_gate,
    },
    State {
        name: "faulting on a page of the file",
        enter: |_, file| {
            let at = map(&shadow::cache(&file, PAGE as u64).expect("cache"));
            let uffd = Uffd::new().expect("userfaultfd");
            uffd.register(at, PAGE).expect("catch missing pages");
            // SAFETY: the first page of the mapping. It never comes.
            unsafe { at.write_volatile(1) };
        },
        entered: |seen| seen.state == 'S' && seen.call == "-1",
    },
    State {
        name: "in DEFUSE_IOC_LIVE",
        enter: |mount, _file| {
            let uffd = Uffd::of_the_kernel_too().expect("userfaultfd as root");
            let mut live = abi::Live {
                tokens: absent_page(&uffd) as u64,
                live: absent_page(&uffd) as u64,
                count: 1,
                ..abi::Live::default()
            };
            let _ = shadow::ioctl(mount.root(), abi::IOC_LIVE, &raw mut live);
        },
        entered: |seen| seen.sleeps_in(libc::SYS_ioctl),
    },
    State {
        name: "in execve",
        enter: |_, _file| {
            let uffd = Uffd::of_the_kernel_too().expect("userfaultfd as root");
            let argument = absent_page(&uffd).cast::<libc::c_char>();
            let arguments = [argument.cast_const(), std::ptr::null()];
            // SAFETY: strings and a list that live across the call; the kernel waits for the argument's page, which never comes.
            unsafe { libc::execv(c"/proc/self/exe".as_ptr(), arguments.as_ptr()) };
        },
        entered: |seen| seen.sleeps_in(libc::SYS_execve),
    },
    State {
        name: "stopped",
        enter: |_, _file| {
            // SAFETY: takes no pointers.
            unsafe { libc::raise(libc::SIGSTOP) };
        },
        entered: |seen| seen.state == 'T',
    },
    State {
        name: "with an FD in flight",
        enter: |_, file| {
            let (here, _there) = socket_pair();
            send_fd(&here, &file);
            Gate::new().pass();
        },
        entered: waits_at_a_gate,
    },
    State {
        name: "opening and closing",
        enter: |mount, _file| {
            for ino in 10.. {
                drop(mount.open(&Request::file(ino, "x/y")));
            }
        },
        entered: |_| true,
    },
];

/// The file that the test has a lease on.
fn leased() -> Request {
    Request::file(2, "leased")
}

fn holders_are_killed_in_every_state() {
    let mount = Mount::new();
    let blocker = mount.shadow(&Request::file(1, "f"));
    record_lock(&blocker, libc::F_WRLCK).expect("lock");
    let lease = mount.shadow(&leased().flags(libc::O_RDONLY));
    // SAFETY: the signal of a broken lease would end the process; it is of no interest here.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    set_lease(&lease, libc::F_RDLCK).expect("lease");
    for State { name, enter, entered } in STATES {
        let held = Gate::new();
        let child = fork(|| {
            let file = mount.shadow(&Request::file(1, "f").token(5));
            held.open();
            enter(&mount, file);
            panic!("it has left the state: {name}");
        });
        held.pass();
        let begun = Instant::now();
        while !entered(&Seen::of(child.id())) {
            let Seen { state, call } = Seen::of(child.id());
            assert!(begun.elapsed() < Duration::from_secs(10), "not {name}: state {state}, call {call}");
            std::thread::yield_now();
        }
        child.kill();
        let (alive, _) = shadow::live(mount.root(), mount.user(), &[5, 6]).expect("live");
        assert_eq!(alive, [false, false], "killed while {name}");
        let pages = shadow::cache(&blocker, PAGE as u64).expect("cache");
        assert!(pages.created, "killed while {name}: the pages are still there");
    }
}
