//! Rewrites every object of this very process, libc first of all, and lives on.
//!
//! No harness: the process belongs to this test, and it has one thread when it begins. With `DEFUSE_TRIXIE_ROOT` set to the
//! root of a Debian trixie tree the same program runs once more on that tree's glibc 2.41.

use std::arch::global_asm;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use interpose::rewrite::{
    AddressMap, Image, LoadedObject, NearMemory, Origin, Patched, Pattern, Phase, PreparedText, Threads,
    apply, prepare,
};

global_asm!(
    // Counts, serves getppid itself, passes everything else. Keeps the contract: only r11 and flags are lost.
    ".globl rewrite_live_entry",
    "rewrite_live_entry:",
    "lock inc qword ptr [rip + {count}]",
    "cmp eax, 110",
    "je 2f",
    "jmp rcx",
    "2:",
    "mov eax, 424242",
    "jmp qword ptr [rcx - 8]",
    count = sym COUNT,
);

unsafe extern "C" {
    fn rewrite_live_entry();
}

static COUNT: AtomicU64 = AtomicU64::new(0);

const MODE: &str = "REWRITE_LIVE_THREADS";

fn main() {
    if let Ok(mode) = std::env::var(MODE) {
        return run(if mode == "running" { Threads::Running } else { Threads::Quiet }, mode == "ahead");
    }
    for mode in ["quiet", "running", "ahead"] {
        let status = Command::new(std::env::current_exe().unwrap()).env(MODE, mode).status().unwrap();
        assert!(status.success(), "{mode}: {status}");
        match std::env::var_os("DEFUSE_TRIXIE_ROOT") {
            None => println!("skipped: glibc 2.41 ({mode}): DEFUSE_TRIXIE_ROOT is not set"),
            Some(root) => {
                let lib = std::path::Path::new(&root).join("usr/lib/x86_64-linux-gnu");
                let mut command = Command::new(lib.join("ld-linux-x86-64.so.2"));
                let own = "/lib/x86_64-linux-gnu";
                command.arg("--library-path").arg(format!("{}:{own}", lib.display()));
                let status = command.arg(std::env::current_exe().unwrap()).env(MODE, mode).status().unwrap();
                assert!(status.success(), "{mode} on trixie: {status}");
            }
        }
    }
}

fn run(threads: Threads, ahead: bool) {
    // A thread that stays blocked in read while its libc is changed, and one that makes calls all the time.
    let (blocked_end, mut wake) = pipe();
    let busy = AtomicU64::new(0);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let patched = if threads == Threads::Running {
            let blocked = scope.spawn(move || std::fs::File::from(blocked_end).read(&mut [0; 8]).unwrap());
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    // SAFETY: no pointers.
                    unsafe { libc::getpgid(0) };
                    busy.fetch_add(1, Ordering::Relaxed);
                }
            });
            while busy.load(Ordering::Relaxed) < 100 {
                std::hint::spin_loop();
            }
            let patched = rewrite_everything(threads, ahead);
            let seen = busy.load(Ordering::Relaxed);
            while busy.load(Ordering::Relaxed) < seen + 100 {
                std::hint::spin_loop();
            }
            stop.store(1, Ordering::Relaxed);
            wake.write_all(b"x").unwrap();
            assert_eq!(blocked.join().unwrap(), 1, "the read that was blocked while libc changed");
            patched
        } else {
            rewrite_everything(threads, ahead)
        };
        everyday_calls();
        addresses(&patched);
    });
    threads_and_cancellation();
    processes();
    signals();
    println!("{threads:?}: {} calls came by", COUNT.load(Ordering::Relaxed));
}

