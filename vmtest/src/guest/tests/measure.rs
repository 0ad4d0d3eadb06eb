//! What an open costs here. Under emulation the ratio is a hint, not a result; nothing is asserted of it.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::super::mount::{Mount, new_directory};
use super::super::shadow::Request;

super::tests![an_open_beside_tmpfs: 120];

const BATCH: u32 = 200;
const BATCHES: u32 = 50;

/// The cost of one action in the fastest batch: the machine has other things to do.
fn fastest(mut action: impl FnMut(u64)) -> Duration {
    let mut round = 0;
    (0..BATCHES)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..BATCH {
                round += 1;
                action(round);
            }
            began.elapsed() / BATCH
        })
        .min()
        .expect("there are batches")
}

fn an_open_beside_tmpfs() {
    let mount = Mount::new();
    let shadow = fastest(|round| drop(black_box(mount.shadow(&Request::file(round, "a/b/c/d/file")))));
    let _held = mount.shadow(&Request::file(1, "a/b/c/d/file"));
    let known = fastest(|_| drop(black_box(mount.shadow(&Request::file(1, "a/b/c/d/file")))));

    let base = new_directory("tmpfs").join("a/b/c/d");
    fs::create_dir_all(&base).expect("make directories");
    let path = base.join("file");
    fs::write(&path, "").expect("make the file");
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let tmpfs = fastest(|_| drop(black_box(rustix::fs::open(&path, flags, Mode::empty()).expect("open"))));
    let ratio = |time: Duration| time.as_secs_f64() / tmpfs.as_secs_f64();
    println!(
        "measured: open and close: tmpfs five deep {tmpfs:?}; shadow {shadow:?} (ratio {:.2}), of a key that is open \
         {known:?} (ratio {:.2})",
        ratio(shadow),
        ratio(known)
    );
}
