//! Locks and leases between processes that share nothing but the mount and a key.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::super::mount::Mount;
use super::super::process::{Gate, become_user, fork};
use super::super::shadow::Request;
use super::errno;

super::tests![
    record_locks_meet_on_the_key,
    open_file_description_locks_meet_on_the_key,
    flock_meets_on_the_key,
    other_keys_never_share,
    a_file_and_a_directory_of_one_key_are_two,
    record_locks_go_with_any_close,
    locks_go_when_the_holder_is_killed,
    a_waiter_gets_the_lock_of_a_killed_holder,
    leases_hold_others_off,
    only_the_owner_takes_a_lease,
];

fn lock(fd: impl AsFd, command: i32, kind: i32) -> io::Result<libc::flock> {
    let mut lock =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 10, l_len: 5, l_pid: 0 };
    // SAFETY: the structure lives across the call.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(lock) }
}

/// `F_SETLK` on bytes 10 to 14.
pub fn record_lock(fd: impl AsFd, kind: i32) -> io::Result<()> {
    lock(fd, libc::F_SETLK, kind).map(drop)
}

/// Who keeps a write lock from being set.
pub fn record_lock_holder(fd: impl AsFd) -> Option<i32> {
    let lock = lock(fd, libc::F_GETLK, libc::F_WRLCK).expect("F_GETLK");
    (lock.l_type != libc::F_UNLCK as i16).then_some(lock.l_pid)
}

fn flock(fd: impl AsFd, operation: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::flock(fd.as_fd().as_raw_fd(), operation | libc::LOCK_NB) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn record_locks_meet_on_the_key() {
    let mount = Mount::new();
    let (held, done) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let file = mount.shadow(&Request::file(1, "dir/file"));
        record_lock(&file, libc::F_WRLCK).expect("lock");
        held.open();
        done.pass();
    });
    held.pass();
    // By another path: the key counts.
    let file = mount.shadow(&Request::file(1, "hard/link"));
    assert_eq!(errno(record_lock(&file, libc::F_RDLCK)), libc::EAGAIN);
    assert_eq!(record_lock_holder(&file), Some(child.id()));
    assert_eq!(errno(lock(&file, libc::F_OFD_SETLK, libc::F_WRLCK)), libc::EAGAIN);
    done.open();
    child.join();
    record_lock(&file, libc::F_WRLCK).expect("lock once the holder is gone");
}

fn open_file_description_locks_meet_on_the_key() {
    let mount = Mount::new();
    let one = mount.shadow(&Request::file(1, "f"));
    let other = mount.shadow(&Request::file(1, "f"));
    lock(&one, libc::F_OFD_SETLK, libc::F_WRLCK).expect("lock");
    assert_eq!(errno(lock(&other, libc::F_OFD_SETLK, libc::F_RDLCK)), libc::EAGAIN);
    assert_eq!(record_lock_holder(&other), Some(-1));
    fork(|| lock(&one, libc::F_OFD_SETLK, libc::F_UNLCK).map(drop).expect("unlock by a child")).join();
    lock(&other, libc::F_OFD_SETLK, libc::F_WRLCK).expect("lock");
}

fn flock_meets_on_the_key() {
    let mount = Mount::new();
    let one = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    let other = mount.shadow(&Request::file(1, "f").flags(libc::O_WRONLY));
    flock(&one, libc::LOCK_SH).expect("shared");
    flock(&other, libc::LOCK_SH).expect("shared");
    assert_eq!(errno(flock(&other, libc::LOCK_EX)), libc::EWOULDBLOCK);
    drop(one);
    flock(&other, libc::LOCK_EX).expect("exclusive once alone");
    let dir = mount.shadow(&Request::dir(2, "d"));
    flock(&dir, libc::LOCK_EX).expect("lock a directory");
    let dir_again = mount.shadow(&Request::dir(2, "d"));
    assert_eq!(errno(flock(&dir_again, libc::LOCK_SH)), libc::EWOULDBLOCK);
}

fn other_keys_never_share() {
    let mount = Mount::new();
    let one = mount.shadow(&Request::file(1, "a/same"));
    flock(&one, libc::LOCK_EX).expect("lock");
    lock(&one, libc::F_OFD_SETLK, libc::F_WRLCK).expect("lock");
    for other in [Request::file(2, "b/same"), Request::file(1, "a/same").dev(8)] {
        let other = mount.shadow(&other);
        flock(&other, libc::LOCK_EX).expect("another key's flock");
        lock(&other, libc::F_OFD_SETLK, libc::F_WRLCK).expect("another key's lock");
    }
}

