//! A cache seen by FD, beside mappings of it.

mod common;

use common::{End, FileSource, Mapped, attach, in_child, pager, pattern};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use uffd_pager::{Changed, Errno, MapRequest, PAGE, PageSource, Protection, Source, View};

fn view(source: &Source) -> View {
    View::open(source.cache().try_clone().expect("FDs")).expect("a view")
}

/// Writes to the source behind the pager's back, as another process would by FD.
fn write(view: &View, source: &FileSource, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    view.change(
        |at, buffer| source.read(at, buffer),
        || {
            source.file.write_all_at(data, offset).expect("room in memory");
            let end = offset + data.len() as u64;
            Ok((data.len(), Changed { bytes: offset..end, length: view.length().max(end) }))
        },
    )
}

#[test]
fn writes_reach_resident_pages_and_those_read_later() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(100));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(120 * PAGE));
    let view = view(&handle);
    mapped.set(3 * PAGE, 77);
    let edge = 4 * PAGE as u64 - 2;
    assert_eq!(write(&view, &source, edge, b"four"), Ok(4));
    assert_eq!((mapped.get(edge as usize), mapped.get(edge as usize + 3)), (b'f', b'r'));
    assert_eq!(mapped.get(3 * PAGE), 77, "a store beside it stays");
    assert_eq!(write(&view, &source, 90 * PAGE as u64, b"far"), Ok(3));
    assert_eq!(mapped.get(90 * PAGE), b'f', "read after the write");
    assert_eq!(write(&view, &source, 110 * PAGE as u64, b"longer"), Ok(6));
    assert_eq!(
        (mapped.get(110 * PAGE + 5), mapped.get(105 * PAGE), handle.length()),
        (b'r', 0, 110 * PAGE as u64 + 6)
    );
}

#[test]
fn what_was_stored_past_the_end_is_not_in_the_longer_file() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2)[..PAGE + 100]);
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(4 * PAGE));
    mapped.set(PAGE + 200, 9);
    assert_eq!(write(&view(&handle), &source, 3 * PAGE as u64, b"x"), Ok(1));
    assert_eq!((mapped.get(PAGE + 200), mapped.get(PAGE + 99)), (0, pattern(2)[PAGE + 99]));
}

/// The least capacity is 128 MiB.
#[test]
fn a_file_that_outgrows_its_cache_is_sigbus_there_and_all_right_below() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(4));
    let pages = rustix::fs::memfd_create(c"pages", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let cache = uffd_pager::Cache::with_pages(pages, 4 * PAGE as u64, 1).expect("a cache");
    let handle = pager.attach(source.clone(), cache).expect("attached");
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(200 << 20));
    let view = view(&handle);
    mapped.set(PAGE, 5);
    assert_eq!(write(&view, &source, 150 << 20, b"beyond"), Ok(6));
    assert_eq!((mapped.get(PAGE), mapped.get(100 << 20), view.is_dirty()), (5, 0, true));
    assert_eq!(in_child(pager, || i32::from(mapped.get(150 << 20))), End::Signal(libc::SIGBUS));
    assert!(pager.prefault(mapped.memory(), false).is_err());
    pager.sync_source(&handle).expect("synced");
    assert_eq!(source.contents()[PAGE], 5);
}

#[test]
fn a_shorter_file_is_shorter_for_mappings_and_a_failed_change_changes_nothing() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(8));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(8 * PAGE));
    let view = view(&handle);
    mapped.set(6 * PAGE, 1);
    let failed: Result<(), Errno> = view.change(|_, _| Err(Errno::IO), || Err(Errno::NOSPC));
    assert_eq!((failed, view.length()), (Err(Errno::NOSPC), 8 * PAGE as u64));
    let cut = 5 * PAGE as u64 + 10;
    let shorter: Result<(), Errno> = view.change(
        |at, buffer| source.read(at, buffer),
        || {
            source.set_len(cut)?;
            Ok(((), Changed { bytes: 0..0, length: cut }))
        },
    );
    assert_eq!((shorter, handle.length()), (Ok(()), cut));
    assert_eq!(mapped.get(5 * PAGE + 10), 0);
    // SIGBUS, in a child that may end by it.
    let end = in_child(pager, || i32::from(mapped.get(6 * PAGE)));
    assert_eq!(end, End::Signal(libc::SIGBUS));
}

