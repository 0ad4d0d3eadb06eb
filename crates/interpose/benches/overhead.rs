//! What a call costs that goes to the kernel past us, and one that a handler serves, as ratios within one run.
//!
//! `cargo bench -p interpose`. Before the handler is installed the same loops run untouched.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use interpose::{Call, Config, FD_FOREIGN, FD_STATES, Handler, Interest, Outcome};

const SYS_READ: u32 = 0;
const SYS_GETPPID: u32 = 110;
const SYS_RT_SIGPROCMASK: u32 = 14;
const CALLS: u32 = 500;
const ROUNDS: usize = 4000;

static FDS: [AtomicU8; FD_STATES] = [const { AtomicU8::new(FD_FOREIGN) }; FD_STATES];
static SERVING: AtomicU8 = AtomicU8::new(0);
static SERVED: AtomicU64 = AtomicU64::new(0);

struct Nothing;
impl Handler for Nothing {
    fn call(&self, _call: &mut Call) -> Outcome {
        SERVED.store(1, Relaxed);
        Outcome::Return(7)
    }
}

/// Nanoseconds per call: the best of many short rounds, so that a busy machine does not show.
fn cost(mut call: impl FnMut()) -> f64 {
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(round).take(ROUNDS).fold(f64::INFINITY, f64::min)
}

fn getppid() {
    // SAFETY: no preconditions.
    black_box(unsafe { libc::getppid() });
}

fn sigmask() {
    // SAFETY: asks only.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), std::ptr::null_mut()) };
}

fn main() {
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    let fd = zero.as_raw_fd();
    let mut byte = [0_u8; 1];
    let mut read = move || {
        // SAFETY: a buffer of one byte.
        black_box(unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) });
    };
    let before = [cost(getppid), cost(&mut read), cost(sigmask)];

    let config = Config::new()
        .fd_states(&FDS)
        .serving(&SERVING)
        .interest(SYS_READ, Interest::ByFd)
        .interest(SYS_RT_SIGPROCMASK, Interest::Never)
        .interest(SYS_GETPPID, Interest::WhileServing);
    let start = Instant::now();
    // SAFETY: one thread, nothing is being loaded.
    let installed = unsafe { interpose::install(config, &Nothing) }.expect("install");
    let install = start.elapsed();
    let after = [cost(getppid), cost(&mut read), cost(sigmask)];
    SERVING.store(1, Relaxed);
    let served = cost(getppid);
    SERVING.store(0, Relaxed);
    assert_eq!(SERVED.load(Relaxed), 1, "getppid was not served");

    println!("install: {} sites of {} objects in {install:?}", installed.sites, installed.objects);
    for (name, (before, after)) in
        ["getppid passed", "read of a foreign FD", "sigprocmask query"].iter().zip(before.iter().zip(after))
    {
        println!(
            "{name:24} {before:6.1} ns -> {after:6.1} ns: {:+.1} ns, ratio {:.3}",
            after - before,
            after / before
        );
    }
    println!(
        "{:24} {served:6.1} ns: {:.2} of a getppid by the kernel",
        "served, doing nothing",
        served / before[0]
    );
}
