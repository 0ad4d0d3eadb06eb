//! The plugin as a shared library, loaded as the host loads it. What every file system does is the conformance
//! kit's to check; this is what only this one promises.

use plugin_abi::{CStr, Errno, Handle, Host, Instance, MountPath, Open, Plugin, SetAttr, SetTime};
use rstest::{fixture, rstest};
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn library() -> Plugin {
    let deps = std::env::current_exe().unwrap();
    Plugin::load(&deps.with_file_name("libmemory.so")).unwrap()
}

fn mount(options: &CStr) -> Instance {
    library().instantiate(c"/mnt", c"", options, Host::STDERR).unwrap()
}

#[fixture]
fn fs() -> Instance {
    mount(c"")
}

fn path(name: &CStr) -> &MountPath {
    MountPath::new(name).unwrap()
}

fn open(fs: &Instance, name: &CStr, flags: i32) -> Result<Handle, Errno> {
    match fs.open(path(name), flags, 0o644)? {
        Open::Served { handle, .. } => Ok(handle),
        Open::Native { .. } => panic!("{name:?} was handed over"),
    }
}

const NEW: i32 = libc::O_CREAT | libc::O_RDWR;

#[rstest]
fn what_is_unlinked_stays_open_and_its_space_comes_back() {
    let fs = mount(c"size=64k");
    let file = open(&fs, c"/f", NEW).unwrap();
    assert_eq!(fs.write(&file, &vec![1; 70_000], 0, false).unwrap().count, 65_536);
    assert_eq!(fs.write(&file, &[1; 1], 65_536, false), Err(Errno::ENOSPC));
    assert_eq!(fs.statfs(MountPath::ROOT).unwrap().f_bfree, 0);
    fs.unlink(path(c"/f")).unwrap();
    assert_eq!(fs.fgetattr(&file).unwrap().st_nlink, 0);
    assert_eq!(fs.read(&file, &mut [0; 10], 65_530), Ok(6));
    assert_eq!(fs.statfs(MountPath::ROOT).unwrap().f_bfree, 0);
    fs.close(file).unwrap();
    assert_eq!(fs.statfs(MountPath::ROOT).unwrap().f_bfree, 16);
}

#[rstest]
fn a_hole_costs_nothing(fs: Instance) {
    let file = open(&fs, c"/sparse", NEW).unwrap();
    fs.write(&file, b"x", 1 << 40, false).unwrap();
    let st = fs.fgetattr(&file).unwrap();
    assert_eq!((st.st_size, st.st_blocks), ((1 << 40) + 1, 8));
    assert_eq!(fs.lseek(&file, 0, libc::SEEK_DATA), Ok(1 << 40));
    assert_eq!(fs.lseek(&file, 0, libc::SEEK_HOLE), Ok(0));
    let all = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    fs.fallocate(&file, all, 0, 1 << 42).unwrap();
    assert_eq!(fs.fgetattr(&file).unwrap().st_blocks, 0);
    fs.close(file).unwrap();
}

#[rstest]
fn times_follow_what_happens(fs: Instance) {
    let file = open(&fs, c"/f", NEW).unwrap();
    let old = SetTime::At(libc::timespec { tv_sec: 1000, tv_nsec: 5 });
    let reset =
        || fs.fsetattr(&file, &SetAttr { atime: Some(old), mtime: Some(old), ..SetAttr::default() }).unwrap();
    let times = || {
        let st = fs.fgetattr(&file).unwrap();
        (st.st_atime > 1000, st.st_mtime > 1000)
    };
    fs.write(&file, b"x", 0, false).unwrap();
    reset();
    assert_eq!(times(), (false, false));
    // "relatime": the first read after a change counts.
    fs.read(&file, &mut [0; 1], 0).unwrap();
    assert_eq!(times(), (true, false));
    reset();
    fs.read(&file, &mut [0; 1], 0).unwrap();
    assert_eq!(times(), (false, false));
    fs.write(&file, b"x", 0, false).unwrap();
    assert_eq!(times(), (false, true));
    fs.close(file).unwrap();
}

