//! 128 MiB mapped three ways: by the pager, as plain shared memory, and as a file in the page cache.
//!
//! `cargo bench -p uffd-pager`. Times are of the processor, the best of three rounds, each with a new mapping; `resident` is a
//! second pass over the same mapping. `-- WORD` measures only what has the word in its name. Ratios are to the page cache's time of the same row.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, MsyncFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use uffd_pager::{Cache, Errno, MapRequest, Mode, PAGE, PageSource, Pager, signal};

const SIZE: usize = 128 << 20;
const ACCESSES: usize = 1_250_000;
const ROUNDS: usize = 3;

struct FileSource(File);

impl PageSource for FileSource {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::pread(&self.0, buffer, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        rustix::io::pwrite(&self.0, data, offset).map(drop)
    }

    fn len(&self) -> Result<u64, Errno> {
        Ok(SIZE as u64)
    }
}

/// Mapped memory to be measured.
trait Memory {
    fn base(&self) -> *mut u8;
    fn sync(&self);
}

struct Plain(*mut u8);

impl Plain {
    fn map(file: &impl std::os::fd::AsFd) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, file, 0) };
        Self(base.expect("mapped").cast())
    }
}

impl Memory for Plain {
    fn base(&self) -> *mut u8 {
        self.0
    }

    fn sync(&self) {
        // MS_ASYNC: no disk in the comparison. Protecting makes the next store of each page fault, as a real
        // write-back would.
        // SAFETY: our mapping, whole.
        unsafe {
            rustix::mm::msync(self.0.cast(), SIZE, MsyncFlags::ASYNC).expect("msync");
            rustix::mm::mprotect(self.0.cast(), SIZE, MprotectFlags::READ).expect("mprotect");
            rustix::mm::mprotect(self.0.cast(), SIZE, MprotectFlags::READ | MprotectFlags::WRITE)
                .expect("mprotect");
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, used by nobody any more.
        unsafe { munmap(self.0.cast(), SIZE) }.expect("munmap");
    }
}

struct Served {
    pager: &'static Pager,
    address: usize,
}

impl Served {
    /// With an empty cache: every page comes from the source.
    fn map(pager: &'static Pager, source: &File) -> Self {
        let source = Arc::new(FileSource(source.try_clone().expect("an FD")));
        let source = pager.attach(source, Cache::new(SIZE as u64).expect("a cache")).expect("attached");
        // SAFETY: no fixed place.
        let address = unsafe { pager.map(&source, &MapRequest::shared(SIZE)) }.expect("mapped");
        Self { pager, address }
    }
}

impl Memory for Served {
    fn base(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address)
    }

    fn sync(&self) {
        self.pager.sync(self.address..self.address + SIZE).expect("synced");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SAFETY: used by nobody any more.
        unsafe { self.pager.unmap(self.address..self.address + SIZE) }.expect("unmapped");
    }
}

/// The same places for everybody.
fn random_places() -> impl Iterator<Item = usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..ACCESSES).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % SIZE
    })
}

fn reads(memory: &dyn Memory) {
    let base = memory.base();
    let sum = random_places().fold(0_u64, |sum, place| {
        // SAFETY: below SIZE, mapped.
        sum + u64::from(unsafe { base.add(place).read_volatile() })
    });
    std::hint::black_box(sum);
}

fn sequential_reads(memory: &dyn Memory) {
    // SAFETY: the mapping, which nobody changes meanwhile.
    let words = unsafe { std::slice::from_raw_parts(memory.base(), SIZE) };
    std::hint::black_box(words.chunks_exact(8).fold(0_u8, |sum, word| sum ^ std::hint::black_box(word[0])));
}

fn writes(memory: &dyn Memory) {
    let base = memory.base();
    for place in random_places() {
        // SAFETY: as in `reads`.
        unsafe { base.add(place).write_volatile(place as u8) };
    }
}

fn writes_and_sync(memory: &dyn Memory) {
    writes(memory);
    memory.sync();
}

fn sequential_writes_and_sync(memory: &dyn Memory) {
    // SAFETY: as in `sequential_reads`, for us alone.
    unsafe { std::slice::from_raw_parts_mut(memory.base(), SIZE) }.fill(3);
    memory.sync();
}

/// Best times of a first and a second pass.
fn measure(map: &dyn Fn() -> Box<dyn Memory>, work: fn(&dyn Memory)) -> [Duration; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let memory = map();
        for best in &mut best {
            let start = processor_time();
            work(&*memory);
            *best = processor_time().saturating_sub(start).min(*best);
        }
    }
    best
}

/// What this process has used: other load on the machine does not count. Nothing here waits.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn page_cache_file() -> File {
    let path = std::env::temp_dir().join(format!("uffd-pager-bench-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a temporary file");
    std::fs::remove_file(path).expect("removed");
    fill(&file);
    file
}

fn fill(file: &File) {
    let chunk = vec![0xA5; 1 << 20];
    for offset in (0..SIZE).step_by(chunk.len()) {
        file.write_all_at(&chunk, offset as u64).expect("written");
    }
}

fn main() {
    let pager = match Pager::new(Mode::Signal) {
        Ok(pager) => &*Box::leak(Box::new(pager)),
        Err(error) => return println!("skipped: {error}"),
    };
    signal::install(pager).expect("the first time");
    let shmem: OwnedFd = memfd_create(c"bench", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&shmem, SIZE as u64).expect("ftruncate");
    let shmem = File::from(shmem);
    fill(&shmem);
    let file = page_cache_file();

    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    println!(
        "{} MiB in pages of {PAGE}, {ACCESSES} random accesses; ms, (ratio to the page cache)",
        SIZE >> 20
    );
    println!("{:<28}{:>12}{:>18}{:>18}", "", "page cache", "shared memory", "pager");
    for (name, work) in [
        ("random reads", reads as fn(&dyn Memory)),
        ("sequential reads", sequential_reads),
        ("random writes", writes),
        ("random writes, msync", writes_and_sync),
        ("sequential writes, msync", sequential_writes_and_sync),
    ]
    .into_iter()
    .filter(|(name, _)| name.contains(&wanted))
    {
        let direct = measure(&|| Box::new(Plain::map(&file)), work);
        let plain = measure(&|| Box::new(Plain::map(&shmem)), work);
        let served = measure(&|| Box::new(Served::map(pager, &file)), work);
        for (pass, index) in [("", 0), (", again", 1)] {
            let cell = |time: Duration| {
                let ratio = time.as_secs_f64() / direct[index].as_secs_f64();
                format!("{:.1} ({ratio:.2})", time.as_secs_f64() * 1e3)
            };
            let base = format!("{:.1}", direct[index].as_secs_f64() * 1e3);
            println!(
                "{:<28}{base:>12}{:>18}{:>18}",
                format!("{name}{pass}"),
                cell(plain[index]),
                cell(served[index])
            );
        }
    }
}
