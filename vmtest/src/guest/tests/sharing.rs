//! Offset and status flags are the kernel's own: shared as POSIX says.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitCode};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::{FdFlags, dup, fcntl_getfd, fcntl_setfd};

use super::super::mount::Mount;
use super::super::process::{Gate, fork, receive_fd, send_fd, socket_pair};
use super::super::shadow::{self, Request};
use super::{REFUSED, errno};

super::tests![
    dup_and_fork_share_the_offset,
    the_offset_survives_exec,
    close_on_exec_is_honoured,
    a_passed_fd_shares_the_offset,
    status_flags_are_shared,
    two_opens_share_nothing,
    seek_keeps_to_what_the_kernel_knows,
    it_polls_as_a_regular_file_does,
];

fn offset(fd: impl AsFd) -> u64 {
    rustix::fs::seek(fd, SeekFrom::Current(0)).expect("lseek")
}

fn seek(fd: impl AsFd, to: u64) {
    assert_eq!(rustix::fs::seek(fd, SeekFrom::Start(to)), Ok(to));
}

fn dup_and_fork_share_the_offset() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let copy = dup(&file).expect("dup");
    seek(&file, 100);
    assert_eq!(offset(&copy), 100);
    fork(|| seek(&copy, 1 << 40)).join();
    assert_eq!(offset(&file), 1 << 40);
}

/// What [`probe`] exits with when there is no such FD.
const NO_FD: u8 = 9;

/// A program that was handed a shadow through exec: exits 0 when its offset is 12345 and moves it on.
pub fn probe(fd: &str) -> ExitCode {
    let number = fd.parse().expect("an FD number");
    // SAFETY: asks for flags alone.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return ExitCode::from(NO_FD);
    }
    // SAFETY: the test that started this program left this FD open for it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    let (ident, _) = shadow::ident(&file).expect("identify an FD from exec");
    assert_eq!((ident.token, offset(&file)), (99, 12345));
    seek(&file, 54321);
    ExitCode::SUCCESS
}

fn run_probe(file: &OwnedFd) -> std::process::Output {
    let me = std::env::current_exe().expect("own executable");
    let number = file.as_raw_fd().to_string();
    Command::new(me).args(["guest", "probe", &number]).output().expect("run the probe")
}

fn the_offset_survives_exec() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f").token(99));
    fcntl_setfd(&file, FdFlags::empty()).expect("clear close-on-exec");
    seek(&file, 12345);
    let output = run_probe(&file);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(offset(&file), 54321);
}

fn close_on_exec_is_honoured() {
    let mount = Mount::new();
    // All that the probe asks for, save that it is there.
    let file = mount.shadow(&Request::file(1, "f").token(99));
    seek(&file, 12345);
    assert!(fcntl_getfd(&file).expect("F_GETFD").contains(FdFlags::CLOEXEC));
    let output = run_probe(&file);
    assert_eq!(output.status.code(), Some(i32::from(NO_FD)), "{output:?}");
    assert_eq!(offset(&file), 12345);
    let other = mount.shadow(&Request::file(1, "f").flags(libc::O_RDWR));
    assert_eq!(fcntl_getfd(&other), Ok(FdFlags::empty()));
}

fn a_passed_fd_shares_the_offset() {
    let mount = Mount::new();
    let (here, there) = socket_pair();
    let moved = Gate::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let child = fork(|| {
        let file = receive_fd(&there);
        seek(&file, 7);
        moved.open();
    });
    send_fd(&here, &file);
    moved.pass();
    assert_eq!(offset(&file), 7);
    child.join();
}

fn status_flags_are_shared() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let copy = dup(&file).expect("dup");
    let wanted = OFlags::APPEND | OFlags::NONBLOCK | OFlags::DIRECT;
    fork(|| rustix::fs::fcntl_setfl(&copy, wanted).expect("F_SETFL")).join();
    assert!(rustix::fs::fcntl_getfl(&file).expect("F_GETFL").contains(wanted));
}

fn two_opens_share_nothing() {
    let mount = Mount::new();
    let one = mount.shadow(&Request::file(1, "f"));
    let other = mount.shadow(&Request::file(1, "f"));
    seek(&one, 10);
    assert_eq!(offset(&other), 0);
}

fn seek_keeps_to_what_the_kernel_knows() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    seek(&file, i64::MAX as u64);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Current(-1)), Ok(i64::MAX as u64 - 1));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Current(2)), Err(rustix::io::Errno::INVAL));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Current(i64::MIN)), Err(rustix::io::Errno::INVAL));
    for from in [SeekFrom::End(0), SeekFrom::Data(0), SeekFrom::Hole(0)] {
        assert_eq!(errno(rustix::fs::seek(&file, from).map_err(Into::into)), REFUSED);
    }
}

fn it_polls_as_a_regular_file_does() {
    use rustix::event::{PollFd, PollFlags, epoll, poll};
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let mut fds = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT)];
    assert_eq!(poll(&mut fds, None), Ok(1));
    assert_eq!(fds[0].revents(), PollFlags::IN | PollFlags::OUT);
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll_create1");
    let added = epoll::add(&events, &file, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
    assert_eq!(added, Err(rustix::io::Errno::PERM));
}
