//! A process that is not intercepted gets an error from a shadow, never data, zeros or an end of file.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

use super::super::mount::{Mount, new_directory};
use super::super::shadow::{self, Request};
use super::{REFUSED, errno};

super::tests![
    reads_and_writes_are_refused,
    the_access_mode_still_counts,
    copies_inside_the_kernel_are_refused,
    mapping_is_refused,
    what_needs_the_file_is_refused,
    attributes_are_refused_whatever_their_name,
    it_cannot_be_opened_again,
    it_cannot_be_run,
    ordinary_programs_fail_loudly,
    every_system_call_on_it_was_thought_of,
];

fn refused<T>(result: rustix::io::Result<T>) {
    assert_eq!(errno(result.map_err(io::Error::from)), REFUSED);
}

fn reads_and_writes_are_refused() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let mut buffer = [0; 64];
    for length in [0, 1, 64] {
        refused(rustix::io::read(&file, &mut buffer[..length]));
        refused(rustix::io::write(&file, &buffer[..length]));
        refused(rustix::io::pread(&file, &mut buffer[..length], 0));
        refused(rustix::io::pwrite(&file, &buffer[..length], 1 << 40));
    }
    refused(rustix::io::readv(&file, &mut [IoSliceMut::new(&mut buffer)]));
    refused(rustix::io::writev(&file, &[IoSlice::new(b"x")]));
    refused(rustix::io::preadv(&file, &mut [IoSliceMut::new(&mut buffer)], 5));
    refused(rustix::io::pwritev(&file, &[IoSlice::new(b"x")], 5));
}

fn the_access_mode_still_counts() {
    let mount = Mount::new();
    let reader = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    let writer = mount.shadow(&Request::file(1, "f").flags(libc::O_WRONLY));
    assert_eq!(rustix::io::write(&reader, b"x"), Err(rustix::io::Errno::BADF));
    assert_eq!(rustix::io::read(&writer, &mut [0u8; 1]), Err(rustix::io::Errno::BADF));
    let dir = mount.shadow(&Request::dir(2, "d"));
    assert_eq!(rustix::io::read(&dir, &mut [0u8; 1]), Err(rustix::io::Errno::ISDIR));
}

fn plain_file(text: &[u8]) -> File {
    let path = new_directory("plain").join("file");
    fs::write(&path, text).expect("write a plain file");
    File::options().read(true).write(true).open(path).expect("open it")
}

fn copies_inside_the_kernel_are_refused() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let other = mount.shadow(&Request::file(2, "g"));
    let plain = plain_file(b"some data");
    refused(rustix::fs::sendfile(&plain, &file, None, 10));
    refused(rustix::fs::sendfile(&file, &plain, None, 9));
    let (read, write) = rustix::pipe::pipe().expect("pipe");
    let flags = rustix::pipe::SpliceFlags::empty();
    refused(rustix::pipe::splice(&file, None, &write, None, 10, flags));
    assert_eq!(rustix::io::write(&write, b"data"), Ok(4));
    refused(rustix::pipe::splice(&read, None, &file, None, 4, flags));
    // Of one mount: nothing is copied, and "0 bytes" would be an end of file.
    refused(rustix::fs::copy_file_range(&file, None, &other, None, 10));
    // Of two file systems: the kernel itself says no, each in its own way.
    for (from, to) in
        [(&file, &OwnedFd::from(plain_file(b"data"))), (&OwnedFd::from(plain_file(b"data")), &file)]
    {
        let error = errno(rustix::fs::copy_file_range(from, None, to, None, 4).map_err(Into::into));
        assert!([libc::EXDEV, REFUSED].contains(&error), "copy_file_range: {error}");
    }
}

fn mapping_is_refused() {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let dir = mount.shadow(&Request::dir(2, "d"));
    for fd in [&file, &dir] {
        for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
            // SAFETY: a new mapping at an address of the kernel's choice.
            let result = unsafe { mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, flags, fd, 0) };
            assert_eq!(result.map(drop), Err(rustix::io::Errno::NODEV));
        }
    }
    // Also when there is memory for its pages: that is another file.
    let _memory = shadow::cache(&file, 4096).expect("cache");
    // SAFETY: as above.
    let result = unsafe { mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
    assert_eq!(result.map(drop), Err(rustix::io::Errno::NODEV));
}

fn what_needs_the_file_is_refused() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let dir = mount.shadow(&Request::dir(2, "d"));
    refused(rustix::fs::ftruncate(&file, 0));
    refused(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10));
    refused(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed));
    // SAFETY: takes numbers only.
    let read_ahead = unsafe { libc::readahead(file.as_raw_fd(), 0, 4096) };
    assert_eq!((read_ahead, io::Error::last_os_error().raw_os_error()), (-1, Some(REFUSED)));
    for fd in [&file, &dir] {
        refused(rustix::fs::fstat(fd));
        refused(rustix::fs::fsync(fd));
        refused(rustix::fs::fdatasync(fd));
        refused(rustix::fs::fchmod(fd, Mode::RWXU));
        refused(rustix::fs::fchown(fd, None, None));
        let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        refused(rustix::fs::futimens(fd, &times));
        refused(rustix::fs::fgetxattr(fd, "user.x", &mut [0u8; 8]));
        refused(rustix::fs::fsetxattr(fd, "user.x", b"v", rustix::fs::XattrFlags::empty()));
    }
}

