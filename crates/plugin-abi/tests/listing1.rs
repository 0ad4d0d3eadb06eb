//! Libraries in the form of the paper's Listing 1.

mod common;

use common::{Log, load, names, open, path};
use plugin_abi::{Capabilities, Errno, Form, Host, Instance, Plugin, Saved, SetAttr, SetTime};
use rstest::rstest;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

const SOURCES: &[&str] = &["tests/fixtures/listing1.c", "tests/fixtures/listing1_libc.c"];

struct Mount {
    fs: Instance,
    dir: tempfile::TempDir,
}

fn mount(plugin: &Plugin) -> Mount {
    let dir = tempfile::tempdir().unwrap();
    let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
    Mount { fs: plugin.instantiate(c"/mnt", &backend, c"", Host::STDERR).unwrap(), dir }
}

#[rstest]
#[case::bare(&[], Form::Listing1)]
#[case::prefixed(&["-DPREFIX"], Form::Listing1Prefixed)]
#[case::without_count(&["-DNO_COUNT"], Form::Listing1)]
fn every_function_of_the_listing_works(#[case] defines: &[&str], #[case] form: Form) {
    let plugin = load(SOURCES, defines);
    assert_eq!(plugin.form(), form);
    assert_eq!(plugin.capabilities(), Capabilities::FOLLOWS_SYMLINKS);
    let Mount { fs, dir } = mount(&plugin);
    let real = |name: &str| dir.path().join(name);

    fs.mkdir(path(c"/d"), 0o755).unwrap();
    let file = open(&fs, c"/d/f", libc::O_CREAT | libc::O_RDWR).unwrap();
    assert_eq!(fs.write(&file, b"hello", 0, false).unwrap().end, 5);
    assert_eq!(fs.write(&file, b" world", 0, true).unwrap().end, 11);
    let mut buf = [0; 32];
    assert_eq!(fs.read(&file, &mut buf, 6), Ok(5));
    assert_eq!(&buf[..5], b"world");
    fs.fsync(&file, false).unwrap();
    fs.fsync(&file, true).unwrap();
    fs.fsetattr(&file, &SetAttr { size: Some(4), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.fgetattr(&file).unwrap().st_size, 4);

    let (mut blob, mut saved) = ([0; 128], Saved::default());
    fs.save(&file, &mut blob, &mut [], &mut saved).unwrap();
    let restored = match fs.restore(&blob[..saved.len], &[]).unwrap() {
        plugin_abi::Open::Served { handle, .. } => handle,
        plugin_abi::Open::Native { .. } => panic!("restored as native"),
    };
    assert_eq!(fs.read(&restored, &mut buf, 0), Ok(4));
    fs.close(restored).unwrap();
    assert_eq!(fs.restore(&blob[..3], &[]).map(|_| ()), Err(Errno::EINVAL));
    // The restored handle was the same number, so this one is closed as well.
    assert_eq!(fs.close(file), Err(Errno::EBADF));

    let at = libc::timespec { tv_sec: 999_999_999, tv_nsec: 0 };
    let attr =
        SetAttr { mode: Some(0o640), size: Some(2), mtime: Some(SetTime::At(at)), ..SetAttr::default() };
    fs.setattr(path(c"/d/f"), &attr).unwrap();
    let metadata = std::fs::metadata(real("d/f")).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777, metadata.mtime()), (2, 0o640, 999_999_999));
    fs.setattr(path(c"/d/f"), &SetAttr { uid: Some(metadata.uid()), ..SetAttr::default() }).unwrap();

    fs.symlink(c"d/f", path(c"/l")).unwrap();
    assert_eq!(fs.readlink(path(c"/l"), &mut buf), Ok(3));
    assert_eq!(fs.getattr(path(c"/l")).unwrap().st_mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(open(&fs, c"/l", libc::O_RDONLY), Err(Errno::ELOOP));
    fs.access(path(c"/d/f"), libc::R_OK, 0).unwrap();
    assert_eq!(fs.access(path(c"/none"), libc::F_OK, 0), Err(Errno::ENOENT));
    fs.rename(path(c"/d/f"), path(c"/g"), 0).unwrap();
    assert_eq!(fs.rename(path(c"/g"), path(c"/h"), 1), Err(Errno::EINVAL));
    assert_eq!(names(&fs, c"/").unwrap(), [".", "..", "d", "g", "l"]);
    assert_eq!(names(&fs, c"/g"), Err(Errno::ENOTDIR));
    fs.unlink(path(c"/g")).unwrap();
    fs.unlink(path(c"/l")).unwrap();
    fs.rmdir(path(c"/d")).unwrap();
    assert_eq!(fs.rmdir(path(c"/d")), Err(Errno::ENOENT));
    assert_eq!(fs.link(path(c"/a"), path(c"/b")), Err(Errno::ENOSYS));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_larger_than_the_first_guess_is_listed_whole() {
    let plugin = load(SOURCES, &["-DNO_COUNT"]);
    let Mount { fs, dir } = mount(&plugin);
    for number in 0..700 {
        std::fs::write(dir.path().join(format!("f{number}")), "").unwrap();
    }
    assert_eq!(names(&fs, c"/").unwrap().len(), 702);
    let handle = open(&fs, c"/", libc::O_RDONLY).unwrap();
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let before = seen.len();
        fs.readdir(&handle, cookie, &mut |entry| {
            seen.push(entry.name.to_vec());
            cookie = entry.next_cookie;
            seen.len() == before + 100
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
    }
    fs.close(handle).unwrap();
    assert_eq!(seen.len(), 702);
}

/// The offset is every process's that has the description; what was listed is the handle's.
#[test]
fn a_directory_is_read_on_by_a_handle_that_was_made_anew() {
    let plugin = load(SOURCES, &[]);
    let Mount { fs, dir } = mount(&plugin);
    for number in 0..50 {
        std::fs::write(dir.path().join(format!("f{number}")), "").unwrap();
    }
    let handle = open(&fs, c"/", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let (mut seen, mut cookie) = (Vec::new(), 0);
    fs.readdir(&handle, cookie, &mut |entry| {
        seen.push(entry.name.to_vec());
        cookie = entry.next_cookie;
        seen.len() == 20
    })
    .unwrap();
    let (mut blob, mut saved) = ([0; 128], Saved::default());
    fs.save(&handle, &mut blob, &mut [], &mut saved).unwrap();
    fs.close(handle).unwrap();
    let plugin_abi::Open::Served { handle, .. } = fs.restore(&blob[..saved.len], &[]).unwrap() else {
        panic!("restored as native");
    };
    fs.readdir(&handle, cookie, &mut |entry| {
        seen.push(entry.name.to_vec());
        false
    })
    .unwrap();
    fs.close(handle).unwrap();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 52);
}

#[rstest]
#[case::far_too_many("2147483647", Ok(5), "")]
#[case::more_than_memory("20000000", Ok(5), "")]
#[case::negative("-1", Err(Errno::EIO), "getdircount reports -1 entries")]
fn an_impossible_count_is_a_hint_or_an_error(
    #[case] count: &str,
    #[case] listed: Result<usize, Errno>,
    #[case] line: &str,
) {
    let plugin = load(SOURCES, &[&format!("-DCOUNT={count}")]);
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let log = Log::new();
    let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
    let fs = plugin.instantiate(c"/mnt", &backend, c"", log.host).unwrap();
    let before = peak();
    assert_eq!(names(&fs, c"/").map(|names| names.len()), listed);
    assert!(peak() - before < 256 << 20, "the room for them took {} bytes", peak() - before);
    assert!(line.is_empty() || log.contains(line), "{:?}", log.lines);
}

/// The most memory that this process has had so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn absent_functions_are_enosys_and_never_libcs() {
    let plugin = load(SOURCES, &["-DONLY_A_FEW"]);
    let Mount { fs, dir } = mount(&plugin);
    std::fs::write(dir.path().join("f"), "abc").unwrap();
    let file = open(&fs, c"/f", libc::O_RDWR).unwrap();
    assert_eq!(fs.read(&file, &mut [0; 8], 0), Ok(3));
    // libc has all of these; the library depends on libc, so dlsym alone would find them.
    assert_eq!(fs.write(&file, b"x", 0, false), Err(Errno::ENOSYS));
    assert_eq!(fs.unlink(path(c"/f")), Err(Errno::ENOSYS));
    assert_eq!(fs.mkdir(path(c"/d"), 0o755), Err(Errno::ENOSYS));
    assert_eq!(fs.rename(path(c"/f"), path(c"/g"), 0), Err(Errno::ENOSYS));
    assert_eq!(fs.setattr(path(c"/f"), &SetAttr { size: Some(0), ..SetAttr::default() }), Err(Errno::ENOSYS));
    assert_eq!(fs.readlink(path(c"/f"), &mut [0; 8]), Err(Errno::ENOSYS));
    assert_eq!(names(&fs, c"/"), Err(Errno::ENOSYS));
    assert_eq!(fs.save(&file, &mut [0; 64], &mut [], &mut Saved::default()), Err(Errno::ENOSYS));
    // Without fgetattr the path answers.
    assert_eq!(fs.fgetattr(&file).unwrap().st_size, 3);
    fs.close(file).unwrap();
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"abc");
}

