//! The mount as a program sees it that is not intercepted: an empty directory, and errors below it.

use std::fs;
use std::path::Path;

use super::super::abi;
use super::super::mount::Mount;
use super::super::shadow::Request;
use super::{REFUSED, errno};

super::tests![
    it_lists_as_an_empty_directory,
    names_are_neither_there_nor_absent,
    nothing_can_be_made_in_it,
    statfs_tells_its_type,
    it_can_be_left_by_dot_dot,
    nothing_stacks_on_it,
    who_watches_it_hears_nothing_of_shadows,
];

fn it_lists_as_an_empty_directory() {
    let mount = Mount::new();
    assert_eq!(fs::read_dir(mount.point()).expect("list").count(), 0);
    let metadata = fs::metadata(mount.point()).expect("stat");
    assert!(metadata.is_dir());
    let ls = std::process::Command::new("ls").arg("-la").arg(mount.point()).output().expect("run ls");
    assert!(ls.status.success(), "{ls:?}");
}

fn names_are_neither_there_nor_absent() {
    let mount = Mount::new();
    for name in ["x", "a/b", ".Trash", "x/"] {
        let path = mount.point().join(name);
        assert_eq!(errno(fs::metadata(&path)), REFUSED, "stat {name}");
        assert_eq!(errno(fs::File::open(&path)), REFUSED, "open {name}");
        assert_eq!(errno(fs::read_link(&path)), REFUSED, "readlink {name}");
    }
    // An open shadow of that very name does not change that.
    let _file = mount.shadow(&Request::file(1, "x"));
    let _dir = mount.shadow(&Request::dir(2, "d"));
    for name in ["x", "d", "d/"] {
        assert_eq!(errno(fs::metadata(mount.point().join(name))), REFUSED, "stat {name}");
    }
}

fn nothing_can_be_made_in_it() {
    let mount = Mount::new();
    let path = mount.point().join("new");
    assert_eq!(errno(fs::File::create(&path)), REFUSED);
    assert_eq!(errno(fs::create_dir(&path)), REFUSED);
    assert_eq!(errno(std::os::unix::fs::symlink("target", &path)), REFUSED);
    assert_eq!(errno(fs::remove_file(&path)), REFUSED);
    assert_eq!(errno(fs::remove_dir(&path)), REFUSED);
    assert_eq!(errno(fs::rename(&path, mount.point().join("other"))), REFUSED);
    assert_eq!(errno(fs::hard_link(Path::new("/bin/sh"), &path)), REFUSED);
    assert_eq!(
        errno(fs::set_permissions(mount.point(), fs::metadata("/").expect("stat").permissions())),
        REFUSED
    );
}

fn statfs_tells_its_type() {
    let mount = Mount::new();
    let info = rustix::fs::statfs(mount.point()).expect("statfs");
    assert_eq!(info.f_type as u64, abi::SUPER_MAGIC);
}

fn it_can_be_left_by_dot_dot() {
    let mount = Mount::new();
    let parent = fs::metadata(mount.point().join("..")).expect("stat ..");
    assert!(parent.is_dir());
    assert_eq!(errno(fs::metadata(mount.point().join("x/.."))), REFUSED);
}

fn nothing_stacks_on_it() {
    let mount = Mount::new();
    let point = super::super::mount::new_directory("overlay");
    let options = format!("lowerdir={}:/etc", mount.point().display());
    let status = std::process::Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay"])
        .arg(&point)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("run mount");
    assert!(!status.success(), "overlayfs took a defuse mount for a layer");
}

/// `fanotify` on the whole file system, with names: refused, or silent about shadows.
fn fanotify_watch(point: &Path) -> Option<std::fs::File> {
    use std::os::fd::FromRawFd;
    use std::os::unix::ffi::OsStrExt;
    let what = libc::FAN_REPORT_DFID_NAME | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
    // SAFETY: takes flags only.
    let fd = unsafe { libc::fanotify_init(what, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the FD is new and ours.
    let watch = unsafe { std::fs::File::from_raw_fd(fd) };
    let point = std::ffi::CString::new(point.as_os_str().as_bytes()).expect("no NUL in a path");
    let events =
        libc::FAN_OPEN | libc::FAN_CLOSE | libc::FAN_ATTRIB | libc::FAN_ONDIR | libc::FAN_EVENT_ON_CHILD;
    let how = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: the path is a terminated string.
    let marked = unsafe { libc::fanotify_mark(fd, how, events, libc::AT_FDCWD, point.as_ptr()) };
    (marked == 0).then_some(watch)
}

fn who_watches_it_hears_nothing_of_shadows() {
    use rustix::fs::inotify;
    use std::io::Read;
    let mount = Mount::new();
    let mut everywhere = fanotify_watch(mount.point());
    let watch =
        inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify_init1");
    inotify::add_watch(&watch, mount.point(), inotify::WatchFlags::ALL_EVENTS).expect("watch the root");
    for path in ["f", "a/deep/path", "long/".repeat(500).trim_end_matches('/')] {
        let file = mount.shadow(&Request::file(1, path));
        let _ = rustix::io::write(&file, b"x");
        drop(file);
        drop(mount.shadow(&Request::dir(2, path)));
    }
    let mut room = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut room);
    while let Ok(event) = reader.next() {
        assert!(event.file_name().is_none(), "inotify names {:?}", event.file_name());
    }
    if let Some(everywhere) = &mut everywhere {
        let mut events = [0; 4096];
        assert!(everywhere.read(&mut events).is_err(), "fanotify heard of a shadow");
    }
}
