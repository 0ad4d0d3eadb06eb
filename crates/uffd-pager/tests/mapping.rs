//! What one process sees of what it maps.

mod common;

use common::{End, FileSource, Mapped, attach, in_child, pager, pattern};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use uffd_pager::{Cache, Errno, MapRequest, PAGE, PageSource, Pager, Place, Protection, Remap};

#[test]
fn reads_what_the_source_holds_and_nothing_before() {
    let Some(pager) = pager() else { return };
    let contents = pattern(100);
    let source = FileSource::new(&contents[..99 * PAGE + 17]);
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(100 * PAGE));
    assert_eq!(source.reads.load(Ordering::Relaxed), 0);
    for offset in (0..99 * PAGE + 17).step_by(97) {
        assert_eq!(mapped.get(offset), contents[offset], "at {offset}");
    }
    assert_eq!(mapped.get(99 * PAGE + 17), 0, "past the end, in the last page");
    assert!(source.reads.load(Ordering::Relaxed) < 20, "read ahead");
}

#[test]
fn a_few_touches_of_a_large_file_read_a_few_pages() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2000));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(2000 * PAGE));
    for page in [1990, 17, 1000, 500, 1500] {
        mapped.get(page * PAGE);
    }
    assert!(source.pages_read.load(Ordering::Relaxed) <= 20);
}

#[test]
fn random_touches_all_over_a_file_end_in_few_large_reads() {
    const PAGES: usize = 8192;
    let Some(pager) = pager() else { return };
    let contents = pattern(PAGES);
    let source = FileSource::new(&contents);
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(PAGES * PAGE));
    for page in (0..PAGES).map(|step| step * 4099 % PAGES) {
        assert_eq!(mapped.get(page * PAGE + page % 99), contents[page * PAGE + page % 99], "page {page}");
    }
    let reads = source.reads.load(Ordering::Relaxed);
    // 32 of 4 pages, 6 of 64, then some 30 of 256, in which few pages are read twice.
    assert!(reads <= 100, "{reads}");
    assert!(source.pages_read.load(Ordering::Relaxed) <= PAGES as u64 * 5 / 4);
}

#[test]
fn stores_all_over_a_file_are_written_back_and_stores_in_a_part_alone() {
    const PAGES: usize = 8192;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![7; PAGES * PAGE]);
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let scattered = |count: usize| (0..count).map(|step| step * 4099 % PAGES);
    for few in scattered(100) {
        mapped.set(few * PAGE, 1);
    }
    assert!((100..=400).contains(&handle.dirty_pages()), "{}", handle.dirty_pages());
    mapped.sync();
    // Pages that were read before, and were open before, among those that are missing.
    (0..PAGES).step_by(3).for_each(|page| assert!(mapped.get(page * PAGE) <= 7));
    for page in scattered(PAGES) {
        mapped.set(page * PAGE, 2);
        assert_eq!(mapped.get(page * PAGE + 1), 7);
    }
    assert_eq!(handle.dirty_pages(), PAGES as u64);
    mapped.sync();
    assert_eq!(handle.dirty_pages(), 0);
    assert!(
        source.contents().chunks(PAGE).all(|page| page[0] == 2 && page[1..].iter().all(|&byte| byte == 7))
    );
}

/// A page that is open in one mapping, among others of which some are in the page table of a second mapping already.
#[test]
fn a_page_is_opened_whatever_is_around_it() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![7; 64 * PAGE]);
    let handle = attach(pager, &source);
    let [first, second] = [(); 2].map(|()| Mapped::new(pager, &handle, &MapRequest::shared(64 * PAGE)));
    first.set(0, 1);
    assert_eq!(second.get(0), 1);
    pager.drop_pages(&handle, false).expect("dropped");
    for page in 1..4 {
        first.set(page * PAGE, 1);
    }
    second.set(PAGE + 1, 2);
    assert_eq!((first.get(PAGE), first.get(PAGE + 1)), (1, 2));
}

#[test]
fn stores_reach_the_source_by_sync_and_only_what_was_stored() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(64));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(64 * PAGE));
    for round in 0..3 {
        let mut expected = source.contents();
        for (page, value) in [(3, 7 + round), (4, 8), (60, 9 + round)] {
            mapped.get((page ^ 1) * PAGE);
            mapped.set(page * PAGE + 5, value);
            expected[page * PAGE + 5] = value;
        }
        assert!((3..=12).contains(&handle.dirty_pages()), "{}", handle.dirty_pages());
        mapped.sync();
        assert_eq!(handle.dirty_pages(), 0);
        assert_eq!(source.contents(), expected);
    }
}

