//! What an FD is: its path in /proc, and what the ioctl tells a process that never saw it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use super::super::abi::{self, Ident};
use super::super::mount::Mount;
use super::super::process::{become_user, fork, receive_fd, send_fd, socket_pair};
use super::super::shadow::{self, Request};
use super::errno;

super::tests![
    proc_shows_the_path_whatever_its_depth,
    an_fd_tells_key_token_path_mount_and_flags,
    an_fd_that_was_passed_tells_the_same,
    the_path_is_cut_to_the_room,
    requests_that_make_no_sense_are_refused,
    a_token_names_one_description,
    users_have_tokens_of_their_own,
    an_open_tells_who_opened,
    the_root_opens_with_a_description,
    a_shadow_opens_another,
    the_mode_of_the_root_decides_who_opens,
    other_files_know_no_such_ioctl,
];

/// What `/proc/self/fd/N` reads as.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).expect("readlink in /proc")
}

fn proc_shows_the_path_whatever_its_depth() {
    let mount = Mount::new();
    let component = "x".repeat(255);
    let long = vec![component.as_str(); 15].join("/");
    let deep = vec!["d"; 1000].join("/");
    for (ino, path) in ["f", "dir/file", "a b\tc\nd", "ü/文件", "..x/.y", &long, &deep].iter().enumerate()
    {
        let file = mount.shadow(&Request::file(ino as u64, path));
        assert_eq!(proc_path(&file), mount.point().join(path));
        let dir = mount.shadow(&Request::dir(ino as u64, path));
        assert_eq!(proc_path(&dir), mount.point().join(path));
        assert_eq!(shadow::ident(&file).expect("identify").1, path.as_bytes());
    }
    // Two of one path, two of one key: each keeps its own.
    let one = mount.shadow(&Request::file(1, "old/name"));
    let other = mount.shadow(&Request::file(1, "new/name"));
    assert_eq!(proc_path(&one), mount.point().join("old/name"));
    assert_eq!(proc_path(&other), mount.point().join("new/name"));
}

fn an_fd_tells_key_token_path_mount_and_flags() {
    let mount = Mount::new();
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_SYNC;
    let request = Request::file(u64::MAX, "dir/file").dev(u64::MAX - 1).token(u64::MAX - 2).flags(flags);
    let file = mount.shadow(&request);
    let (ident, path) = shadow::ident(&file).expect("identify");
    assert_eq!((ident.dev, ident.ino, ident.token), (u64::MAX - 1, u64::MAX, u64::MAX - 2));
    assert_eq!((ident.kind, shadow::opener(&file)), (abi::KIND_FILE, mount.user()));
    assert_eq!(path, b"dir/file");
    assert_eq!(ident.mount, shadow::mount_info(mount.root()).expect("mount info").0.mount);
    let status = rustix::fs::fcntl_getfl(&file).expect("F_GETFL").bits() as i32;
    assert_eq!(ident.open_flags as i32, status);
    let kept = libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_SYNC;
    assert_eq!(status & kept, flags);

    let dir = mount.shadow(&Request::dir(3, "dir"));
    assert_eq!(shadow::ident(&dir).expect("identify").0.kind, abi::KIND_DIR);
    let (root, path) = shadow::ident(mount.root()).expect("identify the root");
    assert_eq!((root.kind, root.token, path.len()), (abi::KIND_ROOT, 0, 0));
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).expect("fdinfo");
    assert!(info.contains(&format!("defuse-token:\t{}", u64::MAX - 2)), "{info}");
}

fn an_fd_that_was_passed_tells_the_same() {
    let mount = Mount::new();
    let (here, there) = socket_pair();
    let child = fork(|| {
        let file = mount.shadow(&Request::file(9, "p/q").token(4711));
        send_fd(&here, &file);
    });
    let file = receive_fd(&there);
    child.join();
    let (ident, path) = shadow::ident(&file).expect("identify");
    assert_eq!((ident.ino, ident.token, path.as_slice()), (9, 4711, &b"p/q"[..]));
}

fn the_path_is_cut_to_the_room() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "dir/file"));
    let mut room = [0xEEu8; 8];
    let mut raw = Ident { path: room.as_mut_ptr() as u64, path_len: 5, ..Ident::default() };
    shadow::ioctl(file.as_fd(), abi::IOC_IDENT, &raw mut raw).expect("identify");
    assert_eq!((raw.path_len, &room), (8, b"dir/f\xEE\xEE\xEE"));
    let mut raw = Ident::default();
    shadow::ioctl(file.as_fd(), abi::IOC_IDENT, &raw mut raw).expect("identify without room");
    assert_eq!(raw.path_len, 8);
}

