//! Many shadows: in a row, at once, from several processes, and who pays for them.

use std::fs;

use super::super::mount::Mount;
use super::super::process::fork;
use super::super::shadow::{self, Request};
use super::super::{module, runner};

super::tests![
    opens_and_closes_leave_nothing: 300,
    ten_thousand_are_open_at_once: 120,
    processes_open_and_close_together: 180,
    mappings_come_and_go_together: 180,
    their_memory_is_charged: 120,
];

fn raise_fd_limit(to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: the structure lives across the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0, "raise RLIMIT_NOFILE as root");
}

/// Dentries in memory, used or not.
fn dentries() -> u64 {
    runner::settle();
    let state = fs::read_to_string("/proc/sys/fs/dentry-state").expect("read dentry-state");
    state.split_whitespace().next().and_then(|field| field.parse().ok()).expect("a number")
}

/// Objects of a slab cache once those that were freed are gone.
fn objects(cache: &str) -> u64 {
    settled(cache, 0)
}

/// As [`objects`], content with `enough`.
fn settled(cache: &str, enough: u64) -> u64 {
    let mut last = u64::MAX;
    for _ in 0..50 {
        runner::settle();
        last = module::slab_objects(cache);
        if last <= enough {
            break;
        }
    }
    last
}

fn opens_and_closes_leave_nothing() {
    const ROUNDS: u64 = 100_000;
    let mount = Mount::new();
    let before = dentries();
    for round in 0..ROUNDS {
        let path = format!("dir{}/file{round}", round % 7);
        drop(mount.shadow(&Request::file(round, path).token(round)));
    }
    let after = dentries();
    assert_eq!(objects("defuse_desc"), 0);
    // The mount's root is the one inode in use; the others are freed after a grace period.
    assert!(settled("defuse_inode", 63) < 64);
    assert!(after < before + 1000, "{} dentries were left", after - before);
    assert_eq!(shadow::live(mount.root(), mount.user(), &[]).expect("live").1, ROUNDS);
}

fn ten_thousand_are_open_at_once() {
    const COUNT: u64 = 10_000;
    raise_fd_limit(COUNT + 100);
    let mount = Mount::new();
    // Half of them one file: many of one path and key must not slow each other down.
    let files: Vec<_> = (0..COUNT)
        .map(|n| mount.shadow(&Request::file(if n % 2 == 0 { 1 } else { n }, "one/path").token(n)))
        .collect();
    let tokens: Vec<u64> = (0..COUNT + 10).collect();
    let (alive, _) = shadow::live(mount.root(), mount.user(), &tokens).expect("live");
    assert_eq!(alive.iter().filter(|alive| **alive).count() as u64, COUNT);
    for (n, file) in files.iter().enumerate() {
        assert_eq!(shadow::ident(file).expect("identify").0.token, n as u64);
    }
    drop(files);
    assert!(shadow::live(mount.root(), mount.user(), &tokens).expect("live").0.iter().all(|alive| !alive));
}

fn processes_open_and_close_together() {
    let mount = Mount::new();
    let user = mount.user();
    let children: Vec<_> = (0..4u64)
        .map(|process| {
            let mount = &mount;
            fork(move || {
                for round in 0..5_000u64 {
                    let token = process << 32 | round;
                    let key = round % 3;
                    let one = mount.shadow(&Request::file(key, "a/b").token(token));
                    let dir = mount.shadow(&Request::dir(key, "a").token(token | 1 << 40));
                    assert_eq!(shadow::ident(&one).expect("identify").0.token, token);
                    assert!(shadow::live(&dir, user, &[token]).expect("live").0[0]);
                    drop(one);
                    assert!(!shadow::live(&dir, user, &[token]).expect("live").0[0]);
                }
            })
        })
        .collect();
    for child in children {
        child.join();
    }
    assert_eq!(shadow::live(mount.root(), mount.user(), &[]).expect("live").1, 40_000);
}

fn mappings_come_and_go_together() {
    let mount = Mount::new();
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mount = &mount;
            fork(move || {
                for round in 0..3_000u64 {
                    let file = mount.shadow(&Request::file(round % 2, "f"));
                    let memory = shadow::cache(&file, 4096).expect("cache");
                    drop(file);
                    assert_eq!(rustix::io::pwrite(&memory.fd, &[1], 0), Ok(1));
                }
            })
        })
        .collect();
    for child in children {
        child.join();
    }
}

/// Kernel memory of a control group, in bytes.
fn charged(group: &str) -> u64 {
    let stat = fs::read_to_string(format!("{group}/memory.stat")).expect("read memory.stat");
    ["slab_reclaimable ", "slab_unreclaimable "]
        .iter()
        .filter_map(|key| stat.lines().find_map(|line| line.strip_prefix(key)))
        .map(|value| value.parse::<u64>().expect("a number"))
        .sum()
}

fn their_memory_is_charged() {
    const COUNT: u64 = 2_000;
    let root = "/sys/fs/cgroup";
    let _ = fs::write(format!("{root}/cgroup.subtree_control"), "+memory");
    let group = format!("{root}/vmtest-{}", std::process::id());
    fs::create_dir(&group).expect("make a control group");
    if fs::metadata(format!("{group}/memory.stat")).is_err() {
        fs::remove_dir(&group).expect("remove the control group");
        println!("skipped: no memory controller");
        return;
    }
    raise_fd_limit(COUNT + 100);
    let mount = Mount::new();
    fork(|| {
        fs::write(format!("{group}/cgroup.procs"), std::process::id().to_string()).expect("enter the group");
        let before = charged(&group);
        let long = vec!["x".repeat(200); 20].join("/");
        let _files: Vec<_> = (0..COUNT).map(|ino| mount.shadow(&Request::file(ino, &long))).collect();
        let grown = charged(&group) - before;
        assert!(grown > COUNT * 4096, "only {grown} bytes were charged for {COUNT} shadows");
    })
    .join();
    fs::remove_dir(&group).expect("remove the control group");
}
