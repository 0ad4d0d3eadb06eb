//! Shadow directories: a place to stand in and to start from, not one to walk.

use std::fs;
use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::super::mount::Mount;
use super::super::process::fork;
use super::super::shadow::Request;
use super::{REFUSED, errno};

super::tests![
    a_process_can_stand_in_it,
    a_child_program_starts_in_it,
    no_walk_begins_in_it,
    absolute_paths_work_from_it,
    standing_in_it_keeps_the_mount_busy,
    it_does_not_list,
];

fn a_process_can_stand_in_it() {
    let mount = Mount::new();
    for (ino, path) in ["d", "some/deep/directory", "ü b"].iter().enumerate() {
        let dir = mount.shadow(&Request::dir(ino as u64, path));
        fork(|| {
            rustix::process::fchdir(&dir).expect("fchdir");
            drop(dir);
            let expected = mount.point().join(path);
            assert_eq!(std::env::current_dir().expect("getcwd"), expected);
            assert_eq!(fs::read_link("/proc/self/cwd").expect("readlink"), expected);
        })
        .join();
    }
}

fn a_child_program_starts_in_it() {
    let mount = Mount::new();
    let dir = mount.shadow(&Request::dir(1, "work/here"));
    rustix::process::fchdir(&dir).expect("fchdir");
    let output = std::process::Command::new("/bin/pwd").arg("-P").output();
    rustix::process::chdir("/").expect("leave");
    // pwd -P stats "." before it believes getcwd, or does not: both are fine, a wrong path is not.
    let output = output.expect("run pwd");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        assert_eq!(shown.trim_end(), mount.point().join("work/here").to_str().expect("a plain path"));
    } else {
        assert!(shown.is_empty(), "{output:?}");
    }
}

fn no_walk_begins_in_it() {
    let mount = Mount::new();
    let dir = mount.shadow(&Request::dir(1, "d"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    for path in ["x", ".", "..", "../x", "./x"] {
        let opened = rustix::fs::openat(&dir, path, flags, Mode::empty());
        assert_eq!(errno(opened.map_err(Into::into)), REFUSED, "openat {path}");
        let made = rustix::fs::mkdirat(&dir, path, Mode::RWXU);
        assert_eq!(errno(made.map_err(Into::into)), REFUSED, "mkdirat {path}");
    }
    fork(|| {
        rustix::process::fchdir(&dir).expect("fchdir");
        for path in [".", "..", "x", "../.."] {
            assert_eq!(errno(fs::metadata(path)), REFUSED, "stat {path}");
            assert_eq!(errno(std::env::set_current_dir(path)), REFUSED, "chdir {path}");
        }
        assert_eq!(errno(fs::read_dir(".")), REFUSED);
        assert_eq!(errno(fs::File::create("new")), REFUSED);
    })
    .join();
}

fn absolute_paths_work_from_it() {
    let mount = Mount::new();
    let dir = mount.shadow(&Request::dir(1, "d"));
    fork(|| {
        rustix::process::fchdir(&dir).expect("fchdir");
        assert!(fs::metadata("/proc/self/status").expect("stat").is_file());
        let status = rustix::fs::openat(&dir, "/proc/self/status", OFlags::RDONLY, Mode::empty());
        status.expect("an absolute path with the directory's FD");
        std::env::set_current_dir("/").expect("leave");
    })
    .join();
}

fn standing_in_it_keeps_the_mount_busy() {
    let mut mount = Mount::new();
    let dir = mount.shadow(&Request::dir(1, "d"));
    rustix::process::fchdir(&dir).expect("fchdir");
    drop(dir);
    mount.let_root_go();
    assert_eq!(mount.unmount(UnmountFlags::empty()), Err(rustix::io::Errno::BUSY));
    rustix::process::chdir("/").expect("leave");
    mount.unmount(UnmountFlags::empty()).expect("unmount");
}

fn it_does_not_list() {
    let mount = Mount::new();
    for dir in [Request::dir(1, "d"), Request::dir(2, "")] {
        let dir = mount.shadow(&dir);
        let mut buffer = [0u8; 1024];
        // SAFETY: the buffer is as long as said.
        let result = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        let error = std::io::Error::last_os_error();
        assert_eq!((result, error.raw_os_error()), (-1, Some(REFUSED)));
    }
}