#[test]
fn private_stores_stay_private_and_see_shared_ones() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    let shared = Mapped::new(pager, &handle, &MapRequest::shared(8 * PAGE));
    let private = Mapped::new(pager, &handle, &MapRequest::private(8 * PAGE));
    private.set(0, 201);
    shared.set(1, 202);
    shared.set(PAGE, 203);
    assert_eq!((private.get(0), private.get(PAGE)), (201, 203));
    assert_ne!(shared.get(0), 201);
    pager.sync_source(&handle).expect("synced");
    let contents = source.contents();
    assert_eq!((contents[1], contents[PAGE]), (202, 203));
    assert_ne!(contents[0], 201);
}

#[test]
fn a_touch_past_the_end_is_sigbus() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(4 * PAGE));
    for store in [false, true] {
        let end = in_child(pager, || {
            if store {
                mapped.set(2 * PAGE, 1);
            } else {
                let _ = mapped.get(3 * PAGE);
            }
            0
        });
        assert_eq!(end, End::Signal(libc::SIGBUS));
    }
}

#[test]
fn a_source_that_fails_is_sigbus_and_may_recover() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(4 * PAGE));
    source.fail_reads.store(true, Ordering::Relaxed);
    assert_eq!(in_child(pager, || i32::from(mapped.get(0))), End::Signal(libc::SIGBUS));
    let error = pager.prefault(mapped.memory(), false).err().expect("refused");
    assert_eq!(error.errno(), Errno::NXIO);
    source.fail_reads.store(false, Ordering::Relaxed);
    assert_eq!(mapped.get(1), pattern(1)[1]);
}

#[test]
fn a_write_back_that_fails_is_reported_and_tried_again() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(4 * PAGE));
    mapped.set(10, 77);
    source.fail_writes.store(true, Ordering::Relaxed);
    assert_eq!(pager.sync(mapped.memory()).expect_err("no space").errno(), Errno::NOSPC);
    assert!(handle.dirty_pages() > 0);
    source.fail_writes.store(false, Ordering::Relaxed);
    mapped.sync();
    assert_eq!(source.contents()[10], 77);
}

#[test]
fn system_calls_use_prefaulted_memory() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(40));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(40 * PAGE));
    let pipe = rustix::pipe::pipe().expect("a pipe");
    // SAFETY: inside the mapping; the slice lives no longer than it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.pointer(20 * PAGE), 2 * PAGE) };
    assert_eq!(rustix::io::write(&pipe.1, &*bytes), Err(Errno::FAULT), "why it is needed");
    let ready = pager.prefault(mapped.address + 20 * PAGE..mapped.address + 22 * PAGE, false).expect("read");
    pager.drop_pages(&handle, false).expect("no error, and these stay");
    assert_eq!(rustix::io::write(&pipe.1, &*bytes), Ok(2 * PAGE));
    drop(ready);
    // Into clean pages: they must be dirty afterwards, and be so past a sync in the middle.
    let to = mapped.address + 30 * PAGE..mapped.address + 32 * PAGE;
    let ready = pager.prefault(to, true).expect("read");
    mapped.sync();
    // SAFETY: as above.
    let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.pointer(30 * PAGE), 2 * PAGE) };
    let mut received = 0;
    while received < 2 * PAGE {
        received += rustix::io::read(&pipe.0, &mut bytes[received..]).expect("no EFAULT");
    }
    drop(ready);
    mapped.sync();
    assert_eq!(source.contents()[30 * PAGE..32 * PAGE], pattern(40)[20 * PAGE..22 * PAGE]);
}

#[test]
fn the_length_changes_under_a_mapping() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(1000 * PAGE));
    mapped.set(6 * PAGE, 1);
    pager.set_len(&handle, 3 * PAGE as u64 + 10).expect("shrunk");
    assert_eq!(handle.dirty_pages(), 0, "what is cut off is not written back");
    assert_eq!(in_child(pager, || i32::from(mapped.get(4 * PAGE))), End::Signal(libc::SIGBUS));
    // Past the window made at first, too.
    pager.set_len(&handle, 900 * PAGE as u64).expect("grown");
    assert_eq!(
        (mapped.get(6 * PAGE), mapped.get(3 * PAGE + 9), mapped.get(3 * PAGE + 10)),
        (0, pattern(4)[3 * PAGE + 9], 0)
    );
    mapped.set(899 * PAGE, 5);
    mapped.sync();
    assert_eq!(source.contents()[899 * PAGE], 5);
    let error = pager.set_len(&handle, 1 << 50).expect_err("too large");
    assert_eq!(error.errno(), Errno::FBIG);
}

