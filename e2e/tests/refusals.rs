//! Calls that cannot be done to what is served say so; FDs that come from other processes are known for what they are.

use defuse_e2e::process::End;
use defuse_e2e::{Serving, Session, need_programs, requirement, same_as_plain, script};

/// What the fixture says, run in the case's folder with `f` on the mount.
#[allow(clippy::unnecessary_wraps, reason = "used with and_then")]
fn said(session: Session, what: &str) -> Option<String> {
    let session = session.fixture("refusals", &[]);
    let script =
        format!("cd $DEFUSE_E2E_CASE; mkdir plain; echo content >$MNT/f; $FIX/refusals {what} $MNT plain");
    let outcome = session.script(Serving::Plugin, &script);
    let text = outcome.stdout_text();
    assert_eq!(outcome.end, End::Exit(0), "{text}{}", outcome.stderr_text());
    session.assert_nothing_left();
    Some(text)
}

fn expect(what: &str, wanted: &[&str]) {
    let Some(text) = Session::new().and_then(|session| said(session, what)) else { return };
    if text.starts_with("setxattrat: EOPNOTSUPP") {
        return requirement::skip("the back end's file system has no extended attributes of users");
    }
    assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn what_the_kernel_would_do_to_the_shadow_is_refused() {
    let wanted = [
        "mount: EINVAL",
        "bind from: EINVAL",
        "umount: EINVAL",
        "pivot_root: EINVAL",
        "open_tree: EOPNOTSUPP",
        "open_tree of FD: EOPNOTSUPP",
        "move_mount: EINVAL",
        "fspick: EINVAL",
        "acct: EACCES",
        "swapon: EINVAL",
        "quotactl: ENOTBLK",
        "cachestat: EOPNOTSUPP",
        "fchroot: EOPNOTSUPP",
        "chroot by a link: EPERM",
        "rename of a mount point: EBUSY",
        "file_getattr: EOPNOTSUPP",
        "io_uring_setup: ENOSYS",
        "io_uring_enter: ENOSYS",
        "io_uring_register: ENOSYS",
        "dispatch of system calls: EINVAL",
        "no dispatch of system calls: done",
        "no dispatch of some: EINVAL",
        "plain open_tree: done",
    ];
    expect("refused", &wanted);
}

#[test]
fn attributes_by_directory_and_name_are_the_plugins() {
    let wanted = [
        "setxattrat: done",
        "getxattrat: done",
        "green",
        "listxattrat of FD: done",
        "user.colour",
        "removexattrat: done",
        "getxattrat: ENODATA",
    ];
    expect("attributes", &wanted);
}

#[test]
fn descriptors_that_arrive_are_known_for_what_they_are() {
    let wanted = [
        "same number, recvmsg: done",
        "content",
        "same number, recvmmsg: done",
        "content",
        "pidfd_getfd: done",
        "content",
    ];
    expect("arrivals", &wanted);
}

#[test]
fn threads_keep_the_descriptors_and_directory_of_the_process_and_waits_end_by_signals() {
    let wanted = [
        "interrupted recvmsg: EINTR",
        "FDs of a thread: EINVAL",
        "working directory of a thread: EINVAL",
        "FDs of a thread but some: EINVAL",
        "FDs of the process: done",
    ];
    expect("threads", &wanted);
}

same_as_plain! {
    /// At its limit of open files a program gets EMFILE, with no effect, from what makes a descriptor, and all else works.
    full_descriptor_table: script("cd \"$MNT\"; \"$FIX/full_table\"").fixture("full_table");
}

/// An error behind entries that were read is told by the next call, as the kernel does: no name is lost by who tries again.
#[test]
fn a_listing_that_breaks_off_loses_no_names() {
    need_programs!("python3");
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/../crates/plugin-abi/include");
    let Some(session) = Session::new() else { return };
    let session = session.fixture("breaking_off", &["-shared", "-fPIC", include]);
    let plugin = session.place.root().join("fixtures/breaking_off");
    let mount = format!("{}={}:", session.place.mnt().display(), plugin.display());
    let list = r#"
import ctypes, os, struct, sys
libc, fd, room = ctypes.CDLL(None, use_errno=True), os.open(sys.argv[1], os.O_RDONLY), ctypes.create_string_buffer(4096)
for _ in range(5):
    n = libc.syscall(217, fd, room, 4096)
    names, at = [], 0
    while at < n:
        length = struct.unpack_from("H", room, at + 16)[0]
        names.append(room.raw[at + 19 : at + length].rstrip(b"\0").decode())
        at += length
    print(names if n >= 0 else os.strerror(ctypes.get_errno()))
"#;
    let mnt = session.place.mnt().display().to_string();
    let outcome = session.defuse(["run", "-m", &mount, "--", "python3", "-c", list, &mnt]);
    let overflow = "Value too large for defined data type\n";
    let wanted = format!("['a', 'b']\nInput/output error\n['c']\n{overflow}{overflow}");
    assert_eq!(outcome.stdout_text(), wanted, "{}", outcome.stderr_text());
    session.assert_nothing_left();
}
