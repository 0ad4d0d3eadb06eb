//! Threads that store, sync, drop pages and truncate at the same time.

mod common;

use common::{FileSource, Mapped, attach, pager, pattern};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use uffd_pager::{MapRequest, PAGE};

const PAGES: usize = 48;

/// Each thread counts up in its own word of every page, so that a lost store or a page gone back in
/// time shows; meanwhile everything is written back, dropped and read again.
#[test]
fn no_store_is_lost_between_writing_back_and_dropping() {
    const ROUNDS: u32 = 300;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![0; PAGES * PAGE]);
    let handle = attach(pager, &source);
    let mapped = [(); 2].map(|()| Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = [0, 1].map(|thread| {
            let mapped = &mapped[thread];
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    for step in 0..PAGES {
                        let page = step * 29 % PAGES;
                        // SAFETY: aligned, inside the mapping, accessed as an atomic.
                        let word = unsafe { &*mapped.word::<AtomicU32>(page * PAGE + 64 * thread) };
                        assert_eq!(word.fetch_add(1, Ordering::Relaxed), round - 1, "page {page}");
                    }
                }
            })
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pager.drop_pages(&handle, true).expect("dropped");
                pager.sync(mapped[0].memory()).expect("synced");
                let length = (PAGES * PAGE + 1) as u64;
                pager
                    .set_len(&handle, length)
                    .and_then(|()| pager.set_len(&handle, length - 1))
                    .expect("set");
            }
        });
        let ended = writers.map(std::thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        for end in ended {
            end.expect("all counts in order");
        }
    });
    pager.sync_source(&handle).expect("synced");
    let contents = source.contents();
    for (page, thread) in (0..PAGES).flat_map(|page| [(page, 0), (page, 1)]) {
        let word = &contents[page * PAGE + 64 * thread..][..4];
        assert_eq!(word, ROUNDS.to_ne_bytes(), "page {page} in the source");
    }
}

/// The kernel takes no fault of the pager's: without being held the memory would be closed between the two calls now and then.
#[test]
fn system_calls_store_to_memory_that_others_write_back_and_drop() {
    const PAGES: usize = 1000;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![0; PAGES * PAGE]);
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let zeros = std::fs::File::open("/dev/zero").expect("/dev/zero");
    std::thread::scope(|scope| {
        let callers = [0, 1].map(|thread| {
            let (mapped, zeros) = (&mapped, &zeros);
            scope.spawn(move || {
                for round in 0..8000 {
                    let page = (round * 7 + thread * 500) % (PAGES - 1);
                    let memory = mapped.address + page * PAGE + 8..mapped.address + page * PAGE + 16;
                    let _held = pager.prefault(memory, true).expect("held");
                    // SAFETY: inside the mapping, and of these bytes nobody has a reference.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.pointer(page * PAGE + 8), 8) };
                    assert_eq!(rustix::io::read(zeros, bytes), Ok(8), "page {page}");
                }
            })
        });
        while callers.iter().any(|caller| !caller.is_finished()) {
            pager.sync_source(&handle).expect("synced");
            pager.drop_pages(&handle, true).expect("dropped");
        }
        callers.map(std::thread::ScopedJoinHandle::join).into_iter().for_each(|end| end.expect("no EFAULT"));
    });
}

/// Stores nearby take pages out of the page table to put them back open for stores: not those that a call reads meanwhile.
#[test]
fn system_calls_read_memory_beside_which_others_store() {
    const PAGES: usize = 1024;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(PAGES));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let file = rustix::fs::memfd_create(c"copy", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let read = mapped.pointer(1000 * PAGE);
            while !done.load(Ordering::Relaxed) {
                let _held = pager.prefault(read.addr()..read.addr() + PAGE, false).expect("held");
                for _ in 0..1000 {
                    // SAFETY: inside the mapping; nobody stores to the bytes that are read.
                    let bytes = unsafe { std::slice::from_raw_parts(read, PAGE) };
                    assert_eq!(rustix::io::pwrite(&file, bytes, 0), Ok(PAGE));
                }
            }
        });
        for _ in 0..100 {
            // All are entered, protected. Then so many are open that the next store opens 256 pages around it.
            (0..PAGES).for_each(|page| assert_eq!(mapped.get(page * PAGE + 9), mapped.get(page * PAGE + 9)));
            (0..700).step_by(2).for_each(|page| mapped.set(page * PAGE, 1));
            mapped.set(900 * PAGE, 1);
            mapped.sync();
        }
        done.store(true, Ordering::Relaxed);
        caller.join().expect("no EFAULT");
    });
}

/// Pages are entered many at a time, and are open for a moment where the kernel cannot enter them protected.
#[test]
fn stores_beside_a_call_that_enters_their_pages_are_written_back() {
    const ROUNDS: u32 = 1500;
    const AROUND: usize = 64;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![0; AROUND * PAGE]);
    let handle = attach(pager, &source);
    // Where to store, 0 for nowhere; which round's stores are done.
    let (place, done) = (AtomicUsize::new(0), AtomicU32::new(0));
    let wait = |is_over: &dyn Fn() -> bool| {
        for _ in 0.. {
            for _ in 0..2000 {
                if is_over() {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    };
    let mut lost = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                wait(&|| place.load(Ordering::SeqCst) != 0);
                let address = place.swap(0, Ordering::SeqCst);
                (0..round * 7 % 1500).for_each(|_| std::hint::spin_loop());
                for page in 0..8 {
                    let word = std::ptr::with_exposed_provenance_mut::<u32>(address + page * PAGE);
                    // SAFETY: a word of the mapping, which is there until `done` says so.
                    unsafe { word.write_volatile(round) };
                }
                done.store(round, Ordering::SeqCst);
            }
        });
        for round in 1..=ROUNDS {
            // Resident from the first round on, and entered nowhere.
            let mapped = Mapped::new(pager, &handle, &MapRequest::shared(AROUND * PAGE));
            place.store(mapped.address, Ordering::SeqCst);
            drop(pager.prefault(mapped.memory(), false).expect("held"));
            wait(&|| done.load(Ordering::SeqCst) == round);
            mapped.sync();
            let contents = source.contents();
            lost += (0..8).filter(|page| contents[page * PAGE..][..4] != round.to_ne_bytes()).count();
        }
    });
    assert_eq!(lost, 0);
}

#[test]
fn mappings_come_and_go_while_others_fault() {
    let Some(pager) = pager() else { return };
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            scope.spawn(move || {
                let source = FileSource::new(&vec![thread + 1; PAGES * PAGE]);
                let handle = attach(pager, &source);
                for round in 0..100 {
                    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
                    for page in 0..PAGES {
                        assert_eq!(mapped.get(page * PAGE), thread + 1);
                    }
                    drop(mapped);
                    if round % 10 == 0 {
                        pager.drop_pages(&handle, false).expect("dropped");
                    }
                }
            });
        }
    });
}
