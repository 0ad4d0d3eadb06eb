//! A plugin that returns what cannot be gets `EIO`, and a line in the log says what it did.

mod common;

use common::{Log, load, names, open, path};
use plugin_abi::{Errno, Instance, Plugin, Purpose, Saved};
use rstest::rstest;
use std::ffi::CStr;
use std::sync::LazyLock;

/// Thread-safe, with native descriptors and appends.
static PLUGIN: LazyLock<Plugin> =
    LazyLock::new(|| load(&["tests/fixtures/impossible.c"], &["-DCAPABILITIES=(1|2|16)"]));

/// The fixture has one state: one test at a time.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn with(which: &CStr, check: impl FnOnce(&Instance, &Log)) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let log = Log::new();
    check(&PLUGIN.instantiate(c"/m", which, c"", log.host).unwrap(), &log);
}

#[rstest]
#[case(c"errno", "returned 4096")]
#[case(c"negative errno", "returned -2")]
#[case(c"type", "st_mode 0")]
#[case(c"negative size", "st_size -1")]
fn attributes(#[case] which: &CStr, #[case] line: &str) {
    with(which, |fs, log| {
        assert_eq!(fs.getattr(path(c"/f")).map(|_| ()), Err(Errno::EIO));
        assert!(log.contains("getattr") && log.contains(line), "{:?}", log.lines);
    });
}

#[rstest]
#[case(c"closed native", "not open")]
#[case(c"no native", "not open")]
#[case(c"opened type", "file type")]
#[case(c"negative fd", "negative descriptor")]
fn opening(#[case] which: &CStr, #[case] line: &str) {
    with(which, |fs, log| {
        assert_eq!(fs.open(path(c"/f"), libc::O_RDONLY, 0).map(|_| ()), Err(Errno::EIO));
        assert!(log.contains(line), "{:?}", log.lines);
    });
}

#[test]
fn a_native_descriptor_needs_the_capability() {
    let plugin = load(&["tests/fixtures/impossible.c"], &["-DCAPABILITIES=0"]);
    let log = Log::new();
    let fs = plugin.instantiate(c"/m", c"no native", c"", log.host).unwrap();
    assert_eq!(fs.open(path(c"/f"), 0, 0).map(|_| ()), Err(Errno::EIO));
    assert!(log.contains("without the capability"));
}

#[test]
fn more_bytes_than_asked() {
    with(c"", |fs, log| {
        let file = open(fs, c"/f", libc::O_RDWR).unwrap();
        let mut buf = [0; 8];
        assert_eq!(fs.read(&file, &mut buf, 0), Err(Errno::EIO));
        assert!(log.contains("read reports 9 bytes where 8 were asked for"), "{:?}", log.lines);
        assert_eq!(fs.readv(&file, &mut [std::io::IoSliceMut::new(&mut buf)], 0), Err(Errno::EIO));
        assert_eq!(fs.write(&file, &buf, 0, false), Err(Errno::EIO));
        assert_eq!(fs.writev(&file, &[std::io::IoSlice::new(&buf)], 0, false), Err(Errno::EIO));
        assert_eq!(fs.write(&file, &buf, 0, true), Err(Errno::EIO));
        assert!(log.contains("appended 8 bytes and reports the end 0"), "{:?}", log.lines);
        assert_eq!(fs.lseek(&file, 5, libc::SEEK_DATA), Err(Errno::EIO));
        assert_eq!(fs.copy_range(&file, 0, &file, 100, 10), Err(Errno::EIO));
        assert_eq!(fs.readlink(path(c"/l"), &mut buf), Err(Errno::EIO));
        assert_eq!(fs.getxattr(path(c"/f"), c"user.a", &mut buf), Err(Errno::EIO));
        assert_eq!(fs.getxattr(path(c"/f"), c"user.a", &mut []), Err(Errno::EIO));
        assert_eq!(fs.backing_fd(&file, Purpose::Map).map(|_| ()), Err(Errno::EIO));
        fs.close(file).unwrap();
    });
}

#[rstest]
#[case(c"slash")]
#[case(c"empty name")]
#[case(c"nul")]
#[case(c"null name")]
#[case(c"long name")]
fn names_no_file_can_have(#[case] which: &CStr) {
    with(which, |fs, log| {
        assert_eq!(names(fs, c"/"), Err(Errno::EIO));
        assert!(log.contains("readdir"), "{:?}", log.lines);
    });
}

#[test]
fn a_plugin_that_does_not_stop_emitting_is_not_heard() {
    with(c"never stops", |fs, _| {
        let dir = open(fs, c"/", libc::O_RDONLY).unwrap();
        let mut heard = Vec::new();
        fs.readdir(&dir, 0, &mut |entry| {
            heard.push(entry.ino);
            heard.len() == 2
        })
        .unwrap();
        // Inode 0 would make readers skip the entry.
        assert!(heard.len() == 2 && heard[1] != 0, "{heard:?}");
        fs.close(dir).unwrap();
    });
}

#[test]
fn a_link_target_with_a_nul() {
    with(c"nul", |fs, _| assert_eq!(fs.readlink(path(c"/l"), &mut [0; 16]), Err(Errno::EIO)));
}

#[rstest]
#[case(c"save blob")]
#[case(c"save count")]
#[case(c"save fd")]
fn saving(#[case] which: &CStr) {
    with(which, |fs, _| {
        let file = open(fs, c"/f", libc::O_RDWR).unwrap();
        let answer = fs.save(&file, &mut [0; 16], &mut [0; 2], &mut Saved::default());
        assert_eq!(answer, Err(Errno::EIO));
        fs.close(file).unwrap();
    });
}

#[test]
fn offsets_beyond_what_a_file_can_have() {
    with(c"", |fs, _| {
        let file = open(fs, c"/f", libc::O_RDWR).unwrap();
        assert_eq!(fs.read(&file, &mut [0; 8], u64::MAX), Err(Errno::EINVAL));
        assert_eq!(fs.write(&file, &[0; 8], 1 << 63, false), Err(Errno::EINVAL));
        fs.close(file).unwrap();
    });
}
