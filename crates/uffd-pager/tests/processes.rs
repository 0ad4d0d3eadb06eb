//! One page is one page, and no process's end loses anything.

mod common;

use common::{
    End, FileSource, Mapped, attach, in_child, in_unknown_child, pager, pattern, without_descriptors,
};
use std::sync::atomic::{AtomicU64, Ordering};
use uffd_pager::{Cache, MapRequest, Mode, PAGE, Pager};

#[test]
fn parent_and_child_see_each_others_stores() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(32));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(32 * PAGE));
    mapped.set(5, 1);
    let end = in_child(pager, || {
        let seen = mapped.get(5) == 1 && mapped.get(20 * PAGE) == pattern(32)[20 * PAGE];
        mapped.set(6, 2);
        mapped.set(21 * PAGE, 3);
        i32::from(!seen)
    });
    assert_eq!(end, End::Exit(0));
    assert_eq!((mapped.get(6), mapped.get(21 * PAGE)), (2, 3));
    mapped.sync();
    assert_eq!([5, 6, 21 * PAGE].map(|offset| source.contents()[offset]), [1, 2, 3]);
}

#[test]
fn a_child_that_the_pager_does_not_know_gets_sigsegv_and_no_zeros_into_the_cache() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    for request in [MapRequest::shared(8 * PAGE), MapRequest::private(8 * PAGE)] {
        let mapped = Mapped::new(pager, &handle, &request);
        assert_eq!(in_unknown_child(|| i32::from(mapped.get(3 * PAGE))), End::Signal(libc::SIGSEGV));
        assert_eq!(mapped.get(3 * PAGE), pattern(8)[3 * PAGE]);
    }
}

/// What its parent has stored is written back by the child all the same, and the parent's pages stay what they are.
#[test]
fn a_child_that_cannot_have_a_userfaultfd_has_no_mappings() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(8 * PAGE));
    mapped.set(PAGE, 7);
    let end = without_descriptors(pager, || {
        let left = pager.is_mapping() || pager.serves(mapped.memory());
        let written = pager.sync_source(&handle).is_ok();
        // SAFETY: no fixed place.
        let maps = unsafe { pager.map(&handle, &MapRequest::shared(PAGE)) }.is_ok();
        i32::from(left || !written || maps)
    });
    assert_eq!(end, End::Exit(0));
    assert_eq!(source.contents()[PAGE], 7);
    mapped.set(PAGE, 8);
    mapped.set(3 * PAGE, 9);
    mapped.sync();
    assert_eq!((source.contents()[PAGE], source.contents()[3 * PAGE]), (8, 9));
    drop(mapped);
    assert_eq!(handle.processes(), 1);
}

/// The kernel fills what is mapped from then on at once: with zeros, where it is not told that it must ask.
#[test]
fn what_is_mapped_by_who_has_all_its_memory_locked_is_the_source() {
    let Some(pager) = pager() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: more memory can be locked by root alone");
        return;
    }
    let end = in_child(pager, || {
        // SAFETY: of the child's memory alone.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        let source = FileSource::new(&pattern(40));
        let handle = attach(pager, &source);
        let mapped = Mapped::new(pager, &handle, &MapRequest::shared(40 * PAGE));
        mapped.set(7 * PAGE, 1);
        mapped.sync();
        let whole = (0..40).all(|page| mapped.get(page * PAGE + 9) == pattern(40)[page * PAGE + 9]);
        i32::from(!whole || source.contents()[7 * PAGE + 1..8 * PAGE] != pattern(40)[7 * PAGE + 1..8 * PAGE])
    });
    assert_eq!(end, End::Exit(0));
}

/// One that is sent, and would end the process.
#[test]
fn a_blocked_signal_stays_so_over_write_back() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(4 * PAGE));
    let end = in_child(pager, || {
        // SAFETY: signal sets of this frame; the child has one thread.
        let pending = || unsafe {
            let mut set = std::mem::zeroed();
            libc::sigpending(&raw mut set);
            libc::sigismember(&raw const set, libc::SIGTRAP)
        };
        // SAFETY: as above.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGTRAP);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::raise(libc::SIGTRAP);
        }
        mapped.set(PAGE, 7);
        i32::from(pager.sync(mapped.memory()).is_err() || pending() != 1)
    });
    assert_eq!(end, End::Exit(0));
    assert_eq!(source.contents()[PAGE], 7);
}

