//! Threads that open, dup, close and use the same few FDs for about a second: nothing is used after its drop, and
//! everything is dropped once.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fdtable::{FdTable, Ref};

const FDS: u64 = 4;
const THREADS: u64 = 4;
const CALLS: u64 = 400_000;

static TABLE: FdTable<Canary> = FdTable::new();
static MADE: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
static LAST_CLOSES: AtomicUsize = AtomicUsize::new(0);

struct Canary {
    alive: AtomicBool,
    secret: u64,
}

const SECRET: u64 = 0x5eed_cafe_f00d_d00d;

impl Canary {
    fn new() -> Self {
        MADE.fetch_add(1, Ordering::Relaxed);
        Self { alive: AtomicBool::new(true), secret: SECRET }
    }

    fn check(&self) {
        assert!(self.alive.load(Ordering::Relaxed) && self.secret == SECRET, "used after its drop");
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        assert!(self.alive.swap(false, Ordering::Relaxed), "dropped twice");
        self.secret = 0;
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Xorshift: each thread its own reproducible sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % limit
    }

    fn fd(&mut self) -> i32 {
        self.below(FDS) as i32
    }
}

fn closed(released: Option<fdtable::Released<Canary>>) {
    let Some(released) = released else { return };
    released.check();
    LAST_CLOSES.fetch_add(usize::from(released.is_last_fd()), Ordering::Relaxed);
}

fn work(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut kept: Vec<Ref<'_, Canary>> = Vec::new();
    for _ in 0..CALLS {
        let fd = random.fd();
        match random.below(16) {
            0..8 => TABLE.get(fd).iter().for_each(|canary| canary.check()),
            8..10 => closed(TABLE.insert(fd, Canary::new(), false).unwrap()),
            10..12 => drop(TABLE.dup(fd, random.fd(), true).map(closed)),
            12 => closed(TABLE.remove(fd)),
            13 => drop(TABLE.set_cloexec(fd, random.below(2) == 0)),
            14 => kept.extend(TABLE.get(fd)),
            _ => match random.below(8) {
                0 => TABLE.close_range(fd as u32, fd as u32 + 1, |_, released| closed(Some(released))),
                1 => TABLE.close_on_exec(|_, released| closed(Some(released))),
                2 => TABLE.for_each(|_, canary, _| canary.check()),
                _ => {
                    for canary in &kept {
                        canary.check();
                    }
                    kept.truncate(random.below(4) as usize);
                }
            },
        }
    }
}

#[test]
fn nothing_is_used_after_its_drop_and_everything_is_dropped_once() {
    std::thread::scope(|scope| {
        for seed in 1..=THREADS {
            scope.spawn(move || work(seed));
        }
    });
    TABLE.close_range(0, u32::MAX, |_, released| closed(Some(released)));
    let made = MADE.load(Ordering::Relaxed);
    assert_eq!(DROPPED.load(Ordering::Relaxed), made);
    assert_eq!(
        LAST_CLOSES.load(Ordering::Relaxed),
        made,
        "each description is told once to be closed for good"
    );
    assert!(TABLE.is_empty());
}
