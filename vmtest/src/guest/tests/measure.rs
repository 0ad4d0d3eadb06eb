//! What an open costs here. Under emulation the ratio is a hint, not a result; nothing is asserted of it.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::super::mount::{Mount, new_directory};
use super::super::shadow::Request;

super::tests![an_open_beside_tmpfs: 120];

const ROUNDS: u32 = 5_000;

fn time(mut action: impl FnMut(u64)) -> Duration {
    // The fastest of five: the machine has other things to do.
    (0..5)
        .map(|_| {
            let began = Instant::now();
            for round in 0..ROUNDS {
                action(u64::from(round));
            }
            began.elapsed() / ROUNDS
        })
        .min()
        .expect("five rounds")
}

fn an_open_beside_tmpfs() {
    let mount = Mount::new();
    let shadow = time(|round| drop(black_box(mount.shadow(&Request::file(round, "a/b/c/d/file")))));

    let base = new_directory("tmpfs").join("a/b/c/d");
    fs::create_dir_all(&base).expect("make directories");
    let path = base.join("file");
    fs::write(&path, "").expect("make the file");
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let tmpfs = time(|_| drop(black_box(rustix::fs::open(&path, flags, Mode::empty()).expect("open"))));
    println!(
        "measured: open and close: shadow {shadow:?}, tmpfs five deep {tmpfs:?}, ratio {:.2}",
        shadow.as_secs_f64() / tmpfs.as_secs_f64()
    );
}
