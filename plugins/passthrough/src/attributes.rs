//! stat, statfs, and changing attributes.

use crate::Passthrough;
use crate::resolve::{Located, ProcPath};
use core::sync::atomic::{AtomicBool, Ordering};
use libc::timespec;
use plugin_abi::{CStr, Errno, MoreAttributes, MountPath, Result, SetAttr, SetTime, stat, statfs};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, Uid, chownat,
    statx, utimensat,
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kernel's own struct under two names.
pub(crate) fn from_rustix(st: rustix::fs::Stat) -> stat {
    const { assert!(size_of::<rustix::fs::Stat>() == size_of::<stat>()) };
    // SAFETY: on x86-64 both are the kernel's `struct stat`, integers only.
    unsafe { core::mem::transmute::<rustix::fs::Stat, stat>(st) }
}

/// The kernel's own struct under two names.
pub(crate) fn statfs_from_rustix(st: rustix::fs::StatFs) -> statfs {
    const { assert!(size_of::<rustix::fs::StatFs>() == size_of::<statfs>()) };
    // SAFETY: on x86-64 both are the kernel's `struct statfs`, integers only.
    unsafe { core::mem::transmute::<rustix::fs::StatFs, statfs>(st) }
}

/// What statx(2) tells beyond [`stat`]: a second call, made when it is asked for.
pub(crate) fn more(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<MoreAttributes> {
    let found = statx(dir, name, flags, StatxFlags::BTIME)?;
    let birth = (found.stx_mask & StatxFlags::BTIME.bits() != 0)
        .then(|| timespec { tv_sec: found.stx_btime.tv_sec, tv_nsec: found.stx_btime.tv_nsec.into() });
    let root = StatxAttributes::MOUNT_ROOT;
    Ok(MoreAttributes {
        birth,
        attributes: found.stx_attributes.difference(root).bits(),
        attributes_mask: found.stx_attributes_mask.difference(root).bits(),
    })
}

pub(crate) fn d_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::Unknown => libc::DT_UNKNOWN,
    }
}

/// In this order: a change of owner clears set-user-ID, a change of length sets the times.
pub(crate) fn set_at(fs: &Passthrough, path: &MountPath, attr: &SetAttr) -> Result<()> {
    if let Some(size) = attr.size {
        truncate(fs, path, size)?;
    }
    let times = timestamps(attr);
    let owner = attr.uid.is_some() || attr.gid.is_some();
    if attr.size.is_some() && attr.mode.is_none() && times.is_none() && !owner {
        return Ok(());
    }
    let at = fs.locate(path)?;
    if attr.no_link && (owner || times.is_some()) {
        at.expect_no_link()?;
    }
    if owner {
        let (uid, gid) = (attr.uid.map(Uid::from_raw), attr.gid.map(Gid::from_raw));
        chownat(at.dir(), at.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(mode) = attr.mode {
        match change_mode(&at, mode & 0o7777) {
            // A link has no mode of its own.
            Err(Errno::EOPNOTSUPP) if attr.no_link => at.expect_no_link().and(Err(Errno::EOPNOTSUPP))?,
            changed => changed?,
        }
    }
    if let Some(times) = times {
        utimensat(at.dir(), at.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Not through a descriptor for writing: to close that would take the process's record locks on the file away.
fn truncate(fs: &Passthrough, path: &MountPath, size: u64) -> Result<()> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::CLOEXEC;
        fs.host.briefly(|| fs.openat2(path.relative(), flags, Mode::empty()))
    };
    let file = open(OFlags::PATH)?;
    let name = ProcPath::of(std::os::fd::AsFd::as_fd(&file), c"")?;
    let length = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    // SAFETY: a C string.
    if unsafe { libc::truncate(name.as_c_str().as_ptr(), length) } == 0 {
        return Ok(());
    }
    match std::io::Error::last_os_error().into() {
        // Without /proc. A FIFO without a reader must not block here.
        Errno::ENOENT => {
            Ok(rustix::fs::ftruncate(open(OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?, size)?)
        }
        errno => Err(errno),
    }
}

pub(crate) fn set(file: BorrowedFd<'_>, attr: &SetAttr) -> Result<()> {
    if let Some(size) = attr.size {
        rustix::fs::ftruncate(file, size)?;
    }
    if attr.uid.is_some() || attr.gid.is_some() {
        rustix::fs::fchown(file, attr.uid.map(Uid::from_raw), attr.gid.map(Gid::from_raw))?;
    }
    if let Some(mode) = attr.mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
    }
    if let Some(times) = timestamps(attr) {
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

/// Changes permission bits without following a symbolic link, which has none (`EOPNOTSUPP`).
///
/// fchmodat(2) always follows; fchmodat2(2) came with Linux 6.6. Before that, an `O_PATH` descriptor and its
/// link in /proc do it.
fn change_mode(at: &Located<'_>, mode: u32) -> Result<()> {
    static MISSING: AtomicBool = AtomicBool::new(false);
    if !MISSING.load(Ordering::Relaxed) {
        let (dir, name) = (at.dir().as_raw_fd(), at.name().as_ptr());
        // SAFETY: fchmodat2 reads a C string and touches no other memory.
        let result =
            unsafe { libc::syscall(libc::SYS_fchmodat2, dir, name, mode, libc::AT_SYMLINK_NOFOLLOW) };
        if result == 0 {
            return Ok(());
        }
        let errno = Errno::from(std::io::Error::last_os_error());
        if errno != Errno::ENOSYS {
            return Err(errno);
        }
        MISSING.store(true, Ordering::Relaxed);
    }
    change_mode_by_proc(at, mode)
}

fn change_mode_by_proc(at: &Located<'_>, mode: u32) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(at.dir(), at.name(), flags, Mode::empty())?;
    if rustix::fs::fstat(&file)?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(Errno::EOPNOTSUPP);
    }
    let path = ProcPath::of(std::os::fd::AsFd::as_fd(&file), c"")?;
    Ok(rustix::fs::chmod(path.as_c_str(), Mode::from_raw_mode(mode))?)
}

fn timestamps(attr: &SetAttr) -> Option<Timestamps> {
    if attr.atime.is_none() && attr.mtime.is_none() {
        return None;
    }
    let convert = |time| match time {
        None => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Some(SetTime::At(timespec { tv_sec, tv_nsec })) => Timespec { tv_sec, tv_nsec },
    };
    Some(Timestamps { last_access: convert(attr.atime), last_modification: convert(attr.mtime) })
}

#[cfg(test)]
mod tests {
    use super::change_mode_by_proc;
    use crate::Passthrough;
    use plugin_abi::{Errno, MountPath};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_old_kernel_changes_modes_through_proc() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let fs = Passthrough {
            kept: crate::kept::Kept::new(rustix::fs::CWD),
            root: std::fs::File::open(dir.path()).unwrap().into(),
            options: crate::options::Options { backing_fd: false, lends: true, locks: true },
            host: plugin_abi::Host::STDERR,
        };
        let locate = |name| fs.locate(MountPath::from_normalised(name)).unwrap();
        change_mode_by_proc(&locate(c"/file"), 0o604).unwrap();
        let mode = std::fs::metadata(dir.path().join("file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o604);
        assert_eq!(change_mode_by_proc(&locate(c"/link"), 0o600), Err(Errno::EOPNOTSUPP));
    }
}
