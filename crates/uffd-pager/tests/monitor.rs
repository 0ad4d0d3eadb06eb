//! A thread serves the faults: system calls can use mapped memory without preparation.

mod common;

use common::{FileSource, pattern};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uffd_pager::monitor::Monitor;
use uffd_pager::{Cache, Errno, MapRequest, Mode, PAGE, Pager};

fn monitored() -> Option<(Arc<Pager>, Monitor)> {
    match Pager::new(Mode::Monitor) {
        Ok(pager) => {
            let pager = Arc::new(pager);
            let monitor = Monitor::start(pager.clone()).expect("a thread");
            Some((pager, monitor))
        }
        Err(error) => {
            println!("skipped: no userfaultfd for kernel-mode faults: {error}");
            None
        }
    }
}

#[test]
fn loads_stores_and_system_calls() {
    let Some((pager, _monitor)) = monitored() else { return };
    let source = FileSource::new(&pattern(64));
    let handle =
        pager.attach(source.clone(), Cache::new(64 * PAGE as u64).expect("a cache")).expect("attached");
    // SAFETY: no fixed place.
    let address = unsafe { pager.map(&handle, &MapRequest::shared(64 * PAGE)) }.expect("mapped");
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: the mapping, which nobody else uses.
    let memory = unsafe { std::slice::from_raw_parts_mut(pointer, 64 * PAGE) };
    let pipe = rustix::pipe::pipe().expect("a pipe");
    for round in 0..2 {
        assert_eq!(rustix::io::write(&pipe.1, &memory[40 * PAGE..42 * PAGE]), Ok(2 * PAGE));
        assert_eq!(rustix::io::read(&pipe.0, &mut memory[50 * PAGE..52 * PAGE]), Ok(2 * PAGE));
        memory[round] = 99;
        pager.sync(address..address + 64 * PAGE).expect("synced");
        assert_eq!(source.contents(), &*memory);
    }
    // SAFETY: not used any more.
    unsafe { pager.unmap(address..address + 64 * PAGE) }.expect("unmapped");
}

#[test]
fn a_source_that_fails_does_not_hang() {
    let Some((pager, _monitor)) = monitored() else { return };
    let source = FileSource::new(&pattern(4));
    let handle =
        pager.attach(source.clone(), Cache::new(4 * PAGE as u64).expect("a cache")).expect("attached");
    // SAFETY: no fixed place.
    let address = unsafe { pager.map(&handle, &MapRequest::shared(4 * PAGE)) }.expect("mapped");
    source.fail_reads.store(true, Ordering::Relaxed);
    let pipe = rustix::pipe::pipe().expect("a pipe");
    // SAFETY: the mapping.
    let memory =
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(address), 4 * PAGE) };
    let result = rustix::io::write(&pipe.1, &memory[PAGE..2 * PAGE]);
    assert!(matches!(result, Err(Errno::FAULT | Errno::HWPOISON)), "{result:?}");
    source.fail_reads.store(false, Ordering::Relaxed);
    assert_eq!(rustix::io::write(&pipe.1, &memory[2 * PAGE..3 * PAGE]), Ok(PAGE));
    // SAFETY: not used any more.
    unsafe { pager.unmap(address..address + 4 * PAGE) }.expect("unmapped");
}

#[test]
fn a_pager_for_signals_has_no_monitor() {
    match Pager::new(Mode::Signal) {
        Ok(pager) => {
            let error = Monitor::start(Arc::new(pager)).expect_err("refused");
            assert_eq!(error.errno(), Errno::INVAL);
        }
        Err(error) => println!("skipped: no userfaultfd: {error}"),
    }
}
