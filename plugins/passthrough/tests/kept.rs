//! Directories that were used before are kept open: what is served is nevertheless what the path leads to now.

use core::ffi::{c_char, c_int, c_void};
use plugin_abi::{CStr, Errno, Host, Instance, MountPath, Plugin, SetAttr, SetTime, abi};
use rstest::{fixture, rstest};
use rustix::mount::{MountFlags, MountPropagationFlags, mount as mount_at, mount_change, unmount};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

struct Mount {
    fs: Instance,
    dir: tempfile::TempDir,
}

impl Mount {
    fn new(host: Host) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        let deps = std::env::current_exe().unwrap();
        let library = Plugin::load(&deps.with_file_name("libpassthrough.so")).unwrap();
        let fs = library.instantiate(c"/mnt", &backend, c"", host).unwrap();
        let mount = Self { fs, dir };
        fs::create_dir_all(mount.real("d/e")).unwrap();
        fs::write(mount.real("d/e/old"), "").unwrap();
        mount
    }

    fn real(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn size(&self, name: &str) -> Result<i64, Errno> {
        let name = CString::new(name).unwrap();
        self.fs.getattr(path(&name)).map(|found| found.st_size)
    }

    /// Uses a file in `d/e` often enough for its directory to be kept.
    fn use_it(&self) {
        for _ in 0..4 {
            assert_eq!(self.size("/d/e/old"), Ok(0));
        }
    }

    /// Descriptors of this process that lead below the backend.
    fn open_below(&self) -> usize {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter(|link| fs::read_link(link.path()).is_ok_and(|to| to.starts_with(self.real("d")))).count()
    }
}

fn path(name: &CStr) -> &MountPath {
    MountPath::new(name).unwrap()
}

#[fixture]
fn mount() -> Mount {
    Mount::new(Host::STDERR)
}

/// Whether directories are kept at all: on ext4, XFS, Btrfs, tmpfs, overlayfs.
fn keeps(mount: &Mount) -> bool {
    let known = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630];
    let found = rustix::fs::statfs(mount.dir.path()).unwrap().f_type;
    let keeps = known.contains(&found);
    if !keeps {
        println!("skipped: directories are not kept on a file system of type {found:#x}");
    }
    keeps
}

#[rstest]
fn a_directory_is_kept(mount: Mount) {
    if !keeps(&mount) {
        return;
    }
    mount.use_it();
    assert_eq!(mount.open_below(), 1);
}

#[rstest]
#[case::itself("d/e", "d/moved")]
#[case::one_above("d", "moved")]
fn another_directory_of_the_name_is_used(mount: Mount, #[case] from: &str, #[case] to: &str) {
    mount.use_it();
    fs::rename(mount.real(from), mount.real(to)).unwrap();
    fs::create_dir_all(mount.real("d/e")).unwrap();
    assert_eq!(mount.size("/d/e/old"), Err(Errno::ENOENT));
    mount.fs.mkdir(path(c"/d/e/new"), 0o700).unwrap();
    assert!(mount.real("d/e/new").is_dir());
    mount.use_it_again_after(|mount| fs::write(mount.real("d/e/old"), "").unwrap());
    mount.fs.unlink(path(c"/d/e/old")).unwrap();
    let moved = if to == "moved" { "moved/e/old" } else { "d/moved/old" };
    assert!(mount.real(moved).exists(), "a file was removed in the directory that was moved");
}

impl Mount {
    fn use_it_again_after(&self, change: impl FnOnce(&Self)) {
        change(self);
        self.use_it();
    }
}

#[rstest]
fn a_symbolic_link_in_its_place_is_not_followed(mount: Mount) {
    mount.use_it();
    fs::rename(mount.real("d/e"), mount.real("moved")).unwrap();
    symlink("../moved", mount.real("d/e")).unwrap();
    assert_eq!(mount.size("/d/e/old"), Err(Errno::ELOOP));
    assert_eq!(mount.fs.unlink(path(c"/d/e/old")), Err(Errno::ELOOP));
    assert!(mount.real("moved/old").exists());
}

#[rstest]
fn nothing_is_found_in_one_that_was_removed(mount: Mount) {
    mount.use_it();
    fs::remove_dir_all(mount.real("d/e")).unwrap();
    assert_eq!(mount.size("/d/e/old"), Err(Errno::ENOENT));
    assert_eq!(mount.fs.mkdir(path(c"/d/e/new"), 0o700), Err(Errno::ENOENT));
}

