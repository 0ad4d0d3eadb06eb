//! Sources larger than the room for their pages.

mod common;

use common::{End, FileSource, Mapped, attach, in_child, pager, pattern};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uffd_pager::{MapRequest, PAGE, PageSource, Pager, Source, View};

/// How often each counter of [`count`] goes round.
const ROUNDS: u32 = 6;

/// How often all pages are touched at the most until a reader has met one.
const MOST_ROUNDS: usize = 3000;

/// Pages that may be resident, and of the file.
const ROOM: usize = 64;
const PAGES: usize = 512;

static PATTERN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| pattern(PAGES));

fn limited(pager: &Pager, source: &std::sync::Arc<FileSource>) -> Source {
    let handle = attach(pager, source);
    handle.cache().set_limit((ROOM * PAGE) as u64).expect("a limit");
    handle
}

fn resident(source: &Source) -> usize {
    rustix::fs::fstat(source.cache().pages()).expect("fstat").st_blocks as usize * 512 / PAGE
}

/// Pages in an order that is the same each time, each of them once.
fn scattered(seed: usize) -> impl Iterator<Item = usize> {
    (0..PAGES).map(move |step| (step * 197 + seed * 31) % PAGES)
}

#[test]
fn a_file_is_read_through_less_room() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = limited(pager, &source);
    for request in [MapRequest::shared(PAGES * PAGE), MapRequest::private(PAGES * PAGE)] {
        let mapped = Mapped::new(pager, &handle, &request);
        for page in (0..PAGES).chain(scattered(1)).chain((0..PAGES).rev()) {
            let offset = page * PAGE + page % 200;
            assert_eq!(mapped.get(offset), PATTERN[offset], "page {page}");
            assert!(resident(&handle) <= ROOM, "{} pages", resident(&handle));
        }
    }
    assert_eq!(handle.dirty_pages(), 0);
}

#[test]
fn stores_to_more_pages_than_there_is_room_for_are_written_back() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let mut model = PATTERN.clone();
    for page in (0..PAGES).chain(scattered(5)) {
        let offset = page * PAGE + page % 77;
        model[offset] = model[offset].wrapping_add(3);
        mapped.set(offset, model[offset]);
        assert!(resident(&handle) <= ROOM, "{} pages", resident(&handle));
    }
    assert!(
        (0..PAGES * PAGE)
            .step_by(PAGE)
            .all(|at| mapped.get(at + at / PAGE % 77) == model[at + at / PAGE % 77])
    );
    pager.sync_source(&handle).expect("synced");
    assert!(source.contents() == model, "all of it is in the source");
}

#[test]
fn private_copies_stay_when_the_pages_below_are_given_back() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let mapped = Mapped::new(pager, &limited(pager, &source), &MapRequest::private(PAGES * PAGE));
    scattered(2).for_each(|page| mapped.set(page * PAGE + 9, 251));
    assert!(scattered(3).all(|page| mapped.get(page * PAGE + 9) == 251
        && mapped.get(page * PAGE + 10) == PATTERN[page * PAGE + 10]));
    assert!(source.contents() == *PATTERN, "no store is the file's");
}

/// Counts up in word `index` of every page, in an order of its own.
fn count(mapped: &Mapped, index: usize, rounds: u32) -> bool {
    (1..=rounds).all(|round| {
        scattered(index).all(|page| {
            // SAFETY: aligned, inside the mapping, accessed as an atomic.
            let word = unsafe { &*mapped.word::<AtomicU32>(page * PAGE + 64 * index) };
            word.fetch_add(1, Ordering::Relaxed) == round - 1
        })
    })
}

fn assert_counted(source: &FileSource, counters: usize, rounds: u32) {
    let contents = source.contents();
    for (page, index) in (0..PAGES).flat_map(|page| (0..counters).map(move |index| (page, index))) {
        let word = &contents[page * PAGE + 64 * index..][..4];
        assert_eq!(word, rounds.to_ne_bytes(), "word {index} of page {page}");
    }
}

/// A child that counts makes the next one, and so on: all of them at once.
fn family(pager: &'static Pager, mapped: &Mapped, index: usize) -> i32 {
    pager.before_fork().expect("prepared");
    // SAFETY: the child only counts, by memory and a pager that the fork has copied.
    let child = if index < 3 { unsafe { libc::fork() } } else { -1 };
    if child == 0 {
        let code = if pager.after_fork_in_child().is_ok() { family(pager, mapped, index + 1) } else { 99 };
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    pager.after_fork_in_parent(child > 0);
    let done = std::thread::scope(|scope| {
        let other = scope.spawn(|| count(mapped, 2 * index, ROUNDS));
        count(mapped, 2 * index + 1, ROUNDS) && other.join().expect("no panic")
    });
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    let waited = child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } == child;
    i32::from(!(done && waited && status == 0))
}

/// A lost store, or a page that comes back in time or as zeros, makes a count stop or go back.
#[test]
fn processes_and_threads_count_in_all_pages_and_none_is_lost() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![0; PAGES * PAGE]);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    assert_eq!(family(pager, &mapped, 0), 0);
    drop(mapped);
    pager.sync_source(&handle).expect("synced");
    assert_counted(&source, 8, ROUNDS);
}