fn a_file_and_a_directory_of_one_key_are_two() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "x"));
    let dir = mount.shadow(&Request::dir(1, "x"));
    flock(&file, libc::LOCK_EX).expect("lock the file");
    flock(&dir, libc::LOCK_EX).expect("lock the directory");
}

fn record_locks_go_with_any_close() {
    let mount = Mount::new();
    let one = mount.shadow(&Request::file(1, "f"));
    let other = mount.shadow(&Request::file(1, "f"));
    record_lock(&one, libc::F_WRLCK).expect("lock");
    fork(|| assert!(record_lock_holder(&one).is_some())).join();
    drop(other);
    fork(|| assert_eq!(record_lock_holder(&one), None)).join();
}

fn locks_go_when_the_holder_is_killed() {
    let mount = Mount::new();
    let held = Gate::new();
    let child = fork(|| {
        let file = mount.shadow(&Request::file(1, "f"));
        record_lock(&file, libc::F_WRLCK).expect("record lock");
        let other = mount.shadow(&Request::file(2, "g"));
        flock(&other, libc::LOCK_EX).expect("flock");
        held.open();
        Gate::new().pass();
    });
    held.pass();
    let file = mount.shadow(&Request::file(1, "f"));
    let other = mount.shadow(&Request::file(2, "g"));
    assert_eq!(errno(record_lock(&file, libc::F_WRLCK)), libc::EAGAIN);
    assert_eq!(errno(flock(&other, libc::LOCK_EX)), libc::EWOULDBLOCK);
    child.kill();
    record_lock(&file, libc::F_WRLCK).expect("record lock of a killed holder");
    flock(&other, libc::LOCK_EX).expect("flock of a killed holder");
}

fn a_waiter_gets_the_lock_of_a_killed_holder() {
    let mount = Mount::new();
    let held = Gate::new();
    let holder = fork(|| {
        let file = mount.shadow(&Request::file(1, "f"));
        record_lock(&file, libc::F_WRLCK).expect("record lock");
        held.open();
        Gate::new().pass();
    });
    held.pass();
    let waiter = fork(|| {
        let file = mount.shadow(&Request::file(1, "f"));
        held.open();
        lock(&file, libc::F_SETLKW, libc::F_WRLCK).expect("wait for the lock");
    });
    held.pass();
    holder.kill();
    waiter.join();
}

/// `F_SETLEASE`.
pub fn set_lease(fd: impl AsFd, kind: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn leases_hold_others_off() {
    let mount = Mount::new();
    // SAFETY: the signal of a broken lease would end the process; it is of no interest here.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let file = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    set_lease(&file, libc::F_RDLCK).expect("read lease");
    mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    let writer = Request::file(1, "f").flags(libc::O_WRONLY | libc::O_NONBLOCK);
    let token = writer.its_token();
    assert_eq!(errno(mount.open(&writer)), libc::EWOULDBLOCK);
    let (alive, _) = super::super::shadow::live(mount.root(), mount.user(), &[token]).expect("live");
    assert_eq!(alive, [false], "a refused open left its token taken");
    set_lease(&file, libc::F_UNLCK).expect("give the lease back");
    mount.shadow(&writer);
    // And a writer keeps a read lease from being taken.
    let writer = mount.shadow(&Request::file(1, "f").flags(libc::O_WRONLY));
    assert_eq!(errno(set_lease(&file, libc::F_RDLCK)), libc::EAGAIN);
    drop(writer);
    set_lease(&file, libc::F_RDLCK).expect("read lease without writers");
}

fn only_the_owner_takes_a_lease() {
    let mount = Mount::new();
    fork(|| {
        become_user(1000);
        let mine = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY).owner(1000));
        set_lease(&mine, libc::F_RDLCK).expect("lease on one's own file");
        let foreign = mount.shadow(&Request::file(2, "g").flags(libc::O_RDONLY).owner(1001));
        assert_eq!(errno(set_lease(&foreign, libc::F_RDLCK)), libc::EACCES);
    })
    .join();
}