#[rstest]
fn a_descriptor_does_what_it_was_opened_for(fs: Instance) {
    let (write_only, read_only) =
        (open(&fs, c"/f", libc::O_CREAT | libc::O_WRONLY).unwrap(), open(&fs, c"/f", 0).unwrap());
    let path_only = open(&fs, c"/f", libc::O_PATH).unwrap();
    assert_eq!(fs.read(&write_only, &mut [0; 1], 0), Err(Errno::EBADF));
    assert_eq!(fs.write(&read_only, b"x", 0, false), Err(Errno::EBADF));
    assert_eq!(fs.read(&path_only, &mut [0; 1], 0), Err(Errno::EBADF));
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(fs.fsetattr(&read_only, &cut), Err(Errno::EINVAL));
    assert_eq!(fs.fsetattr(&path_only, &cut), Err(Errno::EBADF));
    assert_eq!(fs.fgetattr(&path_only).unwrap().st_mode & libc::S_IFMT, libc::S_IFREG);
    for handle in [write_only, read_only, path_only] {
        fs.close(handle).unwrap();
    }
}

#[rstest]
fn a_listing_survives_changes_between_its_pieces(fs: Instance) {
    for name in [c"/a", c"/b", c"/c", c"/d"] {
        fs.mkdir(path(name), 0o755).unwrap();
    }
    let dir = open(&fs, c"/", libc::O_RDONLY).unwrap();
    let next = |from: u64| {
        let mut found = None;
        fs.readdir(&dir, from, &mut |entry| {
            found = Some((String::from_utf8_lossy(entry.name).into_owned(), entry.next_cookie));
            true
        })
        .unwrap();
        found
    };
    let mut seen = Vec::new();
    let mut cookie = 0;
    while let Some((name, after)) = next(cookie) {
        // The entry just seen goes, and one that was there all the time must not be missed for it.
        if name.starts_with(|c: char| c.is_ascii_lowercase()) {
            fs.rmdir(path(&std::ffi::CString::new(format!("/{name}")).unwrap())).unwrap();
        }
        seen.push(name);
        cookie = after;
    }
    assert_eq!(seen, [".", "..", "a", "b", "c", "d"]);
    fs.close(dir).unwrap();
}

#[rstest]
fn a_nameless_file_gets_a_name(fs: Instance) {
    let file = open(&fs, c"/", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    fs.write(&file, b"x", 0, false).unwrap();
    assert_eq!(fs.fgetattr(&file).unwrap().st_nlink, 0);
    fs.flink(&file, path(c"/named")).unwrap();
    assert_eq!(fs.getattr(path(c"/named")).unwrap().st_size, 1);
    fs.close(file).unwrap();
}

#[rstest]
fn special_files_are_listed_and_not_opened(fs: Instance) {
    fs.mknod(path(c"/fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    assert_eq!(fs.getattr(path(c"/fifo")).unwrap().st_mode, libc::S_IFIFO | 0o600);
    assert_eq!(open(&fs, c"/fifo", libc::O_RDONLY), Err(Errno::ENXIO));
    open(&fs, c"/fifo", libc::O_PATH).and_then(|file| fs.close(file)).unwrap();
    assert_eq!(fs.mknod(path(c"/d"), libc::S_IFDIR | 0o755, 0), Err(Errno::EPERM));
}

#[rstest]
#[case(c"size=1q", "`size=1q`")]
#[case(c"sise=1", "`sise=1`")]
#[case(c"size=99999999999g", "size=99999999999g")]
fn a_bad_option_is_named(#[case] options: &CStr, #[case] text: &str) {
    let error = library().instantiate(c"/mnt", c"", options, Host::STDERR).unwrap_err();
    assert_eq!(error.errno, Errno::EINVAL);
    assert!(error.message.contains(text), "{error}");
}

/// Four threads append records of nine bytes in the pieces that `lengths` says.
fn append_by_many_threads(fs: &Instance, lengths: &[usize]) {
    open(fs, c"/log", NEW).and_then(|file| fs.close(file)).unwrap();
    std::thread::scope(|scope| {
        for mark in 1..=4_u8 {
            scope.spawn(move || {
                let file = open(fs, c"/log", libc::O_WRONLY).unwrap();
                let record = [mark; 9];
                let pieces: Vec<_> = lengths.iter().map(|&length| IoSlice::new(&record[..length])).collect();
                for _ in 0..500 {
                    assert_eq!(fs.writev(&file, &pieces, 0, true).unwrap().count, 9);
                }
                fs.close(file).unwrap();
            });
        }
    });
    let file = open(fs, c"/log", 0).unwrap();
    let mut all = vec![0; 20_000];
    assert_eq!(fs.read(&file, &mut all, 0), Ok(18_000));
    assert!(all[..18_000].chunks(9).all(|record| record.iter().all(|&mark| mark == record[0])));
    assert!((1..=4).all(|mark| all[..18_000].chunks(9).filter(|record| record[0] == mark).count() == 500));
    fs.close(file).unwrap();
}

#[rstest]
fn appends_by_many_threads_lose_nothing(fs: Instance) {
    append_by_many_threads(&fs, &[9]);
    fs.unlink(path(c"/log")).unwrap();
    append_by_many_threads(&fs, &[2, 3, 4]);
}

#[test]
fn several_buffers_are_one_transfer() {
    let fs = mount(c"size=64k");
    let file = open(&fs, c"/f", NEW).unwrap();
    let (first, second) = (vec![1; 60_000], vec![2; 60_000]);
    let pieces = [IoSlice::new(&first), IoSlice::new(&second), IoSlice::new(&first)];
    assert_eq!(fs.writev(&file, &pieces, 0, false).unwrap().count, 65_536);
    assert_eq!(fs.writev(&file, &pieces, 0, true), Err(Errno::ENOSPC));
    let (mut one, mut two, mut three) = ([0; 2], [0; 3], [0; 9]);
    let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two), IoSliceMut::new(&mut three)];
    assert_eq!(fs.readv(&file, &mut bufs, 59_998), Ok(14));
    assert_eq!((one, two, three), ([1; 2], [2; 3], [2; 9]));
    assert_eq!(fs.readv(&file, &mut [IoSliceMut::new(&mut three)], 65_530), Ok(6));
    fs.close(file).unwrap();
}

/// Runs in a child; 99 for a crash.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls the plugin and ends.
    match unsafe { libc::fork() } {
        0 => {
            let status = body();
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 99 }
        }
    }
}