#[test]
fn its_symbols_do_not_replace_libcs_for_the_program() {
    let plugin = load(SOURCES, &[]);
    let Mount { fs, dir } = mount(&plugin);
    std::fs::write(dir.path().join("f"), "abc").unwrap();
    // With the library loaded, this program's own calls must still be libc's.
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"abc");
    // SAFETY: looks a name up among the global symbols.
    let global = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"getdirents".as_ptr()) };
    assert!(global.is_null());
    drop(fs);
}

#[test]
fn one_library_serves_one_mount_at_a_time() {
    let plugin = load(SOURCES, &[]);
    let first = mount(&plugin);
    let second = plugin.instantiate(c"/other", c"/", c"", Host::STDERR);
    assert_eq!(second.map(|_| ()).unwrap_err().errno, Errno::EBUSY);
    drop(first);
    assert!(plugin.instantiate(c"/other", c"/", c"", Host::STDERR).is_ok());
}

#[test]
fn a_number_that_is_no_errno_is_eio() {
    // As the authors' own wrapper does, whose close returns the system call's -1.
    let dir = tempfile::tempdir().unwrap();
    let text =
        "int usfs_unlink(const char *path); int usfs_unlink(const char *path) { (void)path; return -1; }\n";
    std::fs::write(dir.path().join("minus.c"), text).unwrap();
    let plugin = load(&[dir.path().join("minus.c").to_str().unwrap()], &[]);
    let log = Log::new();
    let fs = plugin.instantiate(c"/m", c"", c"", log.host).unwrap();
    assert_eq!(fs.unlink(path(c"/f")), Err(Errno::EIO));
    assert!(log.contains("unlink returned -1"));
}

#[test]
fn it_behaves_like_the_model() {
    use plugin_abi::conformance::{Config, check};
    let plugin = load(SOURCES, &[]);
    let Mount { fs, dir } = mount(&plugin);
    let passed = check(&fs, &Config { sequences: 150, ..Config::default() })
        .unwrap_or_else(|failed| panic!("{failed}"));
    for present in ["open", "write", "rename", "symlink", "readdir", "save", "chmod", "utime", "truncate"] {
        assert!(!passed.unsupported.contains(&present), "{passed}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
