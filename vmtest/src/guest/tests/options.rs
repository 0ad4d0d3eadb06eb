//! Mount options: what is accepted, what is shown, what is refused with which words.

use super::super::mount::{Mount, decode_octal, mount2, new_directory};
use super::super::{abi, shadow};
use super::errno;

super::tests![
    every_value_is_shown_so_that_it_parses_back,
    what_mountinfo_shows_can_be_given_back,
    the_option_string_of_mount2_keeps_escaped_commas,
    mount_8_mounts_it,
    bad_options_are_refused_with_a_message,
    mode_and_owner_are_those_of_the_root,
    only_the_initial_user_namespace_mounts,
    a_value_given_twice_counts_once,
];

const PLAIN: [(&str, &str); 2] = [("backend", "/src"), ("library", "/lib/x.so")];

/// The syntax of option values: a backslash before commas and backslashes.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

const VALUES: &[&str] = &[
    "/src/dst",
    "",
    "/with,comma",
    "/with space",
    "tab\there",
    "line\nbreak",
    "back\\slash",
    "\\",
    ",",
    "\\,",
    "a\\054b",
    "key=value",
    "http://host:80/a?b=c&d=e#f",
    "/ümläut/文件",
    "quote\"quote'",
];

fn shown(mount: &Mount, key: &str) -> Vec<u8> {
    let options = mount.shown_options();
    let prefix = format!("{key}=");
    let field = options.split(',').find(|field| field.starts_with(&prefix));
    decode_octal(&field.unwrap_or_else(|| panic!("no {key} in {options}"))[prefix.len()..])
}

fn every_value_is_shown_so_that_it_parses_back() {
    for value in VALUES {
        let library = format!("/lib/{value}.so");
        let mount = Mount::with(&[("backend", &escape(value)), ("library", &escape(&library))])
            .unwrap_or_else(|refused| panic!("backend {value:?}: {refused:?}"));
        assert_eq!(shown(&mount, "backend"), value.as_bytes());
        assert_eq!(shown(&mount, "library"), library.as_bytes());
        let (info, backend, its_library) = shadow::mount_info(mount.root()).expect("mount info");
        assert_eq!(info.abi, abi::ABI_VERSION);
        assert_eq!((backend, its_library), (value.as_bytes().to_vec(), library.into_bytes()));
    }
}

fn what_mountinfo_shows_can_be_given_back() {
    for value in VALUES {
        let first = Mount::with(&[("backend", &escape(value)), PLAIN[1]]).expect("mount");
        let shown_first = first.shown_options();
        let options = shown_first.strip_prefix("rw,").expect("mounted read-write");
        let point = new_directory("again");
        mount2(&point, 0, options).unwrap_or_else(|error| panic!("mount -o {options}: {error}"));
        assert_eq!(Mount::at(point).shown_options(), shown_first);
    }
}

fn the_option_string_of_mount2_keeps_escaped_commas() {
    let point = new_directory("mount2");
    mount2(&point, 0, r",backend=/a\,b\\,library=/lib/x.so,,mode=0700,").expect("mount(2)");
    let mount = Mount::at(point);
    assert_eq!(shown(&mount, "backend"), b"/a,b\\");
    assert_eq!(mount.shown_options(), r"rw,backend=/a\054b\134,library=/lib/x.so,mode=700");
}

fn mount_8_mounts_it() {
    let point = new_directory("mount8");
    let status = std::process::Command::new("mount")
        .args(["-t", "defuse", "-o", "backend=/a b,library=/lib/x.so,nosuid", "defuse"])
        .arg(&point)
        .status()
        .expect("run mount(8)");
    assert!(status.success());
    let mount = Mount::at(point);
    assert_eq!(shown(&mount, "backend"), b"/a b");
}

fn bad_options_are_refused_with_a_message() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("colour", "red")], "Unknown parameter 'colour'"),
        (&[("backend", "/src")], "option library= is missing"),
        (&[("library", "/lib/x.so")], "option backend= is missing"),
        (&[("backend", "/src"), ("library", "x.so")], "library must be an absolute path"),
        (&[("backend", "a\\b")], "backend: a backslash must be followed by"),
        (&[("backend", "a\\")], "backend: a backslash must be followed by"),
        (&[("backend", "\\000")], "backend: a backslash must be followed by"),
        (&[("backend", "\\400")], "backend: a backslash must be followed by"),
        (&[("library", "/lib/\\x.so")], "library: a backslash must be followed by"),
        (&[("mode", "1777")], "mode must lie within 0777"),
        (&[("mode", "rwx")], "Bad value for 'mode'"),
        (&[("uid", "4294967295")], "no such uid"),
        (&[("gid", "4294967295")], "no such gid"),
        (&[("gid", "wheel")], "Bad value for 'gid'"),
    ];
    for (options, message) in cases {
        let refused = Mount::with(options).err().unwrap_or_else(|| panic!("{options:?} was accepted"));
        assert_eq!(refused.errno, rustix::io::Errno::INVAL, "{options:?}");
        assert!(refused.log.contains(message), "{options:?} gave {:?}", refused.log);
    }
}

fn mode_and_owner_are_those_of_the_root() {
    let mount =
        Mount::with(&[PLAIN[0], PLAIN[1], ("mode", "0710"), ("uid", "12"), ("gid", "34")]).expect("mount");
    let stat = rustix::fs::fstat(mount.root()).expect("fstat");
    assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid), (0o710, 12, 34));
    assert_eq!(mount.shown_options(), "rw,backend=/src,library=/lib/x.so,mode=710,uid=12,gid=34");
}

fn only_the_initial_user_namespace_mounts() {
    super::super::process::fork(|| {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
        // SAFETY: takes flags only; the child has one thread.
        if unsafe { libc::unshare(flags) } != 0 {
            println!("skipped: no user namespaces: {}", std::io::Error::last_os_error());
            return;
        }
        let refused = Mount::with(&PLAIN).err().expect("mounted in a user namespace");
        assert_eq!(refused.errno, rustix::io::Errno::PERM);
        assert_eq!(errno(mount2(&new_directory("userns"), 0, "backend=a,library=/b")), libc::EPERM);
    })
    .join();
}

fn a_value_given_twice_counts_once() {
    let mount = Mount::with(&[("backend", "first"), PLAIN[1], ("backend", "second")]).expect("mount");
    assert_eq!(shown(&mount, "backend"), b"second");
}
