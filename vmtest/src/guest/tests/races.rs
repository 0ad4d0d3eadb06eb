//! Everything at once, from every CPU. Worth most under the debug kernel, whose checkers then watch what meets what.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::mount::Mount;
use super::super::process::{Child, fork};
use super::super::shadow::{self, Request};

super::tests![opens_closes_and_names_meet_on_all_cpus: 240, mounts_come_and_go_on_all_cpus: 120];

/// Two children for each CPU, bound to it, each told its number.
fn on_each_cpu(body: impl Fn(u64)) {
    let all = sched_getaffinity(None).expect("ask for the CPUs");
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
    let bound: Vec<_> = cpus.iter().chain(&cpus).collect();
    let children: Vec<Child> = (0u64..)
        .zip(bound)
        .map(|(number, &cpu)| {
            let body = &body;
            fork(move || {
                let mut one = CpuSet::new();
                one.set(cpu);
                sched_setaffinity(None, &one).expect("stay on a CPU");
                body(number);
            })
        })
        .collect();
    for child in children {
        child.join();
    }
}

fn opens_closes_and_names_meet_on_all_cpus() {
    const ROUNDS: u64 = 1_000;
    let mount = Mount::new();
    on_each_cpu(|number| {
        for round in 0..ROUNDS {
            let token = number << 32 | round << 1;
            let key = round % 5;
            let file = mount.shadow(&Request::file(key, format!("dir/f{key}")).token(token));
            let dir = mount.shadow(&Request::dir(key, "dir").token(token | 1));
            refused(&mount, &dir, key);
            // Nobody else has this name for long, so both answers are right.
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            assert!(matches!(locked, Ok(()) | Err(Errno::WOULDBLOCK)), "{locked:?}");
            if round % 16 == 0 {
                let pages = shadow::cache(&file, 4096).expect("the pages");
                drop(file);
                assert_eq!(rustix::io::pwrite(&pages.fd, &[1], 0), Ok(1));
            } else {
                let copy = rustix::io::dup(&file).expect("dup");
                drop(file);
                assert_eq!(shadow::ident(&copy).expect("identify").0.token, token);
            }
            if round % 8 == 0 {
                rustix::process::fchdir(&dir).expect("enter it");
                drop(dir);
                let told = std::env::current_dir().expect("ask where this is");
                assert_eq!(told, mount.point().join("dir"));
                std::env::set_current_dir("/").expect("leave it");
            }
        }
    });
}

/// Whatever is asked of names, at the root and in a shadow of a directory, is refused.
fn refused(mount: &Mount, dir: impl AsFd, key: u64) {
    let (name, other) = (format!("f{key}"), format!("f{}", key + 1));
    let root = mount.root();
    let mode = Mode::RWXU;
    let answers = [
        rustix::fs::unlinkat(root, &*name, AtFlags::empty()),
        rustix::fs::unlinkat(root, "dir", AtFlags::REMOVEDIR),
        rustix::fs::renameat(root, &*name, root, &*other),
        rustix::fs::mkdirat(root, &*name, mode),
        rustix::fs::unlinkat(&dir, &*name, AtFlags::empty()),
        rustix::fs::renameat(&dir, &*name, &dir, &*other),
        rustix::fs::renameat(&dir, &*name, root, &*other),
        rustix::fs::linkat(&dir, &*name, root, &*other, AtFlags::empty()),
    ];
    assert!(answers.iter().all(|answer| *answer == Err(Errno::REMOTEIO)), "{answers:?}");
}

fn mounts_come_and_go_on_all_cpus() {
    on_each_cpu(|number| {
        for round in 0..40 {
            let mount = Mount::new();
            let files: Vec<_> = (0..8)
                .map(|ino| mount.shadow(&Request::file(ino, "a/b").token(number << 32 | ino)))
                .collect();
            let info = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
            assert!(info.contains(&mount.point().display().to_string()));
            if round % 2 == 0 {
                // Detached while in use; the last file ends it.
                let lazy = rustix::mount::UnmountFlags::DETACH;
                rustix::mount::unmount(mount.point(), lazy).expect("detach");
                assert_eq!(fs::read_dir(Path::new(mount.point())).expect("the folder below").count(), 0);
            }
            drop(files);
        }
    });
}