#[test]
fn a_page_cut_off_while_open_for_stores_is_dirty_when_it_comes_again() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(4 * PAGE));
    mapped.set(2 * PAGE, 1);
    pager.set_len(&handle, 0).and_then(|()| pager.set_len(&handle, 4 * PAGE as u64)).expect("set");
    assert_eq!(mapped.get(2 * PAGE), 0);
    mapped.set(2 * PAGE, 2);
    mapped.sync();
    assert_eq!(source.contents()[2 * PAGE], 2);
}

#[test]
fn clean_pages_are_given_back_and_stores_after_that_are_seen() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(64));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(64 * PAGE));
    let other = Mapped::new(pager, &handle, &MapRequest::shared(64 * PAGE));
    for page in 0..64 {
        assert_eq!(mapped.get(page * PAGE), other.get(page * PAGE));
    }
    mapped.set(40 * PAGE, 1);
    assert_eq!(pager.drop_pages(&handle, false).expect("dropped"), 63);
    assert_eq!(pager.drop_pages(&handle, true).expect("dropped"), 1);
    // By one mapping in, by the other one stored to: the protection must have outlived the page.
    assert_eq!(mapped.get(41 * PAGE), pattern(64)[41 * PAGE]);
    other.set(41 * PAGE, 99);
    other.sync();
    assert_eq!((source.contents()[40 * PAGE], source.contents()[41 * PAGE]), (1, 99));
}

#[test]
fn a_source_changed_behind_the_cache_is_seen_after_dropping() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(4 * PAGE));
    mapped.set(0, 50);
    mapped.get(PAGE);
    std::os::unix::fs::FileExt::write_all_at(&source.file, &[60; 4 * PAGE], 0).expect("written");
    assert_ne!(mapped.get(PAGE), 60);
    pager.drop_pages(&handle, false).expect("dropped");
    assert_eq!((mapped.get(0), mapped.get(PAGE)), (50, 60), "the store wins, the clean page follows");
}

#[test]
fn parts_are_unmapped_and_protected() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(16));
    let handle = attach(pager, &source);
    let read_only = MapRequest { protection: Protection::READ, ..MapRequest::shared(16 * PAGE) };
    let mapped = Mapped::new(pager, &handle, &read_only);
    let at = |page: usize| mapped.address + page * PAGE;
    // SAFETY: no references; the middle is not touched again outside of children.
    unsafe {
        pager.protect(at(2)..at(5), Protection::READ_WRITE).expect("protected");
        pager.unmap(at(8)..at(10)).expect("unmapped");
    }
    mapped.set(2 * PAGE, 1);
    mapped.set(4 * PAGE, 2);
    assert!(!pager.serves(at(8)..at(10)) && pager.serves(at(10)..at(11)));
    assert_eq!(mapped.get(11 * PAGE), pattern(16)[11 * PAGE]);
    for page in [1, 5] {
        assert_eq!(
            in_child(pager, || {
                mapped.set(page * PAGE, 1);
                0
            }),
            End::Signal(libc::SIGSEGV)
        );
    }
    assert_eq!(in_child(pager, || i32::from(mapped.get(8 * PAGE))), End::Signal(libc::SIGSEGV));
    mapped.sync();
    assert_eq!((source.contents()[2 * PAGE], source.contents()[4 * PAGE]), (1, 2));
}

#[test]
fn mappings_move_and_grow() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(64));
    let handle = attach(pager, &source);
    for request in [MapRequest::shared(4 * PAGE), MapRequest::private(4 * PAGE)] {
        let mut mapped = Mapped::new(pager, &handle, &request);
        mapped.set(PAGE, 123);
        // SAFETY: no references.
        mapped.address = unsafe { pager.remap(mapped.memory(), 64 * PAGE, Remap::MayMove) }.expect("moved");
        mapped.length = 64 * PAGE;
        assert_eq!((mapped.get(PAGE), mapped.get(50 * PAGE)), (123, pattern(64)[50 * PAGE]));
        mapped.set(51 * PAGE, 45);
        mapped.sync();
    }
    assert_eq!((source.contents()[PAGE], source.contents()[51 * PAGE]), (123, 45));
}

