//! A source in a file, a pager for the whole test process, children that end in a known way.

#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use uffd_pager::{Cache, Errno, MapRequest, Mode, PAGE, PageSource, Pager, Source, signal};

/// A file, shared with children over a fork.
#[derive(Debug)]
pub struct FileSource {
    pub file: std::fs::File,
    pub reads: AtomicU64,
    pub pages_read: AtomicU64,
    pub fail_reads: AtomicBool,
    pub fail_writes: AtomicBool,
}

impl FileSource {
    pub fn new(contents: &[u8]) -> Arc<Self> {
        let file: OwnedFd = memfd_create(c"test source", MemfdFlags::CLOEXEC).expect("a memfd");
        let file = std::fs::File::from(file);
        file.write_all_at(contents, 0).expect("room in memory");
        Arc::new(Self {
            file,
            reads: AtomicU64::new(0),
            pages_read: AtomicU64::new(0),
            fail_reads: AtomicBool::new(false),
            fail_writes: AtomicBool::new(false),
        })
    }

    pub fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; self.file.metadata().expect("fstat").len() as usize];
        self.file.read_exact_at(&mut contents, 0).expect("as long as it says");
        contents
    }
}

impl PageSource for FileSource {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.pages_read.fetch_add(buffer.len().div_ceil(PAGE) as u64, Ordering::Relaxed);
        if self.fail_reads.load(Ordering::Relaxed) {
            return Err(Errno::NXIO);
        }
        rustix::io::pread(&self.file, buffer, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if self.fail_writes.load(Ordering::Relaxed) {
            return Err(Errno::NOSPC);
        }
        rustix::io::pwrite(&self.file, data, offset).map(drop)
    }

    fn len(&self) -> Result<u64, Errno> {
        rustix::fs::fstat(&self.file).map(|stat| stat.st_size as u64)
    }

    fn set_len(&self, length: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.file, length)
    }
}

/// Whether the test program is one of those that do without what newer kernels have, `tests/NAME_on_6_1.rs`.
const AS_ON_6_1: bool = {
    let name = module_path!().as_bytes();
    let mut end = 0;
    while end < name.len() && name[end] != b':' {
        end += 1;
    }
    matches!(name.split_at(end).0, [.., b'_', b'6', b'_', b'1'])
};

/// The pager that SIGBUS in this process is served by. `None`, and a line that says so, without userfaultfd.
///
/// The tests of a process take turns: the children of one have all that is attached to the pager, and would be counted as users of,
/// and writers to, the sources of the others.
pub fn pager() -> Option<&'static Pager> {
    static PAGER: OnceLock<Option<Pager>> = OnceLock::new();
    static INSTALLED: OnceLock<()> = OnceLock::new();
    take_turn();
    let pager = PAGER.get_or_init(|| {
        let pager =
            Pager::new(Mode::Signal).inspect_err(|error| println!("skipped: no userfaultfd: {error}")).ok();
        pager.map(|pager| if AS_ON_6_1 { pager.as_on_6_1() } else { pager })
    });
    let pager = pager.as_ref();
    if pager.is_none() {
        println!("skipped: no userfaultfd");
    }
    INSTALLED
        .get_or_init(|| pager.into_iter().for_each(|pager| signal::install(pager).expect("the first time")));
    pager
}

/// Until this thread, that of one test, ends.
fn take_turn() {
    static TURN: Mutex<()> = Mutex::new(());
    thread_local! {
        static OURS: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
    }
    // A test that failed has had its turn.
    OURS.with_borrow_mut(|ours| {
        ours.get_or_insert_with(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

pub fn attach(pager: &Pager, source: &Arc<FileSource>) -> Source {
    let cache = Cache::new(source.len().expect("a length")).expect("a cache");
    pager.attach(source.clone(), cache).expect("attached")
}

/// Mapped memory, accessed byte by byte and unmapped at the end.
pub struct Mapped {
    pub pager: &'static Pager,
    pub address: usize,
    pub length: usize,
}

impl Mapped {
    pub fn new(pager: &'static Pager, source: &Source, request: &MapRequest) -> Self {
        // SAFETY: no fixed place.
        let address = unsafe { pager.map(source, request) }.expect("mapped");
        Self { pager, address, length: request.length.next_multiple_of(PAGE) }
    }

    pub fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length);
        std::ptr::with_exposed_provenance_mut(self.address + offset)
    }

    /// The address of a word that threads and processes share.
    pub fn word<T>(&self, offset: usize) -> *mut T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.length);
        std::ptr::with_exposed_provenance_mut(self.address + offset)
    }

    pub fn get(&self, offset: usize) -> u8 {
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.pointer(offset).read_volatile() }
    }

    pub fn set(&self, offset: usize, value: u8) {
        // SAFETY: as above.
        unsafe { self.pointer(offset).write_volatile(value) }
    }

    pub fn memory(&self) -> std::ops::Range<usize> {
        self.address..self.address + self.length
    }

    pub fn sync(&self) {
        self.pager.sync(self.memory()).expect("synced");
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nobody has references into it.
        unsafe { self.pager.unmap(self.memory()) }.expect("unmapped");
    }
}

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs `action` in a child forked with the pager's calls around it.
pub fn in_child(pager: &Pager, action: impl FnOnce() -> i32) -> End {
    pager.before_fork().expect("prepared");
    fork(
        || if pager.after_fork_in_child().is_ok() { action() } else { 99 },
        || pager.after_fork_in_parent(true),
    )
}

/// Runs `action` in a child that could open nothing when the pager was told of it.
pub fn without_descriptors(pager: &Pager, action: impl FnOnce() -> i32) -> End {
    pager.before_fork().expect("prepared");
    let limit = |soft| {
        let all = libc::rlimit { rlim_cur: soft, rlim_max: soft };
        // SAFETY: of the child alone.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const all) }, 0);
    };
    fork(
        || {
            limit(0);
            if pager.after_fork_in_child().is_err() { action() } else { 99 }
        },
        || pager.after_fork_in_parent(true),
    )
}

/// Runs `action` in a child that the pager does not know of.
pub fn in_unknown_child(action: impl FnOnce() -> i32) -> End {
    fork(action, || ())
}

fn fork(child: impl FnOnce() -> i32, parent: impl FnOnce()) -> End {
    // SAFETY: the child runs `child` only, which uses the pager and memory that the fork has copied.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        let code = child();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    parent();
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Exit(libc::WEXITSTATUS(status))
    }
}

/// Pages that differ from each other.
pub fn pattern(pages: usize) -> Vec<u8> {
    (0..pages * PAGE).map(|byte| (byte / PAGE * 31 + byte % 251) as u8).collect()
}