/// An empty list would say that there are none, and "not supported" that there can be none.
fn attributes_are_refused_whatever_their_name() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let dir = mount.shadow(&Request::dir(2, "d"));
    let flags = rustix::fs::XattrFlags::empty();
    for fd in [&file, &dir] {
        refused(rustix::fs::flistxattr(fd, &mut [0u8; 0]));
        refused(rustix::fs::flistxattr(fd, &mut [0u8; 64]));
        refused(rustix::fs::fgetxattr(fd, "security.capability", &mut [0u8; 64]));
        for name in ["user.x", "trusted.x", "security.x"] {
            refused(rustix::fs::fgetxattr(fd, name, &mut [0u8; 64]));
            refused(rustix::fs::fsetxattr(fd, name, b"v", flags).map(drop));
            refused(rustix::fs::fremovexattr(fd, name));
        }
        // Newer kernels know by themselves that the mount has none.
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            let error = errno(rustix::fs::fgetxattr(fd, name, &mut [0u8; 64]).map_err(Into::into));
            assert!([REFUSED, libc::EOPNOTSUPP].contains(&error), "{name}: {error}");
        }
    }
    // The root is a directory like others, so that ls -l says nothing.
    assert_eq!(rustix::fs::listxattr(mount.point(), &mut [0u8; 64]), Ok(0));
    for name in ["user.x", "security.capability", "system.posix_acl_access"] {
        let error = rustix::fs::getxattr(mount.point(), name, &mut [0u8; 64]).map(drop);
        assert_eq!(error, Err(rustix::io::Errno::OPNOTSUPP), "{name}");
    }
}

fn it_cannot_be_opened_again() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let dir = mount.shadow(&Request::dir(2, "d"));
    for (fd, flags) in [
        (&file, OFlags::RDONLY),
        (&file, OFlags::WRONLY),
        (&file, OFlags::RDWR | OFlags::TRUNC),
        (&dir, OFlags::RDONLY | OFlags::DIRECTORY),
    ] {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        refused(rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()));
        assert_eq!(errno(fs::metadata(&path)), REFUSED);
        refused(rustix::fs::access(&path, rustix::fs::Access::READ_OK));
        // SAFETY: the empty path is a terminated string.
        let result = unsafe {
            libc::syscall(libc::SYS_faccessat2, fd.as_raw_fd(), c"".as_ptr(), libc::R_OK, libc::AT_EMPTY_PATH)
        };
        assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(REFUSED)));
    }
}

fn it_cannot_be_run() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    let arguments = [c"f".as_ptr(), std::ptr::null()];
    // SAFETY: strings and vectors are terminated; on success this process would be another program.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            arguments[1..].as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    let error = io::Error::last_os_error().raw_os_error();
    assert_eq!(result, -1);
    assert!([Some(libc::EACCES), Some(REFUSED)].contains(&error), "{error:?}");
}

fn ordinary_programs_fail_loudly() {
    let mount = Mount::new();
    for program in [
        &["cat"][..],
        &["wc", "-c"],
        &["head", "-c1"],
        &["cp", "/dev/stdin", "/run/vmtest/copy"],
        &["sha256sum"],
    ] {
        let stdin = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
        let output =
            Command::new(program[0]).args(&program[1..]).stdin(Stdio::from(stdin)).output().expect("run it");
        assert!(!output.status.success(), "{program:?} took a shadow for a file: {output:?}");
        assert!(!output.stderr.is_empty(), "{program:?} failed without a word");
    }
    let stdout = mount.shadow(&Request::file(1, "f").flags(libc::O_WRONLY));
    let status = Command::new("echo").arg("lost").stdout(Stdio::from(stdout)).stderr(Stdio::null()).status();
    // /bin/echo, not a shell's: it reports what it could not write.
    assert!(!status.expect("run echo").success());
    let mut written = File::from(mount.shadow(&Request::file(1, "f")));
    assert_eq!(errno(written.write_all(b"x")), REFUSED);
}

/// The calls that take an FD and answer without asking the module: they may, as long as what they say
/// cannot be taken for the file's contents.
fn every_system_call_on_it_was_thought_of() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    // fstatfs tells the type of the file system.
    assert_eq!(rustix::fs::fstatfs(&file).expect("fstatfs").f_type as u64, super::super::abi::SUPER_MAGIC);
    // FIONREAD does not say that nothing is left.
    let mut left: i32 = 0;
    let read = shadow::ioctl(std::os::fd::AsFd::as_fd(&file), libc::FIONREAD, &raw mut left);
    assert!(read.is_err() || left != 0, "FIONREAD says that the file has ended");
    // Nor FIOQSIZE that nothing is there.
    let mut size: i64 = 0;
    let asked = shadow::ioctl(std::os::fd::AsFd::as_fd(&file), 0x5460, &raw mut size);
    assert!(asked.is_err() || size != 0, "FIOQSIZE says that the file is empty");
    // A re-open that opens nothing is one: it has no description, and nothing can be done with it.
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    let place = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("O_PATH");
    refused(rustix::fs::fstat(&place));
    assert_eq!(errno(shadow::ident(&place)), libc::EBADF);
    // ioctls that clone, map or describe the data find none.
    for request in [0x8008_6601u64, 0x4004_9409, 0xC020_660B, 0x1] {
        let mut argument = [0u64; 16];
        assert!(shadow::ioctl(std::os::fd::AsFd::as_fd(&file), request, argument.as_mut_ptr()).is_err());
    }
}