fn requests_that_make_no_sense_are_refused() {
    let mount = Mount::new();
    let file = |path: &str| Request::file(1, path);
    let over_long = "y".repeat(256);
    let too_long = vec!["d"; 2048].join("/");
    let cases = [
        (file(""), libc::EINVAL),
        (file("/abs"), libc::EINVAL),
        (file("a//b"), libc::EINVAL),
        (file("a/"), libc::EINVAL),
        (file("."), libc::EINVAL),
        (file("a/../b"), libc::EINVAL),
        (file("a\0b"), libc::EINVAL),
        (file(&over_long), libc::EINVAL),
        (file(&too_long), libc::EINVAL),
        (file("f").flags(libc::O_PATH), libc::EINVAL),
        (file("f").flags(libc::O_ACCMODE), libc::EINVAL),
        (file("f").flags(libc::O_TMPFILE), libc::EINVAL),
        (file("f").flags(1 << 30), libc::EINVAL),
        (file("f").flags(libc::O_DIRECTORY), libc::ENOTDIR),
        (Request::dir(1, "d").flags(libc::O_RDWR), libc::EISDIR),
        (Request::dir(1, "d").flags(libc::O_WRONLY), libc::EISDIR),
    ];
    for (request, expected) in cases {
        assert_eq!(errno(mount.open(&request)), expected, "{request:?}");
    }
    let mut unknown = file("f");
    unknown.raw().flags = 0x80;
    assert_eq!(errno(mount.open(&unknown)), libc::EINVAL);
    let mut bad_pointer = file("f");
    bad_pointer.raw().path = 8;
    bad_pointer.raw().path_len = 3;
    assert_eq!(errno(mount.open(&bad_pointer)), libc::EFAULT);
    // Flags that open(2) takes and the kernel does not keep are no reason to refuse.
    let flags =
        libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_RDWR;
    mount.shadow(&file("f").flags(flags));
}

fn a_token_names_one_description() {
    let mount = Mount::new();
    let first = mount.shadow(&Request::file(1, "f").token(5));
    assert_eq!(errno(mount.open(&Request::file(2, "g").token(5))), libc::EEXIST);
    drop(first);
    mount.shadow(&Request::file(2, "g").token(5));
}

fn users_have_tokens_of_their_own() {
    let mount = Mount::new();
    let root = mount.user();
    let _first = mount.shadow(&Request::file(1, "f").token(5));
    fork(|| {
        become_user(1000);
        let mine = mount.shadow(&Request::file(1, "f").token(5));
        let me = mount.user();
        assert_ne!(me, root);
        assert_eq!(shadow::opener(&mine), me);
        assert_eq!(shadow::live(mount.root(), me, &[5, 6]).expect("live").0, [true, false]);
        drop(mine);
        assert_eq!(shadow::live(mount.root(), me, &[5]).expect("live").0, [false]);
        assert_eq!(shadow::live(mount.root(), root, &[5]).expect("live").0, [true]);
    })
    .join();
}

fn an_open_tells_who_opened() {
    let mount = Mount::new();
    fork(|| {
        become_user(1000);
        let mut user = 0u64;
        let mut request = Request::file(1, "f").token(5);
        request.raw().user = &raw mut user as u64;
        let file = mount.shadow(&request);
        let user = shadow::User(user);
        assert_eq!((user, shadow::opener(&file)), (mount.user(), mount.user()));
        request.raw().user = 8;
        assert_eq!(errno(mount.open(&request.token(6))), libc::EFAULT);
        assert_eq!(shadow::live(mount.root(), user, &[5, 6]).expect("live").0, [true, false]);
    })
    .join();
}

fn the_root_opens_with_a_description() {
    let mount = Mount::new();
    let root = mount.shadow(&Request::dir(2, "").token(8));
    assert_eq!(proc_path(&root), mount.point());
    let (ident, path) = shadow::ident(&root).expect("identify");
    assert_eq!((ident.kind, ident.ino, ident.token, path.len()), (abi::KIND_DIR, 2, 8, 0));
    assert_eq!(shadow::live(mount.root(), mount.user(), &[8]).expect("live").0, [true]);
    drop(root);
    assert_eq!(shadow::live(mount.root(), mount.user(), &[8]).expect("live").0, [false]);
}

fn a_shadow_opens_another() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let other = shadow::open(&file, &Request::file(2, "g")).expect("open through a shadow");
    assert_eq!(proc_path(&other), mount.point().join("g"));
}

fn the_mode_of_the_root_decides_who_opens() {
    let mount = Mount::with(&[("backend", "b"), ("library", "/l.so"), ("mode", "0710"), ("gid", "1000")])
        .expect("mount");
    fork(|| {
        become_user(1000);
        mount.shadow(&Request::file(1, "f"));
    })
    .join();
    fork(|| {
        become_user(1001);
        assert_eq!(errno(mount.open(&Request::file(1, "f"))), libc::EACCES);
    })
    .join();
}

fn other_files_know_no_such_ioctl() {
    let null = fs::File::open("/dev/null").expect("open /dev/null");
    let tmpfs = fs::File::open("/run").expect("open /run");
    for file in [null, tmpfs] {
        assert_eq!(errno(shadow::ident(&file)), libc::ENOTTY);
    }
}