/// Others touch the pages that stay, all the time.
#[test]
fn a_mapping_that_grows_and_shrinks_in_its_place_is_there_all_the_time() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(8 * PAGE));
    let (stop, address) = (AtomicUsize::new(0), mapped.address);
    let (begun, begin) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (stop, mapped) = (&stop, &mapped);
        scope.spawn(move || {
            // What a thread maps as it begins could come to lie where the mapping is to grow.
            begun.send(()).expect("the other thread");
            while stop.load(Ordering::Relaxed) == 0 {
                // A fault each time.
                // SAFETY: pages of a shared mapping that are given back are read again.
                unsafe { libc::madvise(address as *mut libc::c_void, PAGE, libc::MADV_DONTNEED) };
                assert_eq!(mapped.get(17), pattern(8)[17]);
            }
        });
        begin.recv().expect("a thread");
        let in_place = |former, size| {
            // SAFETY: the first page stays; the others are not touched.
            let place = unsafe { pager.remap(address..address + former * PAGE, size * PAGE, Remap::InPlace) };
            place == Ok(address)
        };
        let stays = (0..200).all(|_| in_place(8, 4) && in_place(4, 8));
        stop.store(1, Ordering::Relaxed);
        assert!(stays);
    });
}

#[test]
fn a_fixed_place_replaces_a_served_mapping() {
    let Some(pager) = pager() else { return };
    let (one, two) = (FileSource::new(&[1; 4 * PAGE]), FileSource::new(&[2; 4 * PAGE]));
    let mapped = Mapped::new(pager, &attach(pager, &one), &MapRequest::shared(4 * PAGE));
    let place = Place::Fixed(mapped.address + PAGE);
    // SAFETY: replaces a part of `mapped`, which has no references.
    unsafe { pager.map(&attach(pager, &two), &MapRequest { place, ..MapRequest::shared(2 * PAGE) }) }
        .expect("mapped");
    assert_eq!([0, 1, 2, 3].map(|page| mapped.get(page * PAGE)), [1, 2, 2, 1]);
}

#[test]
fn thousands_of_small_mappings() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let handle = attach(pager, &source);
    let request = MapRequest { protection: Protection::READ, ..MapRequest::shared(PAGE) };
    let mapped: Vec<_> = (0..1500_u64)
        .map(|index| Mapped::new(pager, &handle, &MapRequest { offset: index % 4 * PAGE as u64, ..request }))
        .collect();
    for (index, mapped) in mapped.iter().enumerate() {
        assert_eq!(mapped.get(9), pattern(4)[index % 4 * PAGE + 9]);
    }
}

#[test]
fn bad_requests_are_refused() {
    let Some(pager) = pager() else { return };
    let handle = attach(pager, &FileSource::new(&pattern(1)));
    for request in [MapRequest::shared(0), MapRequest { offset: 1, ..MapRequest::shared(PAGE) }] {
        // SAFETY: no fixed place.
        let error = unsafe { pager.map(&handle, &request) }.expect_err("invalid");
        assert_eq!(error.errno(), Errno::INVAL);
    }
}

/// Touches its own mapping when its length is set.
struct Selfish {
    pager: &'static Pager,
    memory: AtomicUsize,
    outcome: Mutex<Option<Errno>>,
}

impl PageSource for Selfish {
    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        buffer.fill(0); // It held others' pages.
        Ok(buffer.len())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn len(&self) -> Result<u64, Errno> {
        Ok(4 * PAGE as u64)
    }

    fn set_len(&self, _: u64) -> Result<(), Errno> {
        let start = self.memory.load(Ordering::Relaxed);
        let error = self.pager.prefault(start..start + PAGE, false).err();
        *self.outcome.lock().expect("not poisoned") = error.map(|error| error.errno());
        Ok(())
    }
}

#[test]
fn a_source_that_waits_for_itself_is_refused() {
    let Some(pager) = pager() else { return };
    let source = Arc::new(Selfish { pager, memory: AtomicUsize::new(0), outcome: Mutex::new(None) });
    let cache = Cache::new(4 * PAGE as u64).expect("a cache");
    let handle = pager.attach(source.clone(), cache).expect("attached");
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(4 * PAGE));
    source.memory.store(mapped.address, Ordering::Relaxed);
    pager.set_len(&handle, 2 * PAGE as u64).expect("set");
    assert_eq!(*source.outcome.lock().expect("not poisoned"), Some(Errno::DEADLK));
    assert_eq!(mapped.get(PAGE), 0, "served again");
}