#[test]
fn private_pages_go_along_and_part_then() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(16));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::private(16 * PAGE));
    mapped.set(2 * PAGE + 7, 200);
    let end = in_child(pager, || {
        let seen = mapped.get(2 * PAGE + 7) == 200 && mapped.get(9 * PAGE) == pattern(16)[9 * PAGE];
        mapped.set(2 * PAGE + 7, 201);
        mapped.set(3 * PAGE, 202);
        i32::from(!seen || mapped.get(2 * PAGE + 7) != 201)
    });
    assert_eq!(end, End::Exit(0));
    assert_eq!((mapped.get(2 * PAGE + 7), mapped.get(3 * PAGE)), (200, pattern(16)[3 * PAGE]));
}

#[test]
fn what_a_killed_process_stored_is_written_back_by_another() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(64));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(64 * PAGE));
    mapped.set(0, 1);
    mapped.sync();
    let end = in_child(pager, || {
        for page in 0..64 {
            mapped.set(page * PAGE + 1, 250);
        }
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        0
    });
    assert_eq!(end, End::Signal(libc::SIGKILL));
    assert_eq!(handle.dirty_pages(), 64);
    pager.sync_source(&handle).expect("synced");
    assert_eq!(handle.dirty_pages(), 0);
    assert!((0..64).all(|page| source.contents()[page * PAGE + 1] == 250));
}

#[test]
fn four_processes_count_on_one_page() {
    const EACH: u64 = 20_000;
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&[0; 4 * PAGE]);
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(4 * PAGE));
    // SAFETY: aligned, inside the mapping, accessed as an atomic by all; zero is a number.
    let counter = unsafe { &*mapped.word::<AtomicU64>(PAGE + 64) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let end = in_child(pager, || {
                    for step in 0..EACH {
                        counter.fetch_add(1, Ordering::Relaxed);
                        if step % 5_000 == 0 && pager.sync(mapped.memory()).is_err() {
                            return 1;
                        }
                    }
                    0
                });
                assert_eq!(end, End::Exit(0));
            });
        }
    });
    assert_eq!(counter.load(Ordering::Relaxed), 4 * EACH);
    mapped.sync();
    assert_eq!(source.contents()[PAGE + 64..PAGE + 72], (4 * EACH).to_ne_bytes());
}

#[test]
fn spawning_does_not_disturb() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let mapped = Mapped::new(pager, &attach(pager, &source), &MapRequest::shared(8 * PAGE));
    mapped.set(1, 9);
    assert!(std::process::Command::new("true").status().expect("true(1)").success());
    assert_eq!((mapped.get(1), mapped.get(7 * PAGE)), (9, pattern(8)[7 * PAGE]));
}

#[test]
fn another_pager_maps_the_same_cache_by_its_fds() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(8 * PAGE));
    mapped.set(3, 44);
    let second = Pager::new(Mode::Signal).expect("as the first one");
    let cache = handle.cache();
    let duplicate = |fd: rustix::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("an FD");
    let cache = Cache::from_fds(duplicate(cache.pages()), duplicate(cache.ledger()));
    let other = second.attach(source.clone(), cache).expect("attached");
    assert_eq!(other.processes(), 2);
    // SAFETY: no fixed place.
    let address = unsafe { second.map(&other, &MapRequest::shared(8 * PAGE)) }.expect("mapped");
    let ready = second.prefault(address..address + 8 * PAGE, true).expect("read");
    let at = |offset: usize| std::ptr::with_exposed_provenance_mut::<u8>(address + offset);
    // SAFETY: inside the mapping, and readable and writable without a fault.
    unsafe {
        assert_eq!(at(3).read_volatile(), 44);
        at(PAGE).write_volatile(45);
    }
    drop(ready);
    assert_eq!(mapped.get(PAGE), 45);
    mapped.sync();
    assert_eq!(source.contents()[PAGE], 45, "one syncs what the other stored");
    // SAFETY: not used any more.
    unsafe { second.unmap(address..address + 8 * PAGE) }.expect("unmapped");
}

/// No privilege is needed: with none at all, in a child.
#[test]
fn works_for_nobody() {
    let Some(pager) = pager() else { return };
    let end = in_child(pager, || {
        // SAFETY: takes privileges away from this process; it has one thread.
        let dropped = unsafe { libc::setresuid(65534, 65534, 65534) } == 0;
        if !dropped && rustix::process::geteuid().is_root() {
            return 1;
        }
        i32::from(Pager::new(Mode::Signal).is_err()) * 2
    });
    assert_eq!(end, End::Exit(0));
}
