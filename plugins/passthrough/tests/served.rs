//! The plugin as a shared library, loaded as the host loads it.

use plugin_abi::{CStr, Errno, Handle, Host, Instance, MountPath, Open, Plugin, Saved, SetAttr};
use rstest::{fixture, rstest};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

struct Mount {
    fs: Instance,
    dir: tempfile::TempDir,
}

impl Mount {
    fn new(options: &CStr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        let fs = library().instantiate(c"/mnt", &backend, options, Host::STDERR).unwrap();
        Self { fs, dir }
    }

    fn real(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &CStr, flags: i32) -> Result<Handle, Errno> {
        match self.fs.open(path(name), flags, 0o644)? {
            Open::Served { handle, .. } => Ok(handle),
            Open::Native { .. } => panic!("{name:?} was handed over"),
        }
    }
}

fn library() -> Plugin {
    let deps = std::env::current_exe().unwrap();
    Plugin::load(&deps.with_file_name("libpassthrough.so")).unwrap()
}

#[fixture]
fn mount() -> Mount {
    Mount::new(c"")
}

fn path(name: &CStr) -> &MountPath {
    MountPath::new(name).unwrap()
}

#[rstest]
fn a_file_is_written_read_and_kept_after_unlink(mount: Mount) {
    mount.fs.mkdir(path(c"/d"), 0o755).unwrap();
    let file = mount.open(c"/d/f", libc::O_CREAT | libc::O_EXCL | libc::O_RDWR).unwrap();
    assert_eq!(mount.fs.write(&file, b"hello world", 0, false).unwrap().end, 11);
    assert_eq!(std::fs::read(mount.real("d/f")).unwrap(), b"hello world");
    mount.fs.unlink(path(c"/d/f")).unwrap();
    let mut buf = [0; 64];
    assert_eq!(mount.fs.read(&file, &mut buf, 6), Ok(5));
    assert_eq!(&buf[..5], b"world");
    assert_eq!(mount.fs.fgetattr(&file).unwrap().st_nlink, 0);
    mount.fs.close(file).unwrap();
}

#[rstest]
fn appends_go_to_the_end_and_say_where_they_ended(mount: Mount) {
    std::fs::write(mount.real("f"), "12345").unwrap();
    let file = mount.open(c"/f", libc::O_WRONLY | libc::O_APPEND).unwrap();
    assert_eq!(mount.fs.write(&file, b"678", 0, true).unwrap().end, 8);
    assert_eq!(mount.fs.write(&file, b"", 3, true).unwrap().count, 0);
    // The flag of open must not bend a positional write.
    assert_eq!(mount.fs.write(&file, b"X", 0, false).unwrap().end, 1);
    assert_eq!(std::fs::read(mount.real("f")).unwrap(), b"X2345678");
    mount.fs.close(file).unwrap();
}