#[test]
fn what_an_idle_process_has_open_leaves_room_for_others() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    (0..50).for_each(|page| mapped.set(page * PAGE, 7));
    assert!(handle.dirty_pages() as usize <= ROOM * 3 / 4, "{} pages", handle.dirty_pages());
    scattered(4).for_each(|page| mapped.set(page * PAGE, 7));
    let end = in_child(pager, || {
        scattered(6).for_each(|page| mapped.set(page * PAGE + 1, 8));
        i32::from(!scattered(7).all(|page| mapped.get(page * PAGE) == 7 && mapped.get(page * PAGE + 1) == 8))
            + 2 * i32::from(resident(&handle) > ROOM)
    });
    assert_eq!(end, End::Exit(0));
}

#[test]
fn what_cannot_be_written_back_stays() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    source.fail_writes.store(true, Ordering::Relaxed);
    (0..20).for_each(|page| mapped.set(page * PAGE, 123));
    assert!(scattered(8).all(|page| mapped.get(page * PAGE + 1) == PATTERN[page * PAGE + 1]));
    assert!((0..20).all(|page| mapped.get(page * PAGE) == 123));
    source.fail_writes.store(false, Ordering::Relaxed);
    pager.sync_source(&handle).expect("synced");
    assert!((0..20).all(|page| source.contents()[page * PAGE] == 123));
}

/// The kernel would find a hole there, which is EFAULT.
#[test]
fn memory_of_a_system_call_stays_until_it_has_returned() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let (receiver, sender) = rustix::pipe::pipe().expect("a pipe");
    for start in [3, 200, 400_usize] {
        let memory = mapped.address + start * PAGE..mapped.address + (start + 4) * PAGE;
        let held = pager.prefault(memory.clone(), true).expect("held");
        assert_eq!(held.memory(), memory);
        scattered(start).for_each(|page| mapped.set(page * PAGE, 1));
        pager.sync_source(&handle).expect("synced");
        pager.drop_pages(&handle, true).expect("dropped");
        rustix::io::write(&sender, &pattern(5)[PAGE..]).expect("room in the pipe");
        // SAFETY: inside the mapping; nobody has a reference.
        let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.pointer(start * PAGE), 4 * PAGE) };
        assert_eq!(rustix::io::read(&receiver, &mut *bytes), Ok(4 * PAGE));
        drop(held);
        pager.drop_pages(&handle, true).expect("dropped");
        assert_eq!(mapped.get(start * PAGE + 7), pattern(5)[PAGE + 7], "it was dirty until the end");
        let held = pager.prefault(memory, false).expect("held");
        pager.sync_source(&handle).expect("synced");
        scattered(start).for_each(|page| assert_ne!(mapped.get(page * PAGE), 0));
        pager.drop_pages(&handle, true).expect("dropped");
        assert_eq!(rustix::io::write(&sender, &*bytes), Ok(4 * PAGE));
        drop(held);
        assert_eq!(rustix::io::read(&receiver, &mut vec![0; 5 * PAGE]), Ok(4 * PAGE));
    }
}

#[test]
fn a_system_call_gets_a_part_of_what_is_larger_than_the_room() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let mapped = Mapped::new(pager, &limited(pager, &source), &MapRequest::shared(PAGES * PAGE));
    let held = pager.prefault(mapped.memory(), false).expect("a part");
    assert_eq!(held.memory(), mapped.address..mapped.address + ROOM / 8 * PAGE);
}

struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// By FD pages are looked for first and read then, and may be gone in between. Goes on until one was met.
#[test]
fn readers_by_fd_see_no_zeros_where_pages_are_given_back() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&vec![1; PAGES * PAGE]);
    let handle = limited(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    let view = View::open(handle.cache().try_clone().expect("FDs")).expect("a view");
    let met = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| {
            let mut round = 0;
            while round < 30 || round < MOST_ROUNDS && !met.load(Ordering::Relaxed) {
                scattered(round).for_each(|page| assert_eq!(mapped.get(page * PAGE), 1));
                round += 1;
            }
        });
        let failed_or_done = SetAtTheEnd(&met);
        let mut page = vec![0; PAGE];
        let mut cached = 0;
        while !toucher.is_finished() {
            for at in (0..PAGES).map(|page| (page * PAGE) as u64) {
                if view.resident(at..at + PAGE as u64).is_some_and(|run| run.start == at) {
                    page.fill(0);
                    match view.read(at, &mut page).expect("read") {
                        Some(count) => {
                            cached += count / PAGE;
                            met.store(true, Ordering::Relaxed);
                        }
                        None => drop(source.read(at, &mut page)),
                    }
                    assert!(page.iter().all(|&byte| byte == 1), "zeros at {at}");
                }
            }
        }
        drop(failed_or_done);
        toucher.join().expect("no zeros in memory");
        assert!(cached > 0);
    });
}

#[test]
fn who_maps_nothing_gives_clean_pages_back() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&PATTERN);
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(PAGES * PAGE));
    scattered(1).for_each(|page| assert_eq!(mapped.get(page * PAGE), PATTERN[page * PAGE]));
    mapped.set(77 * PAGE, 5);
    let view = View::open(handle.cache().try_clone().expect("FDs")).expect("a view");
    assert_eq!(view.give_back(100), Ok(100));
    assert_eq!(view.give_back(u64::MAX), Ok(PAGES as u64 - 101), "the dirty one stays");
    assert_eq!((resident(&handle), mapped.get(77 * PAGE), mapped.get(0)), (1, 5, pattern(1)[0]));
}
