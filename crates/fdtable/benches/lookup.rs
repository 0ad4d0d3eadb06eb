//! What a look-up costs, beside the obvious alternatives. Prints ns per look-up (the best of several runs) and the
//! ratio to this crate.

use std::collections::HashMap;
use std::hint::black_box;
use std::os::fd::RawFd;
use std::sync::{Arc, Barrier, Mutex, RwLock};
use std::time::{Duration, Instant};

use fdtable::FdTable;

const LOOKUPS: u32 = 2_000_000;
const RUNS: usize = 7;
const OPEN: RawFd = 64;

trait Table: Sync {
    fn look_up(&self, fd: RawFd) -> Option<u64>;
}

impl Table for FdTable<u64> {
    fn look_up(&self, fd: RawFd) -> Option<u64> {
        self.get(fd).map(|value| *value)
    }
}

impl Table for Mutex<HashMap<RawFd, Arc<u64>>> {
    fn look_up(&self, fd: RawFd) -> Option<u64> {
        // The handle outlives the lock, as it must for an operation that may block.
        let value = self.lock().unwrap().get(&fd).cloned();
        value.map(|value| *value)
    }
}

impl Table for RwLock<Vec<Option<Arc<u64>>>> {
    fn look_up(&self, fd: RawFd) -> Option<u64> {
        let value = self.read().unwrap().get(usize::try_from(fd).ok()?).cloned().flatten();
        value.map(|value| *value)
    }
}

/// Nanoseconds per look-up, each thread on its own FD.
fn measure(table: &dyn Table, fds: &[RawFd]) -> f64 {
    let run = || {
        let start = Barrier::new(fds.len());
        let slowest = std::thread::scope(|scope| {
            let threads: Vec<_> = fds
                .iter()
                .map(|&fd| {
                    scope.spawn({
                        let start = &start;
                        move || look_up_often(table, fd, start)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max()
        });
        slowest.unwrap_or_default()
    };
    let best = (0..RUNS).map(|_| run()).min().unwrap_or_default();
    best.as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

fn look_up_often(table: &dyn Table, fd: RawFd, start: &Barrier) -> Duration {
    start.wait();
    let begin = Instant::now();
    for _ in 0..LOOKUPS {
        black_box(table.look_up(black_box(fd)));
    }
    begin.elapsed()
}

fn main() {
    let fdtable = FdTable::new();
    let mutex = Mutex::new(HashMap::new());
    let rwlock = RwLock::new(Vec::new());
    for fd in 0..OPEN {
        fdtable.insert(fd, 1, false).unwrap();
        mutex.lock().unwrap().insert(fd, Arc::new(1));
        rwlock.write().unwrap().push(Some(Arc::new(1)));
    }
    let cases: [(&str, &[RawFd]); 4] = [
        ("open, 1 thread", &[5]),
        ("open, 2 threads, neighbouring FDs", &[5, 6]),
        ("open, 2 threads, the same FD", &[5, 5]),
        ("not open, 1 thread", &[500]),
    ];
    println!(
        "{:36} {:>10} {:>24} {:>24}",
        "ns per look-up", "FdTable", "Mutex<HashMap<_, Arc>>", "RwLock<Vec<Arc>>"
    );
    for (name, fds) in cases {
        let ours = measure(&fdtable, fds);
        let others = [measure(&mutex, fds), measure(&rwlock, fds)];
        let [mutex, rwlock] = others.map(|ns| format!("{ns:.1} ({:.1}x)", ns / ours));
        println!("{name:36} {ours:>10.1} {mutex:>24} {rwlock:>24}");
    }
}
