//! Who listens by fanotify for the permission to open a file (as virus scanners do) gets an FD of his own of each shadow that is
//! being opened: never the opener's description.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::super::mount::Mount;
use super::super::process::{Gate, fork};
use super::super::shadow::{self, Request};
use super::{REFUSED, errno};

super::tests![
    a_listener_gets_no_description,
    a_refused_open_leaves_nothing,
    an_opener_is_killed_while_a_listener_thinks,
    openers_are_killed_at_any_time: 180,
];

/// A fanotify group that is asked for each opening on a mount.
struct Listener(OwnedFd);

impl Listener {
    /// `None` when the kernel has no such thing, which is said.
    fn of(mount: &Mount) -> Option<Listener> {
        let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
        // SAFETY: takes flags only.
        let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
        if fd < 0 {
            println!("skipped: fanotify_init: {}", io::Error::last_os_error());
            return None;
        }
        // SAFETY: the FD is new and ours.
        let listener = Listener(unsafe { OwnedFd::from_raw_fd(fd) });
        let point = std::ffi::CString::new(mount.point().as_os_str().as_bytes()).expect("no NUL in a path");
        let how = libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT;
        let what = libc::FAN_OPEN_PERM | libc::FAN_ONDIR;
        // SAFETY: the path is a terminated string.
        if unsafe { libc::fanotify_mark(fd, how, what, libc::AT_FDCWD, point.as_ptr()) } != 0 {
            println!("skipped: fanotify_mark: {}", io::Error::last_os_error());
            return None;
        }
        Some(listener)
    }

    /// The FD of the next event.
    fn next(&self) -> OwnedFd {
        const SIZE: usize = size_of::<libc::fanotify_event_metadata>();
        let mut bytes = [0u8; SIZE];
        let n = rustix::io::read(&self.0, &mut bytes).expect("read an event");
        assert_eq!(n, SIZE);
        // SAFETY: the structure is plain numbers, and the kernel has filled it in.
        let event = unsafe { bytes.as_ptr().cast::<libc::fanotify_event_metadata>().read_unaligned() };
        assert_eq!(event.mask & libc::FAN_OPEN_PERM, libc::FAN_OPEN_PERM);
        assert!(event.fd >= 0, "an event without an FD");
        // SAFETY: the kernel has just made this FD for us.
        unsafe { OwnedFd::from_raw_fd(event.fd) }
    }

    fn answer(&self, event: &OwnedFd, response: u32) -> rustix::io::Result<usize> {
        let words = [event.as_raw_fd() as u32, response];
        rustix::io::write(&self.0, words.map(u32::to_ne_bytes).as_flattened())
    }
}

/// Asked without an open, which the listener would be asked about.
fn is_live(mount: &Mount, token: u64) -> bool {
    shadow::live(mount.root(), shadow::opener(mount.root()), &[token]).expect("live").0[0]
}

fn a_listener_gets_no_description() {
    let mount = Mount::new();
    let Some(listener) = Listener::of(&mount) else { return };
    let (opened, closed) = (Gate::new(), Gate::new());
    let child = fork(|| {
        for _ in 0..2 {
            let event = listener.next();
            assert_eq!(errno(shadow::ident(&event)), REFUSED);
            assert!(
                [Err(rustix::io::Errno::REMOTEIO), Err(rustix::io::Errno::ISDIR)]
                    .contains(&rustix::io::read(&event, &mut [0u8; 1]))
            );
            assert_eq!(rustix::fs::fstat(&event).map(drop), Err(rustix::io::Errno::REMOTEIO));
            assert_eq!(listener.answer(&event, libc::FAN_ALLOW), Ok(8));
            opened.pass();
            // Nor is it ended by his close.
            drop(event);
            closed.open();
        }
    });
    drop(listener);
    for request in [Request::file(1, "f").token(5), Request::dir(2, "d").token(6)] {
        let file = mount.shadow(&request);
        opened.open();
        closed.pass();
        let token = request.its_token();
        assert_eq!(shadow::ident(&file).expect("identify").0.token, token);
        assert!(is_live(&mount, token));
        drop(file);
        assert!(!is_live(&mount, token));
    }
    child.join();
}

fn a_refused_open_leaves_nothing() {
    let mount = Mount::new();
    let Some(listener) = Listener::of(&mount) else { return };
    let (refused, looked) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let event = listener.next();
        assert_eq!(listener.answer(&event, libc::FAN_DENY), Ok(8));
        refused.pass();
        looked.open();
    });
    drop(listener);
    assert_eq!(errno(mount.open(&Request::file(1, "f").token(5))), libc::EPERM);
    assert!(!is_live(&mount, 5));
    refused.open();
    looked.pass();
    child.join();
    drop(mount.shadow(&Request::file(1, "f").token(5)));
}

fn an_opener_is_killed_while_a_listener_thinks() {
    let mount = Mount::new();
    let Some(listener) = Listener::of(&mount) else { return };
    let opener = fork(|| drop(mount.open(&Request::file(1, "f").token(5))));
    let event = listener.next();
    assert!(is_live(&mount, 5));
    opener.kill();
    assert!(!is_live(&mount, 5), "the description outlives its only opener");
    assert_eq!(errno(shadow::ident(&event)), REFUSED);
    drop(event);
    drop(listener);
    drop(mount.shadow(&Request::file(1, "f").token(5)));
}

/// Whatever the opener and the listener are at: nothing is freed twice, or never.
fn openers_are_killed_at_any_time() {
    const ROUNDS: u32 = 300;
    let mount = Mount::new();
    let Some(listener) = Listener::of(&mount) else { return };
    let child = fork(|| {
        loop {
            let event = listener.next();
            // That nobody waits any more is no failure.
            let _ = listener.answer(&event, libc::FAN_ALLOW);
        }
    });
    for round in 0..ROUNDS {
        let opener = fork(|| {
            loop {
                drop(mount.open(&Request::file(1, "f").token(5)));
            }
        });
        for _ in 0..round % 50 {
            std::thread::yield_now();
        }
        opener.kill();
        assert!(!is_live(&mount, 5));
    }
    child.kill();
    drop(listener);
    drop(mount.shadow(&Request::file(1, "f").token(5)));
}
