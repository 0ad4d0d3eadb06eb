//! Processes of a test: forked children, what they exit with, and FDs passed between them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// A forked child; killed and reaped when dropped.
pub struct Child {
    pid: Option<Pid>,
}

/// Run `body` in a child, which exits 0 when it returns and 101 when it panics.
///
/// The test process must have one thread.
pub fn fork(body: impl FnOnce()) -> Child {
    // SAFETY: tests fork only while they have one thread, so the child may use all that was there.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        0 => {
            let code = if catch_unwind(AssertUnwindSafe(body)).is_ok() { 0 } else { 101 };
            // SAFETY: ends the process without the parent's destructors.
            unsafe { libc::_exit(code) }
        }
        pid => Child { pid: Pid::from_raw(pid) },
    }
}

impl Child {
    /// Wait until it exits, which it must do with 0.
    pub fn join(mut self) {
        let pid = self.pid.take().expect("a child is joined once");
        let status = reap(pid);
        assert_eq!(status.exit_status(), Some(0), "the child failed: {status:?}");
    }

    /// Send SIGKILL and wait until it is gone.
    pub fn kill(mut self) {
        kill_and_reap(self.pid.take().expect("a child is killed once"));
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.expect("the child was not joined").as_raw_nonzero().get()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            kill_and_reap(pid);
        }
    }
}

fn reap(pid: Pid) -> WaitStatus {
    rustix::process::waitpid(Some(pid), WaitOptions::empty()).expect("waitpid").expect("it waits").1
}

fn kill_and_reap(pid: Pid) {
    rustix::process::kill_process(pid, Signal::KILL).expect("kill");
    reap(pid);
}

/// A step that one process waits for and another one makes.
pub struct Gate {
    read: OwnedFd,
    write: OwnedFd,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        Gate { read, write }
    }

    /// Let one waiter through.
    pub fn open(&self) {
        assert_eq!(rustix::io::write(&self.write, &[1]), Ok(1));
    }

    /// Wait until another process has opened it. Each opening lets one waiter through.
    pub fn pass(&self) {
        assert_eq!(rustix::io::read(&self.read, &mut [0u8; 1]), Ok(1));
    }
}

/// As [`fork`], for a process of user `uid` that runs `before`, and with what that returns `inside`, in a user namespace of its own with these
/// lines of `uid_map`.
pub fn fork_into_user_namespace<T>(
    uid: u32,
    map: &str,
    before: impl FnOnce() -> T,
    inside: impl FnOnce(T),
) -> Child {
    let (asked, mapped) = (Gate::new(), Gate::new());
    let child = fork(|| {
        become_user(uid);
        let kept = before();
        // SAFETY: takes flags only; the child has one thread.
        let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
        assert_eq!(result, 0, "unshare: {}", io::Error::last_os_error());
        asked.open();
        mapped.pass();
        inside(kept);
    });
    asked.pass();
    let file = format!("/proc/{}/uid_map", child.id());
    std::fs::write(&file, map).unwrap_or_else(|error| panic!("write {file}: {error}"));
    mapped.open();
    child
}

/// Two connected sockets to pass FDs through.
pub fn socket_pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .expect("socketpair")
}

/// Send one FD by `SCM_RIGHTS`.
pub fn send_fd(socket: impl AsFd, fd: impl AsFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())
        .expect("sendmsg");
    assert_eq!(sent, 1);
}

/// Receive one FD.
pub fn receive_fd(socket: impl AsFd) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("recvmsg");
    let message = control.drain().next().expect("a control message");
    let RecvAncillaryMessage::ScmRights(mut fds) = message else { panic!("no FD in the message") };
    fds.next().expect("an FD")
}

/// Become an ordinary user (for the rest of a forked child).
pub fn become_user(uid: u32) {
    // SAFETY: plain system calls without pointers; the child has one thread.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(uid, uid, uid), 0);
        assert_eq!(libc::setresuid(uid, uid, uid), 0);
    }
}