#[rstest]
fn no_symbolic_link_is_followed(mount: Mount) {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("f"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), mount.real("out")).unwrap();
    std::os::unix::fs::symlink("nowhere", mount.real("last")).unwrap();
    std::fs::create_dir(mount.real("d")).unwrap();
    std::os::unix::fs::symlink(outside.path(), mount.real("d/out")).unwrap();
    let fs = &mount.fs;
    for middle in [c"/out/f", c"/d/out/f", c"/d/out/new"] {
        let middle = path(middle);
        let eloop = Err(Errno::ELOOP);
        assert_eq!(fs.getattr(middle).map(|_| ()), eloop);
        assert_eq!(fs.open(middle, libc::O_RDWR | libc::O_CREAT, 0o600).map(|_| ()), eloop);
        assert_eq!(fs.setattr(middle, &SetAttr { size: Some(0), ..SetAttr::default() }), eloop);
        assert_eq!(fs.setattr(middle, &SetAttr { mode: Some(0), ..SetAttr::default() }), eloop);
        assert_eq!(fs.mkdir(middle, 0o700), eloop);
        assert_eq!(fs.rmdir(middle), eloop);
        assert_eq!(fs.unlink(middle), eloop);
        assert_eq!(fs.rename(middle, path(c"/x"), 0), eloop);
        assert_eq!(fs.rename(path(c"/last"), middle, 0), eloop);
        assert_eq!(fs.link(middle, path(c"/x")), eloop);
        assert_eq!(fs.link(path(c"/last"), middle), eloop);
        assert_eq!(fs.symlink(c"t", middle), eloop);
        assert_eq!(fs.mknod(middle, libc::S_IFREG | 0o600, 0), eloop);
        assert_eq!(fs.readlink(middle, &mut [0; 9]).map(|_| ()), eloop);
        assert_eq!(fs.access(middle, libc::R_OK, 0), eloop);
        assert_eq!(fs.access(middle, libc::R_OK, libc::AT_SYMLINK_NOFOLLOW), eloop);
        assert_eq!(fs.statfs(middle).map(|_| ()), eloop);
        assert_eq!(fs.getxattr(middle, c"user.a", &mut []).map(|_| ()), eloop);
        assert_eq!(fs.setxattr(middle, c"user.a", b"v", 0), eloop);
        assert_eq!(fs.listxattr(middle, &mut []).map(|_| ()), eloop);
        assert_eq!(fs.removexattr(middle, c"user.a"), eloop);
    }
    for flags in [libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT, libc::O_RDONLY | libc::O_DIRECTORY] {
        assert_eq!(fs.open(path(c"/last"), flags, 0o600).map(|_| ()), Err(Errno::ELOOP), "{flags:#o}");
    }
    let last = path(c"/last");
    assert_eq!(fs.getattr(last).unwrap().st_mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(
        fs.setattr(last, &SetAttr { mode: Some(0o600), ..SetAttr::default() }),
        Err(Errno::EOPNOTSUPP)
    );
    let mut target = [0; 4];
    assert_eq!(fs.readlink(last, &mut target), Ok(4));
    assert_eq!(&target, b"nowh");
    let link = mount.open(c"/last", libc::O_PATH).unwrap();
    assert_eq!(fs.fgetattr(&link).unwrap().st_mode & libc::S_IFMT, libc::S_IFLNK);
    fs.close(link).unwrap();
    assert_eq!(std::fs::read(outside.path().join("f")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[rstest]
fn attributes_change_at_any_depth(mount: Mount) {
    std::fs::create_dir_all(mount.real("a/b")).unwrap();
    std::fs::write(mount.real("a/b/f"), "0123456789").unwrap();
    let at = libc::timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
    let attr = SetAttr {
        mode: Some(0o751),
        size: Some(4),
        atime: Some(plugin_abi::SetTime::Now),
        mtime: Some(plugin_abi::SetTime::At(at)),
        ..SetAttr::default()
    };
    mount.fs.setattr(path(c"/a/b/f"), &attr).unwrap();
    let metadata = std::fs::metadata(mount.real("a/b/f")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (4, 0o751));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 7));
    assert!(metadata.atime() > 1_500_000_000);
    let file = mount.open(c"/a/b/f", libc::O_WRONLY).unwrap();
    mount.fs.fsetattr(&file, &SetAttr { size: Some(9), mode: Some(0o600), ..SetAttr::default() }).unwrap();
    let st = mount.fs.fgetattr(&file).unwrap();
    assert_eq!((st.st_size, st.st_mode & 0o7777), (9, 0o600));
    mount.fs.close(file).unwrap();
}

#[rstest]
fn a_directory_is_listed_from_any_cookie(mount: Mount) {
    for number in 0..50 {
        std::fs::write(mount.real(&format!("f{number:02}")), "").unwrap();
    }
    let dir = mount.open(c"/", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
    let list = |from: u64, most: usize| {
        let mut entries = Vec::new();
        mount
            .fs
            .readdir(&dir, from, &mut |entry| {
                entries.push((entry.name.to_vec(), entry.next_cookie));
                entries.len() == most
            })
            .unwrap();
        entries
    };
    let all = list(0, usize::MAX);
    assert_eq!(all.len(), 52);
    assert_eq!(all.iter().filter(|(name, _)| matches!(name.as_slice(), b"." | b"..")).count(), 2);
    for (at, (_, cookie)) in all.iter().enumerate() {
        assert_eq!(list(*cookie, 3), all[at + 1..].iter().take(3).cloned().collect::<Vec<_>>());
    }
    mount.fs.close(dir).unwrap();
}

#[rstest]
fn a_fifo_is_handed_over(mount: Mount) {
    mount.fs.mknod(path(c"/fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    assert!(std::fs::metadata(mount.real("fifo")).unwrap().file_type().is_fifo());
    let opened = mount.fs.open(path(c"/fifo"), libc::O_RDWR | libc::O_NONBLOCK, 0).unwrap();
    assert!(matches!(opened, Open::Native { mode_type: libc::S_IFIFO, .. }));
}

#[rstest]
#[case(c"backing-fd", true)]
#[case(c"backing-fd=on", true)]
#[case(c"backing-fd=off", false)]
#[case(c"", false)]
fn backing_fd_hands_files_over(#[case] options: &CStr, #[case] expected: bool) {
    let mount = Mount::new(options);
    let flags = libc::O_CREAT | libc::O_RDWR | libc::O_APPEND;
    let (native, status) = match mount.fs.open(path(c"/f"), flags, 0o644).unwrap() {
        Open::Native { fd, .. } => (true, rustix::fs::fcntl_getfl(&fd).unwrap()),
        Open::Served { handle, backing_fd, .. } => {
            assert!(backing_fd.is_some());
            mount.fs.close(handle).unwrap();
            (false, rustix::fs::OFlags::APPEND)
        }
    };
    assert_eq!(native, expected);
    assert!(status.contains(rustix::fs::OFlags::APPEND));
    let root = mount.open(c"/", libc::O_RDONLY).unwrap();
    mount.fs.close(root).unwrap();
}

/// Descriptors are closed by exec if that was asked, whether handed over or kept.
#[rstest]
fn close_on_exec_is_as_asked(
    #[values(c"", c"backing-fd")] options: &CStr,
    #[values(c"/f", c"/fifo", c"/")] name: &CStr,
    #[values(libc::O_RDWR, libc::O_RDONLY)] flags: i32,
    #[values(0, libc::O_CLOEXEC)] cloexec: i32,
) {
    let mount = Mount::new(options);
    std::fs::write(mount.real("f"), "").unwrap();
    mount.fs.mknod(path(c"/fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    let opened = mount.fs.open(path(name), flags | cloexec | libc::O_NONBLOCK, 0);
    if name == c"/" && flags == libc::O_RDWR {
        assert_eq!(opened.map(|_| ()), Err(Errno::EISDIR));
        return;
    }
    let is_cloexec = |fd: std::os::fd::BorrowedFd<'_>| {
        rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
    };
    match opened.unwrap() {
        Open::Native { fd, .. } => {
            assert!(name == c"/fifo" || (name == c"/f" && options == c"backing-fd"));
            assert_eq!(is_cloexec(fd.as_fd()), cloexec != 0);
        }
        Open::Served { handle, .. } => {
            assert!(name == c"/" || (name == c"/f" && options == c""));
            let kind = mount.fs.fgetattr(&handle).unwrap().st_mode & libc::S_IFMT;
            assert_eq!(kind, if name == c"/" { libc::S_IFDIR } else { libc::S_IFREG });
            let backing = mount.fs.backing_fd(&handle, plugin_abi::Purpose::Map).unwrap();
            assert_eq!(is_cloexec(backing), cloexec != 0);
            mount.fs.close(handle).unwrap();
        }
    }
}

#[rstest]
fn a_handle_survives_save_and_restore_under_another_number(mount: Mount) {
    let file = mount.open(c"/f", libc::O_CREAT | libc::O_RDWR).unwrap();
    mount.fs.write(&file, b"kept", 0, false).unwrap();
    mount.fs.unlink(path(c"/f")).unwrap();
    let (mut blob, mut keep, mut saved) = ([0; 64], [-1; 4], Saved::default());
    assert_eq!(mount.fs.save(&file, &mut [], &mut keep, &mut saved), Err(Errno::ERANGE));
    assert!(saved.len > 0 && saved.kept == 1);
    mount.fs.save(&file, &mut blob, &mut keep, &mut saved).unwrap();
    // SAFETY: the number of the handle's open descriptor.
    let kept = rustix::io::dup(unsafe { std::os::fd::BorrowedFd::borrow_raw(keep[0]) }).unwrap();
    mount.fs.close(file).unwrap();
    // Not what `save` writes for this descriptor: it is another one.
    assert_eq!(mount.fs.restore(b"nonsense", &[kept.as_raw_fd()]).map(|_| ()), Err(Errno::ESTALE));
    assert_eq!(mount.fs.restore(&blob[..saved.len], &[]).map(|_| ()), Err(Errno::EINVAL));
    let Open::Served { handle, mode_type, .. } =
        mount.fs.restore(&blob[..saved.len], &[kept.into_raw_fd()]).unwrap()
    else {
        panic!("restored as native")
    };
    assert_eq!(mode_type, libc::S_IFREG);
    let mut buf = [0; 8];
    assert_eq!(mount.fs.read(&handle, &mut buf, 0), Ok(4));
    mount.fs.close(handle).unwrap();
}

#[rstest]
fn a_handle_follows_its_descriptor(mount: Mount) {
    let mut file = mount.open(c"/f", libc::O_CREAT | libc::O_RDWR).unwrap();
    mount.fs.write(&file, b"moved", 0, false).unwrap();
    let old = mount.fs.backing_fd(&file, plugin_abi::Purpose::Map).unwrap().as_raw_fd();
    // SAFETY: the handle's descriptor, open.
    let new =
        rustix::io::fcntl_dupfd_cloexec(unsafe { std::os::fd::BorrowedFd::borrow_raw(old) }, 500).unwrap();
    let new = new.into_raw_fd();
    mount.fs.move_fd(&mut file, new).unwrap();
    // SAFETY: the handle gave this number up.
    unsafe { rustix::io::try_close(old).unwrap() };
    let mut buf = [0; 8];
    assert_eq!(mount.fs.read(&file, &mut buf, 0), Ok(5));
    mount.fs.close(file).unwrap();
    // SAFETY: only asks whether the number is open.
    assert!(rustix::io::fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(new) }).is_err());
}

#[rstest]
fn a_nameless_file_gets_a_name(mount: Mount) {
    let opened = mount.fs.open(path(c"/"), libc::O_TMPFILE | libc::O_RDWR, 0o600);
    if matches!(opened, Err(Errno::EOPNOTSUPP)) {
        println!("skipped: no O_TMPFILE here");
        return;
    }
    let Open::Served { handle, .. } = opened.unwrap() else { panic!("handed over") };
    mount.fs.write(&handle, b"x", 0, false).unwrap();
    mount.fs.flink(&handle, path(c"/named")).unwrap();
    mount.fs.close(handle).unwrap();
    assert_eq!(std::fs::read(mount.real("named")).unwrap(), b"x");
}

#[rstest]
fn xattrs_by_path_and_by_handle_are_the_same(mount: Mount) {
    std::fs::create_dir(mount.real("d")).unwrap();
    let file = mount.open(c"/d/f", libc::O_CREAT | libc::O_RDWR).unwrap();
    let (fs, name) = (&mount.fs, path(c"/d/f"));
    match fs.setxattr(name, c"user.a", b"value", libc::XATTR_CREATE) {
        Err(Errno::EOPNOTSUPP) => {
            println!("skipped: no user xattrs in {}", mount.dir.path().display());
            fs.close(file).unwrap();
            return;
        }
        answer => answer.unwrap(),
    }
    let mut buf = [0; 16];
    assert_eq!(fs.fgetxattr(&file, c"user.a", &mut buf), Ok(5));
    assert_eq!(fs.getxattr(name, c"user.a", &mut []), Ok(5));
    assert_eq!(fs.getxattr(name, c"user.a", &mut buf[..2]), Err(Errno::ERANGE));
    fs.fsetxattr(&file, c"user.b", b"", 0).unwrap();
    let mut list = [0; 64];
    let len = fs.listxattr(name, &mut list).unwrap();
    assert_eq!(fs.flistxattr(&file, &mut []), Ok(len));
    fs.removexattr(name, c"user.a").unwrap();
    assert_eq!(fs.fremovexattr(&file, c"user.a"), Err(Errno::ENODATA));
    fs.close(file).unwrap();
}

#[rstest]
fn locks_are_the_kernels(mount: Mount) {
    let (one, two) =
        (mount.open(c"/f", libc::O_CREAT | libc::O_RDWR).unwrap(), mount.open(c"/f", libc::O_RDWR).unwrap());
    mount.fs.flock(&one, libc::LOCK_EX).unwrap();
    assert_eq!(mount.fs.flock(&two, libc::LOCK_SH | libc::LOCK_NB), Err(Errno::EAGAIN));
    let mut lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    mount.fs.lock(&one, libc::F_OFD_SETLK, &mut lock).unwrap();
    assert_eq!(mount.fs.lock(&two, libc::F_OFD_SETLK, &mut lock), Err(Errno::EAGAIN));
    mount.fs.lock(&two, libc::F_OFD_GETLK, &mut lock).unwrap();
    assert_eq!((lock.l_type, lock.l_pid), (libc::F_WRLCK as i16, -1));
    assert_eq!(mount.fs.lock(&one, libc::F_DUPFD, &mut lock), Err(Errno::EINVAL));
    mount.fs.close(one).unwrap();
    mount.fs.close(two).unwrap();
}

#[rstest]
fn the_root_is_answered_like_a_root(mount: Mount) {
    let fs = &mount.fs;
    let root = MountPath::ROOT;
    assert_eq!(fs.getattr(root).unwrap().st_mode & libc::S_IFMT, libc::S_IFDIR);
    assert_eq!(fs.mkdir(root, 0o755), Err(Errno::EEXIST));
    assert_eq!(fs.rmdir(root), Err(Errno::EBUSY));
    assert_eq!(fs.unlink(root), Err(Errno::EISDIR));
    assert_eq!(fs.rename(root, path(c"/x"), 0), Err(Errno::EBUSY));
    fs.setattr(root, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    fs.access(root, libc::R_OK | libc::X_OK, libc::AT_EACCESS).unwrap();
    fs.syncfs().unwrap();
    assert!(fs.statfs(root).unwrap().f_bsize > 0);
}

#[rstest]
#[case(c"", c"", Errno::EINVAL, "backend directory is missing")]
#[case(c"/does/not/exist", c"", Errno::ENOENT, "/does/not/exist")]
#[case(c"/proc/self/exe", c"", Errno::ENOTDIR, "/proc/self/exe")]
#[case(c"/", c"backing-fd,sped=11", Errno::EINVAL, "`sped=11`")]
fn a_bad_backend_or_option_is_named(
    #[case] backend: &CStr,
    #[case] options: &CStr,
    #[case] errno: Errno,
    #[case] text: &str,
) {
    let error = library().instantiate(c"/mnt", backend, options, Host::STDERR).unwrap_err();
    assert_eq!(error.errno, errno);
    assert!(error.message.contains(text), "{error}");
}

#[rstest]
fn a_backend_that_vanishes_is_enoent(mount: Mount) {
    std::fs::remove_dir(mount.dir.path()).unwrap();
    assert_eq!(
        mount.fs.open(path(c"/f"), libc::O_CREAT | libc::O_RDWR, 0o600).map(|_| ()),
        Err(Errno::ENOENT)
    );
    assert_eq!(mount.fs.mkdir(path(c"/d"), 0o700), Err(Errno::ENOENT));
}