#[rstest]
fn few_are_kept(mount: Mount) {
    for number in 0..100 {
        fs::create_dir(mount.real(&format!("d/{number}"))).unwrap();
        fs::write(mount.real(&format!("d/{number}/f")), vec![0; number]).unwrap();
    }
    for round in 0..3 {
        for number in 0..100 {
            for _ in 0..=round {
                assert_eq!(mount.size(&format!("/d/{number}/f")), Ok(number as i64));
            }
        }
    }
    let open = mount.open_below();
    assert!(open <= 8 && (open > 0 || !keeps(&mount)), "{open} directories are open");
}

/// Each directory has a file of its own size, so that a descriptor that changed hands in the middle of a call shows.
#[rstest]
fn threads_do_not_close_what_others_use(mount: Mount) {
    for number in 0..24 {
        fs::create_dir(mount.real(&format!("d/{number}"))).unwrap();
        fs::write(mount.real(&format!("d/{number}/f")), vec![0; number]).unwrap();
    }
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let mount = &mount;
            threads.spawn(move || {
                for turn in 0..20_000 {
                    let number = (turn / 3 * 7 + thread * 5) % 24;
                    assert_eq!(mount.size(&format!("/d/{number}/f")), Ok(number as i64));
                }
            });
        }
    });
}

/// In the child of a vfork the numbers that were noted may be anything, and its own are nothing to the parent.
#[test]
fn nothing_is_kept_where_descriptors_are_not_ones_own() {
    unsafe extern "C" fn log(_: *mut c_void, _: u32, _: *const c_char, _: usize) -> c_int {
        0
    }
    unsafe extern "C" fn yes(_: *mut c_void) -> c_int {
        1
    }
    let host = Box::leak(Box::new(abi::Host {
        size: size_of::<abi::Host>() as u32,
        reserved: 0,
        ctx: std::ptr::null_mut(),
        log: Some(log),
        brief: None,
        transient: Some(yes),
        openat2: None,
    }));
    let mount = Mount::new(Host::new(host));
    mount.use_it();
    assert_eq!(mount.open_below(), 0);
}

/// In a mount name space of its own thread.
#[test]
fn what_is_mounted_there_later_is_used() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let test = || {
        // SAFETY: unsharing the mount name space and file system attributes of this thread leaves all memory alone.
        let unshared = unsafe {
            rustix::thread::unshare_unsafe(
                rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS,
            )
        };
        if let Err(error) = unshared {
            println!("skipped: unshare: {error}");
            return;
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let mount = Mount::new(Host::STDERR);
        mount.use_it();
        mount_at("none", mount.real("d/e"), "tmpfs", MountFlags::empty(), None).unwrap();
        assert_eq!(mount.size("/d/e/old"), Err(Errno::ENOENT));
        fs::write(mount.real("d/e/old"), "").unwrap();
        mount.use_it();
        // It is not kept: nothing is in the way of unmounting it.
        unmount(mount.real("d/e"), rustix::mount::UnmountFlags::empty()).unwrap();
    };
    std::thread::spawn(test).join().unwrap();
}

#[rstest]
fn links_are_told_where_that_is_asked(mount: Mount) {
    symlink("old", mount.real("d/e/link")).unwrap();
    let link = path(c"/d/e/link");
    assert_eq!(mount.fs.access(link, libc::R_OK, 0), Err(Errno::ELOOP));
    assert_eq!(mount.fs.access(link, libc::R_OK, libc::AT_SYMLINK_NOFOLLOW), Ok(()));
    let changes = [
        SetAttr { mode: Some(0o600), ..SetAttr::default() },
        SetAttr { uid: Some(rustix::process::geteuid().as_raw()), ..SetAttr::default() },
        SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() },
        SetAttr { size: Some(0), ..SetAttr::default() },
    ];
    for change in changes {
        let asked = SetAttr { no_link: true, ..change };
        assert_eq!(mount.fs.setattr(link, &asked), Err(Errno::ELOOP), "{change:?}");
        assert_eq!(mount.fs.setattr(path(c"/d/e/old"), &asked), Ok(()), "{change:?}");
    }
    assert_eq!(mount.fs.setattr(link, &changes[2]), Ok(()));
}