#[test]
fn resident_runs_are_read_and_others_are_the_sources() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(1000));
    let handle = attach(pager, &source);
    let mapped = Mapped::new(pager, &handle, &MapRequest::shared(1000 * PAGE));
    let view = view(&handle);
    assert_eq!(view.resident(0..u64::MAX), None);
    mapped.set(500 * PAGE + 3, 42);
    let run = view.resident(10..u64::MAX).expect("a run");
    assert!(run.start <= 500 * PAGE as u64 && 501 * PAGE as u64 <= run.end, "{run:?}");
    assert_eq!(view.resident(500 * PAGE as u64 + 3..500 * PAGE as u64 + 5), Some(2_048_003..2_048_005));
    let mut byte = [0];
    assert_eq!((view.read(500 * PAGE as u64 + 3, &mut byte), byte), (Ok(Some(1)), [42]));
    let mut page = vec![0; PAGE];
    assert_eq!(view.read(900 * PAGE as u64, &mut page), Ok(None), "it is the source's");
}

#[test]
fn who_maps_nothing_writes_back_what_a_killed_process_left() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(16));
    let cache = uffd_pager::Cache::new(source.len().expect("a length")).expect("a cache");
    let view = View::open(cache.try_clone().expect("FDs")).expect("a view");
    let end = in_child(pager, || {
        let handle = pager.attach(source.clone(), cache.try_clone().expect("FDs")).expect("attached");
        let mapped = Mapped::new(pager, &handle, &MapRequest::shared(16 * PAGE));
        mapped.set(7 * PAGE + 1, 99);
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }
    });
    assert_eq!(end, End::Signal(libc::SIGKILL));
    assert!(view.is_dirty() && !view.is_used());
    assert_eq!(source.contents()[7 * PAGE + 1], pattern(16)[7 * PAGE + 1]);
    let failing = view.write_back(|_, _| Err(Errno::NOSPC));
    assert_eq!(failing.map_err(|error| error.errno()), Err(Errno::NOSPC));
    assert!(view.is_dirty(), "it is kept for who can");
    view.write_back(|at, data| source.write(at, data)).expect("written back");
    assert!(!view.is_dirty());
    assert_eq!(source.contents()[7 * PAGE + 1], 99);
    view.discard().expect("nobody uses it");
    assert_eq!(view.resident(0..u64::MAX), None);
}

#[test]
fn a_child_that_is_being_made_uses_the_cache_already() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2));
    let handle = attach(pager, &source);
    let view = view(&handle);
    let shared = Arc::new(handle);
    pager.before_fork().expect("prepared");
    assert!(view.is_used());
    pager.after_fork_in_parent(false);
    drop(shared);
    assert!(!view.is_used(), "there is no child, and nobody else");
}

#[test]
fn a_mapping_is_made_no_more_than_its_limit() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2));
    let limit = Protection::READ | Protection::EXEC;
    let request = MapRequest { protection: Protection::READ, limit, ..MapRequest::shared(2 * PAGE) };
    let mapped = Mapped::new(pager, &attach(pager, &source), &request);
    // SAFETY: nothing relies on it.
    let refused = unsafe { pager.protect(mapped.memory(), Protection::READ_WRITE) };
    assert_eq!(refused.map_err(|error| error.errno()), Err(Errno::ACCESS));
    assert_eq!(mapped.get(5), pattern(2)[5]);
}

#[test]
fn what_is_not_to_be_inherited_is_not_there_in_the_child() {
    let Some(pager) = pager() else { return };
    let source = FileSource::new(&pattern(2));
    let handle = attach(pager, &source);
    let (kept, lost) = (
        Mapped::new(pager, &handle, &MapRequest::shared(2 * PAGE)),
        Mapped::new(pager, &handle, &MapRequest::private(2 * PAGE)),
    );
    lost.set(0, 1);
    pager.inherit(lost.memory(), false);
    assert_eq!(in_child(pager, || i32::from(kept.get(3) != pattern(2)[3])), End::Exit(0));
    assert_eq!(in_child(pager, || i32::from(lost.get(0))), End::Signal(libc::SIGSEGV));
    pager.inherit(lost.memory(), true);
    assert_eq!(in_child(pager, || i32::from(lost.get(0))), End::Exit(1));
}
