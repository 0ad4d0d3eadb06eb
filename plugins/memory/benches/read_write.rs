//! Reading and writing what the plugin holds, through the table, beside tmpfs.
//!
//! `cargo bench -p defuse-plugin-memory`. Nanoseconds per call, the best of several rounds; a ratio above 1
//! means that the plugin is faster.

use memory::Memory;
use plugin_abi::{Host, MountPath, Open, Plugin};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::Instant;

fn best(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 100_000;
    let mut round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..7).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let fs = Plugin::built_in::<Memory>().instantiate(c"/mnt", c"", c"", Host::STDERR).unwrap();
    let name = MountPath::from_normalised(c"/f");
    let Ok(Open::Served { handle, .. }) = fs.open(name, libc::O_CREAT | libc::O_RDWR, 0o600) else {
        panic!("no file")
    };
    // SAFETY: a constant name; the descriptor is owned from here on.
    let tmpfs: std::fs::File = unsafe {
        let fd = libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC);
        std::os::fd::FromRawFd::from_raw_fd(fd)
    };
    println!("{:>14}  {:>10}  {:>10}  {:>6}", "", "plugin", "tmpfs", "ratio");
    for size in [128, 4096, 65_536] {
        let mut buf = vec![7; size];
        fs.write(&handle, &buf, 0, false).unwrap();
        tmpfs.write_all_at(&buf, 0).unwrap();
        let report = |what: &str, plugin: f64, kernel: f64| {
            println!("{what:>5} {size:>6} B  {plugin:>7.1} ns  {kernel:>7.1} ns  {:>6.1}", kernel / plugin);
        };
        let plugin = best(|| {
            let _ = black_box(fs.read(&handle, black_box(&mut buf), 0));
        });
        let kernel = best(|| {
            let _ = black_box(tmpfs.read_at(black_box(&mut buf), 0));
        });
        report("read", plugin, kernel);
        let plugin = best(|| {
            let _ = black_box(fs.write(&handle, black_box(&buf), 0, false));
        });
        let kernel = best(|| {
            let _ = black_box(tmpfs.write_at(black_box(&buf), 0));
        });
        report("write", plugin, kernel);
    }
    fs.close(handle).unwrap();
}
