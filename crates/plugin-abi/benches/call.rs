//! What a call through the table costs, beside a direct call and a system call.
//!
//! `cargo bench -p plugin-abi`. Nanoseconds per call, the best of several rounds, and ratios to the direct call.

use plugin_abi::{
    CStr, Errno, FileSystem, Handle, Host, InitError, Instance, MountPath, Open, Plugin, Result, Setup, stat,
};
use std::hint::black_box;
use std::time::Instant;

/// Copies from one buffer: the least a read can be.
struct Copies(Vec<u8>);

impl FileSystem for Copies {
    type Handle = Box<u64>;
    const NAME: &'static CStr = c"copies";
    fn init(_: &Setup<'_>) -> Result<Self, InitError> {
        Ok(Self(vec![7; 4096]))
    }
    fn getattr(&self, _: &MountPath) -> Result<stat> {
        Err(Errno::ENOENT)
    }
    fn open(&self, _: &MountPath, _: i32, _: u32) -> Result<Open<Box<u64>>> {
        Ok(Open::served(Box::new(0)))
    }
    fn close(&self, _: Box<u64>) -> Result<()> {
        Ok(())
    }
    fn read(&self, _: &Box<u64>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let rest = &self.0[offset as usize..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

fn best(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 200_000;
    let round = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..7).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min)
}

fn served(fs: &Instance) -> Handle {
    match fs.open(MountPath::ROOT, 0, 0) {
        Ok(Open::Served { handle, .. }) => handle,
        other => panic!("{other:?}"),
    }
}

fn main() {
    let fs = Plugin::built_in::<Copies>().instantiate(c"/", c"", c"", Host::STDERR).unwrap();
    let (direct, file, handle) = (Copies(vec![7; 4096]), served(&fs), Box::new(0));
    println!("{:>6}  {:>8}  {:>8}  {:>6}  {:>8}", "bytes", "direct", "table", "ratio", "syscall");
    for size in [0, 128, 4096] {
        let mut buf = vec![0; size];
        let plain = best(|| {
            let _ = black_box(black_box(&direct).read(&handle, black_box(&mut buf), 0));
        });
        let table = best(|| {
            let _ = black_box(black_box(&fs).read(&file, black_box(&mut buf), 0));
        });
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let kernel = best(|| {
            let _ = black_box(std::os::unix::fs::FileExt::read_at(&zero, black_box(&mut buf), 0));
        });
        println!("{size:>6}  {plain:>5.1} ns  {table:>5.1} ns  {:>6.2}  {kernel:>5.1} ns", table / plain);
    }
    fs.close(file).unwrap();
}