#[rstest]
fn a_child_forked_under_load_has_whole_files(fs: Instance) {
    let stop = AtomicBool::new(false);
    let file = open(&fs, c"/f", NEW).unwrap();
    fs.write(&file, &[0; 4096], 0, false).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut mark = 0_u8;
                while !stop.load(Relaxed) {
                    mark = mark.wrapping_add(1);
                    fs.write(&file, &[mark; 4096], 0, false).unwrap();
                }
            });
        }
        for _ in 0..100 {
            fs.fork_prepare();
            let status = in_child(|| {
                fs.fork_child();
                let mut page = [0; 4096];
                let whole =
                    fs.read(&file, &mut page, 0) == Ok(4096) && page.iter().all(|&byte| byte == page[0]);
                let writable = fs.write(&file, b"x", 0, false).is_ok();
                i32::from(!whole) + 2 * i32::from(!writable)
            });
            fs.fork_parent();
            assert_eq!(status, 0);
        }
        stop.store(true, Relaxed);
    });
    fs.close(file).unwrap();
}

/// From here on every system call but `exit_group` ends the process.
fn forbid_system_calls() -> bool {
    const fn statement(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_exit_group as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: both calls only change what this process may do; the program outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

#[rstest]
fn reading_and_writing_make_no_system_call(fs: Instance) {
    let file = open(&fs, c"/f", NEW).unwrap();
    fs.write(&file, &[7; 8192], 0, false).unwrap();
    let status = in_child(|| {
        fs.fork_child();
        if !forbid_system_calls() {
            return 77;
        }
        let mut buf = [0; 5000];
        let good = fs.write(&file, &[8; 5000], 100, false).is_ok()
            && fs.read(&file, &mut buf, 100) == Ok(5000)
            && buf == [8; 5000];
        i32::from(!good)
    });
    if status == 77 {
        println!("skipped: seccomp filters are not to be had here");
        return;
    }
    assert_eq!(status, 0);
    // The filter does bite.
    let status = in_child(|| {
        forbid_system_calls();
        // SAFETY: asks for a number.
        i32::from(unsafe { libc::getppid() } < 0)
    });
    assert_eq!(status, 99);
    fs.close(file).unwrap();
}
