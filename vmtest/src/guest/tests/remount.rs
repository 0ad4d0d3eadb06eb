//! Remount, and several mounts beside one another.

use rustix::mount::UnmountFlags;

use super::super::mount::Mount;
use super::super::process::fork;
use super::super::shadow::{self, Request};
use super::errno;
use super::locks::{record_lock, record_lock_holder};

super::tests![
    remount_changes_mode_and_owner,
    remount_keeps_backend_and_library,
    a_remount_that_names_the_same_values_is_accepted,
    mount_8_remounts_it,
    read_only_refuses_writers,
    writers_keep_it_from_becoming_read_only,
    mounts_are_apart,
    a_bind_mount_is_the_same_mount,
];

fn remount_changes_mode_and_owner() {
    let mount = Mount::new();
    mount.remount(0, "mode=0500,uid=3,gid=4").expect("remount");
    let stat = rustix::fs::fstat(mount.root()).expect("fstat");
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o500, 3, 4));
    mount.remount(0, "").expect("remount without options");
    let stat = rustix::fs::fstat(mount.root()).expect("fstat");
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o500, 3, 4));
}

fn remount_keeps_backend_and_library() {
    let mount = Mount::new();
    let before = mount.shown_options();
    assert_eq!(errno(mount.remount(0, "backend=/other")), libc::EINVAL);
    assert_eq!(errno(mount.remount(0, "library=/other.so")), libc::EINVAL);
    assert_eq!(errno(mount.remount(0, "options=other")), libc::EINVAL);
    assert_eq!(errno(mount.remount(0, "colour=red")), libc::EINVAL);
    assert_eq!(mount.shown_options(), before);
}

fn a_remount_that_names_the_same_values_is_accepted() {
    // As mount(8) does: it reads mountinfo, where one layer of escapes is gone.
    let mount = Mount::with(&[("backend", "a\\\\b\\040c"), ("library", "/x.so")]).expect("mount");
    mount.remount(0, r"backend=a\\b c,library=/x.so").expect("remount, escaped");
    mount.remount(0, r"backend=a\134b\040c,library=/x.so").expect("remount, from mountinfo");
}

fn mount_8_remounts_it() {
    for backend in ["/a b", "/plain", "tab\there", "a\\\\b"] {
        let mount =
            Mount::with(&[("backend", backend), ("library", "/x.so"), ("mode", "0711")]).expect("mount");
        let before = mount.shown_options();
        let status = std::process::Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(mount.point())
            .status()
            .expect("run mount(8)");
        assert!(status.success(), "remount of {before}");
        assert_eq!(mount.shown_options(), before.replacen("rw,", "ro,", 1));
    }
}

fn read_only_refuses_writers() {
    let mount = Mount::new();
    mount.remount(libc::MS_RDONLY, "").expect("remount read-only");
    assert!(mount.shown_options().starts_with("ro,"));
    assert_eq!(errno(mount.open(&Request::file(1, "f"))), libc::EROFS);
    mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    mount.remount(0, "").expect("remount read-write");
    mount.shadow(&Request::file(1, "f"));
}

fn writers_keep_it_from_becoming_read_only() {
    let mount = Mount::new();
    let writer = mount.shadow(&Request::file(1, "f").flags(libc::O_WRONLY));
    assert_eq!(errno(mount.remount(libc::MS_RDONLY, "")), libc::EBUSY);
    drop(writer);
    mount.remount(libc::MS_RDONLY, "").expect("remount once the writer is gone");
}

fn mounts_are_apart() {
    let (one, other) = (Mount::new(), Mount::new());
    let first = one.shadow(&Request::file(5, "same"));
    let second = other.shadow(&Request::file(5, "same").token(77));
    let (ident, _) = shadow::ident(&first).expect("identify");
    let (its_ident, _) = shadow::ident(&second).expect("identify");
    assert_ne!(ident.mount, its_ident.mount);

    record_lock(&first, libc::F_WRLCK).expect("lock on one mount");
    fork(|| assert_eq!(record_lock_holder(&second), None)).join();
    fork(|| assert!(record_lock_holder(&first).is_some())).join();

    assert_eq!(shadow::live(one.root(), one.user(), &[77]).expect("live").0, [false]);
    assert_eq!(shadow::live(other.root(), other.user(), &[77]).expect("live").0, [true]);
}

fn a_bind_mount_is_the_same_mount() {
    let mount = Mount::new();
    let point = super::super::mount::new_directory("bind");
    rustix::mount::mount_bind(mount.point(), &point).expect("bind");
    let bound = Mount::at(point);
    let first = mount.shadow(&Request::file(5, "f"));
    let second = bound.shadow(&Request::file(5, "f"));
    assert_eq!(
        shadow::ident(&first).expect("identify").0.mount,
        shadow::ident(&second).expect("identify").0.mount
    );
    record_lock(&first, libc::F_WRLCK).expect("lock");
    fork(|| assert!(record_lock_holder(&second).is_some())).join();
    let shown = super::identity::proc_path(&second);
    assert_eq!(shown, bound.point().join("f"));
    drop(second);
    let mut bound = bound;
    bound.let_root_go();
    bound.unmount(UnmountFlags::empty()).expect("unmount the bind mount alone");
}
