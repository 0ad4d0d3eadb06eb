//! Mounting `defuse` for a test, through the new mount API, and what mountinfo says of it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};

use super::shadow::{self, Request};

/// Where tests make their mount points: a tmpfs of the guest.
const BASE: &str = "/run/vmtest";

/// A `defuse` mount, unmounted when dropped.
pub struct Mount {
    point: PathBuf,
    root: Option<OwnedFd>,
}

/// Why a mount was refused.
#[derive(Debug)]
pub struct Refused {
    /// The error of the failing call.
    pub errno: rustix::io::Errno,
    /// What the mount API's log says, one message a line.
    pub log: String,
}

impl Mount {
    /// With plain options.
    pub fn new() -> Mount {
        Mount::with(&[("backend", "/src/dst"), ("library", "/usr/lib/usfs.so")]).expect("mount defuse")
    }

    /// With these options, in `fsconfig` syntax.
    pub fn with(options: &[(&str, &str)]) -> Result<Mount, Refused> {
        let context = rustix::mount::fsopen("defuse", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| Refused { errno, log: String::new() })?;
        let refused = |errno| Refused { errno, log: read_log(context.as_fd()) };
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", "defuse").map_err(refused)?;
        for (key, value) in options {
            rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value).map_err(refused)?;
        }
        rustix::mount::fsconfig_create(context.as_fd()).map_err(refused)?;
        let tree =
            rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
                .map_err(refused)?;
        let point = new_directory("m");
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree.as_fd(), "", CWD, &point, flags).map_err(refused)?;
        Ok(Mount::at(point))
    }

    /// Take over what is mounted at `point`.
    pub fn at(point: PathBuf) -> Mount {
        let root = open_root(&point);
        Mount { point, root: Some(root) }
    }

    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The root directory's FD.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_ref().expect("the root FD is held until it is let go").as_fd()
    }

    /// Close the root's FD, which keeps the mount busy.
    pub fn let_root_go(&mut self) {
        self.root = None;
    }

    /// Open a shadow.
    pub fn open(&self, request: &Request) -> io::Result<OwnedFd> {
        shadow::open(self.root(), request)
    }

    /// A shadow that must open.
    pub fn shadow(&self, request: &Request) -> OwnedFd {
        self.open(request).unwrap_or_else(|error| panic!("open {request:?}: {error}"))
    }

    /// The user that this process is to the mount.
    pub fn user(&self) -> shadow::User {
        shadow::opener(open_root(&self.point))
    }

    /// `umount2(point, flags)`.
    pub fn unmount(&self, flags: UnmountFlags) -> rustix::io::Result<()> {
        rustix::mount::unmount(&self.point, flags)
    }

    /// `mount(2)` with `MS_REMOUNT`.
    pub fn remount(&self, flags: libc::c_ulong, options: &str) -> io::Result<()> {
        mount2(&self.point, flags | libc::MS_REMOUNT, options)
    }

    /// Options of the super block as mountinfo shows them, and `ro` or `rw` of the super block.
    pub fn shown_options(&self) -> String {
        let all = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let line = all
            .lines()
            .find(|line| line.split(' ').nth(4) == self.point.to_str())
            .unwrap_or_else(|| panic!("{} is not in mountinfo", self.point.display()));
        let (_, tail) = line.split_once(" - ").expect("mountinfo has a separator");
        let fields: Vec<_> = tail.split(' ').collect();
        assert_eq!(fields[..2], ["defuse", "defuse"]);
        assert_eq!(fields.len(), 3, "an option holds a raw space: {line}");
        fields[2].to_owned()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.root = None;
        // Nothing to do about a failure: the runner looks for mounts that a test left.
        let _ = self.unmount(UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.point);
    }
}

fn open_root(point: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(point, flags, Mode::empty()).expect("open the mount's root")
}

/// `mount(2)` of type defuse at `point`, or a remount.
pub fn mount2(point: &Path, flags: libc::c_ulong, options: &str) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let point = CString::new(point.as_os_str().as_bytes()).expect("no NUL in a path");
    let options = CString::new(options).expect("no NUL in options");
    // SAFETY: four NUL-terminated strings that live across the call.
    let result = unsafe {
        libc::mount(c"defuse".as_ptr(), point.as_ptr(), c"defuse".as_ptr(), flags, options.as_ptr().cast())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new empty directory on the guest's tmpfs.
pub fn new_directory(stem: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(BASE).join(format!("{stem}{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    path
}

fn read_log(context: BorrowedFd<'_>) -> String {
    let mut log = String::new();
    let mut buffer = [0; 1024];
    while let Ok(n) = rustix::io::read(context, &mut buffer) {
        log.push_str(&String::from_utf8_lossy(&buffer[..n]));
        log.push('\n');
    }
    log
}

/// Undo the octal escapes of mountinfo.
pub fn decode_octal(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            let digits = &text[at + 1..at + 4];
            out.push(u8::from_str_radix(digits, 8).expect("three octal digits"));
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}
