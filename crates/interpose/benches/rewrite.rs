//! What finding and changing the sites of libc costs a process that starts.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use interpose::rewrite::{AddressMap, Image, NearMemory, Plan, Threads, apply};

const ROUNDS: usize = 30;

fn main() {
    let path = AddressMap::read()
        .ok()
        .and_then(|map| {
            let libc = map.objects(&[]).find(|object| object.path().ends_with(b"/libc.so.6"));
            libc.map(|object| String::from_utf8_lossy(object.path()).into_owned())
        })
        .expect("this program runs on a libc.so.6");
    let file = std::fs::read(&path).unwrap();
    let image = Image::from_file(&file).unwrap();
    let text = image.texts().next().unwrap();
    // What a file system is interested in: the calls that take an FD or a path, and those about processes.
    let files = |number: Option<u32>| number.is_none_or(|number| FILES.contains(&number));

    println!("{path}: {} KiB of text; best of {ROUNDS} (median)", text.bytes.len() / 1024);
    report("read /proc/self/maps", || AddressMap::read().unwrap().mappings().len());
    report("memmem for 0f 05", || memchr::memmem::find_iter(text.bytes, &[0x0f, 5]).count());
    report("scan, all sites", || image.scan(&text, &|_| true).sites.len());
    report("scan, calls on files", || image.scan(&text, &files).sites.len());
    let plans = [("all sites", image.scan(&text, &|_| true)), ("calls on files", image.scan(&text, &files))];
    for (name, plan) in &plans {
        let list = plan.to_bytes(b"bench");
        println!("list of {name}: {} sites, {} bytes", plan.sites.len(), list.len());
        report("  read the list", || Plan::from_bytes(&list, b"bench").unwrap().sites.len());
        let opened = File::open(&path).unwrap();
        report_of("  apply", || {
            let map = Mapping::new(&opened, &file, text.bytes);
            let range = map.start..map.start + (text.bytes.len() as u64).next_multiple_of(4096);
            let mut memory = NearMemory::new(&AddressMap::read().unwrap());
            let start = Instant::now();
            // SAFETY: a private mapping of the planned text that nobody runs; the entry is never reached.
            let patched = unsafe { apply(plan, range, map.start, &mut memory, Threads::Quiet) }.unwrap();
            let time = start.elapsed();
            assert_eq!(patched.len(), plan.sites.len());
            time
        });
    }
}

struct Mapping {
    start: u64,
    len: usize,
}

impl Mapping {
    /// Another mapping of the text, mapped and touched as ld.so and a running program have it.
    fn new(opened: &File, file: &[u8], text: &[u8]) -> Self {
        let offset = text.as_ptr() as usize - file.as_ptr() as usize;
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: a new mapping.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                text.len(),
                prot,
                libc::MAP_PRIVATE,
                opened.as_raw_fd(),
                offset as i64,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: start as u64, len: text.len() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; nothing refers to it.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

fn report<T>(what: &str, mut work: impl FnMut() -> T) {
    report_of(what, || {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
}

fn report_of(what: &str, mut work: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| work()).collect();
    times.sort_unstable();
    println!("{what:28} {:8.1} us ({:.1})", micros(times[0]), micros(times[ROUNDS / 2]));
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[rustfmt::skip]
const FILES: [u32; 118] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 32, 33, 40, 44, 45, 46, 47,
    56, 57, 58, 59, 60, 61, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92,
    93, 94, 95, 105, 106, 112, 117, 119, 132, 133, 137, 138, 155, 157, 160, 161, 165, 166, 187, 188, 189, 190,
    191, 192, 193, 194, 195, 196, 197, 198, 199, 217, 221, 231, 232, 233, 235, 247, 254, 257, 258, 259, 260,
    261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 275, 276, 277, 278, 285, 292, 293, 295,
];