/// Maps the objects' files over their texts, with the sites rewritten, as far as that can be done.
fn put_over(object: &LoadedObject) -> Option<Patched> {
    let mut file = std::fs::read(std::str::from_utf8(object.path()).unwrap()).unwrap();
    let mapping = object.mappings().iter().find(|mapping| mapping.execute)?;
    let image = Image::from_file(&file)?;
    let text = image.texts().next()?;
    let origin = Origin::of(&rustix::fs::stat(object.path()).unwrap());
    let text_in_file = mapping.offset..mapping.offset + text.bytes.len() as u64;
    let plan = image.scan(&text, &|_| true);
    let missed = plan.missed().count();
    let Some(rest) = prepare(&mut file, &origin, &text_in_file, &plan, b"key") else {
        assert!(plan.sites.is_empty() || missed > 0, "{:?} cannot be prepared", object.path());
        return None;
    };
    let kept = tempfile::tempfile().unwrap();
    (&kept).write_all(&file).unwrap();
    (&kept).write_all(&rest).unwrap();
    let length = (file.len() + rest.len()) as u64;
    let prepared = PreparedText::new(OwnedFd::from(kept), length, origin).unwrap();
    // SAFETY: the private mapping of a text that nobody has changed and no other thread runs; the entry keeps the contract.
    let put = unsafe {
        prepared.put_over(&mapping.range, mapping.offset, b"key", rewrite_live_entry as *const () as u64)
    };
    let put = put.expect("what was prepared can be mapped");
    assert_eq!(put.sites().collect::<Vec<_>>(), plan.sites);
    println!("{}: {} sites, ahead", String::from_utf8_lossy(object.path()), put.len());
    Some(put)
}

fn rewrite_everything(threads: Threads, ahead: bool) -> Vec<Patched> {
    let map = AddressMap::read().unwrap();
    let mut memory = NearMemory::new(&map);
    let own = main as *const () as u64;
    let own = own..own + 1;
    let mut all = Vec::new();
    for object in map.objects(std::slice::from_ref(&own)) {
        if ahead && let Some(put) = put_over(&object) {
            all.push(put);
            continue;
        }
        // Plans first: apply may not run while the image is borrowed.
        let plans: Vec<_> = {
            // SAFETY: nothing is unmapped or changed while the plans are made.
            let Some(image) = (unsafe { object.image() }) else { continue };
            let texts: Vec<_> = image.texts().collect();
            texts
                .iter()
                .map(|text| {
                    let plan = image.scan(text, &|_| true);
                    (plan, text.address..text.address + text.bytes.len() as u64)
                })
                .collect()
        };
        for (plan, text) in plans {
            // SAFETY: a mapping of a loaded object, planned above; the entry keeps the contract; this code is in
            // another object. `threads` says what is the case.
            let patched =
                unsafe { apply(&plan, text, rewrite_live_entry as *const () as u64, &mut memory, threads) }
                    .unwrap();
            if !plan.sites.is_empty() {
                println!(
                    "{}: {} of {} sites, {} skipped",
                    String::from_utf8_lossy(object.path()),
                    patched.len(),
                    plan.sites.len(),
                    patched.skipped().len()
                );
            }
            all.push(patched);
        }
    }
    // The rewritten text is as it was: not writable.
    for mapping in AddressMap::read().unwrap().mappings() {
        assert!(!(mapping.write && mapping.execute), "{mapping:x?} is left writable and executable");
    }
    let sites: usize = all.iter().map(Patched::len).sum();
    assert!(sites > 200, "only {sites} sites");
    all
}

fn everyday_calls() {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::getppid() }, 424_242, "served by the entry");
    let before = COUNT.load(Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("rewrite_live_{}", std::process::id()));
    let text = "the quick brown fox\n".repeat(10_000);
    std::fs::write(&path, &text).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), text.len() as u64);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() > 2);
    let passed = COUNT.load(Ordering::Relaxed) - before;
    assert!(passed >= 10, "only {passed} calls came by the entry");
}

/// Every stub address that holds code is known, and says the right thing.
fn addresses(all: &[Patched]) {
    for patched in all {
        for site in patched.sites() {
            let start = patched.text().start + u64::from(site.start);
            let first = patched.find_stub(jump_target(patched, start)).expect("a stub where the jump leads");
            assert_eq!(first.site, start);
            assert_eq!(first.original, start);
            assert_eq!(first.phase, Phase::Before);
            let resumed = patched.find_stub(first.resume).expect("resume is in the stub");
            assert_eq!(resumed.site, start);
            assert_eq!(resumed.phase, Phase::Resumed);
            if site.pattern != Pattern::Overwrite {
                assert_eq!(first.done, patched.text().start + u64::from(site.syscall) + 2);
                assert_eq!(patched.find_stub(first.done), None);
            }
            // SAFETY: the data before resume is mapped for good.
            let data = unsafe { std::slice::from_raw_parts((first.resume - 24) as *const u64, 3) };
            assert_eq!(data[1..], [start, first.done]);
            assert_eq!(data[0] as u8, site.rewind as u8);
            assert_eq!((data[0] >> 32) as u32, site.number.unwrap_or(u32::MAX));
        }
        assert_eq!(patched.find_stub(patched.text().end), None);
        assert_eq!(patched.find_stub(0), None);
    }
}

fn jump_target(patched: &Patched, at: u64) -> u64 {
    // SAFETY: mapped text or stub of this process.
    let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, 5) };
    match bytes {
        [0xe9, rest @ ..] => {
            (at + 5).wrapping_add_signed(i64::from(i32::from_le_bytes(rest.try_into().unwrap())))
        }
        [0xeb, relative, ..] => {
            let hole = (at + 2).wrapping_add_signed(i64::from(*relative as i8));
            let through = patched.find_stub(hole).expect("a hole is known");
            assert_eq!(through.site, at);
            jump_target(patched, hole)
        }
        other => panic!("no jump at {at:#x}: {other:x?}"),
    }
}

/// `pthread_cancel` of a thread blocked in read runs its clean-up, on libcs that compare the PC as on those that unwind.
fn threads_and_cancellation() {
    static CLEANED: AtomicU64 = AtomicU64::new(0);
    // Cancellation unwinds it.
    extern "C-unwind" fn victim(fd: *mut libc::c_void) -> *mut libc::c_void {
        let mut byte = 0_u8;
        // SAFETY: a valid buffer. Nothing in this frame needs dropping when cancellation unwinds it.
        let read = unsafe { read(fd as i32, (&raw mut byte).cast(), 1) };
        // Reached only if the read comes back.
        CLEANED.store(1 + read as u64, Ordering::Relaxed);
        std::ptr::null_mut()
    }
    unsafe extern "C-unwind" {
        fn read(fd: i32, buffer: *mut libc::c_void, len: usize) -> isize;
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            start: extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void,
            argument: *mut libc::c_void,
        ) -> i32;
    }
    let (read_end, _write_end) = pipe();
    let mut thread = 0;
    let mut result = std::ptr::null_mut();
    // SAFETY: valid arguments; the thread is joined below.
    unsafe {
        let fd = read_end.as_raw_fd() as *mut libc::c_void;
        assert_eq!(pthread_create(&raw mut thread, std::ptr::null(), victim, fd), 0);
        wait_until_blocked();
        assert_eq!(libc::pthread_cancel(thread), 0);
        assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
    }
    assert_eq!(result as isize, -1, "PTHREAD_CANCELED");
    assert_eq!(CLEANED.load(Ordering::Relaxed), 0);
    let many: Vec<_> = (0..16).map(|n| std::thread::spawn(move || n * 2)).collect();
    assert_eq!(many.into_iter().map(|thread| thread.join().unwrap()).sum::<i32>(), 240);
}

/// Waits until some other thread of this process sleeps in `read`.
fn wait_until_blocked() {
    loop {
        let waiting = std::fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| {
            // "0" is read; a running thread shows "running"
            std::fs::read_to_string(task.path().join("syscall")).is_ok_and(|line| line.starts_with("0 "))
        });
        if waiting {
            return;
        }
        std::thread::yield_now();
    }
}

fn processes() {
    let output = Command::new("/bin/echo").arg("spawned").output().unwrap();
    assert_eq!(output.stdout, b"spawned\n");
    // SAFETY: the child only exits.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(if libc::getppid() == 424_242 { 7 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert_eq!(libc::WEXITSTATUS(status), 7);
    }
    // SAFETY: a constant command.
    let status = unsafe { libc::system(c"exit 5".as_ptr()) };
    assert_eq!(libc::WEXITSTATUS(status), 5);
}

fn signals() {
    static CAUGHT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        for _ in 0..100 {
            libc::raise(libc::SIGUSR1);
        }
    }
    assert_eq!(CAUGHT.load(Ordering::Relaxed), 100);
}

fn pipe() -> (OwnedFd, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: room for two FDs, which nobody else owns.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]).into())
    }
}
