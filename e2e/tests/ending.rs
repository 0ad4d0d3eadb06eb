//! What plugins hear at the end of a process, or of its image: as a file system of the kernel's does when that closes the FDs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use defuse_e2e::{Session, need_programs};

/// Runs a bash script on a mount of the plugin that buffers; the back end's files `NAME` and what the plugin has noted.
fn run(script: &str, names: &[&str]) -> Option<(Vec<String>, String)> {
    run_by("cc", &[], script, names)
}

/// As [`run`], with `dying` linked as this compiler does with these options.
fn run_by(compiler: &str, options: &[&str], script: &str, names: &[&str]) -> Option<(Vec<String>, String)> {
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/../crates/plugin-abi/include");
    let session = Session::new()?
        .fixture("buffering", &["-shared", "-fPIC", include])
        .fixture("unfinished", &[])
        .fixture_by(compiler, "dying", options);
    let (mnt, backend) = (session.place.mnt(), session.place.backend());
    let library = session.place.root().join("buffering.so");
    fs::rename(session.place.root().join("fixtures/buffering"), &library).unwrap();
    let mount = format!("{}={}:{}", mnt.display(), library.display(), backend.display());
    let fixtures = session.place.root().join("fixtures");
    let script = format!("set -eu; FIX={}; cd \"{}\"; {script}", fixtures.display(), mnt.display());
    let mut command = session.command(["run", "-m", &mount, "--", "bash", "-c", &script]);
    let outcome = session.finish(command.env("DEFUSE_GUESTS", "1"));
    assert_eq!((outcome.stderr_text().as_str(), outcome.end.describe().as_str()), ("", "exit code 0"));
    let texts = names.iter().map(|name| fs::read_to_string(backend.join(name)).unwrap_or_default()).collect();
    let log = fs::read_to_string(backend.join("log")).unwrap_or_default();
    session.assert_nothing_left();
    Some((texts, log))
}

#[test]
fn open_files_are_flushed_and_closed_at_the_end() {
    let script = r#""$FIX/unfinished" f text; bash -c 'exec 3>g; echo more >&3; exit 3' || true; (exec 4>h; echo child >&4)"#;
    let Some((texts, log)) = run(script, &["f", "g", "h"]) else { return };
    assert_eq!(texts, ["text", "more\n", "child\n"]);
    for name in ["f", "g", "h"] {
        assert!(log.contains(&format!("{name} closed with 0 bytes left\n")), "{log}");
    }
}

/// In a call that waits, between calls, and by its own hand.
const WAYS: [&str; 15] = [
    "waits",
    "raises",
    "allocates",
    "writes",
    "pipe",
    "alarm",
    "handled",
    "once",
    "ignored",
    "blocked",
    "threads",
    "later",
    "leaves",
    "polls",
    "child",
];

#[test]
fn a_signal_that_ends_the_process_comes_after_its_files() {
    comes_after_its_files("cc", &[], &WAYS);
}

/// What ends the process there is our C library, with a thread pointer that is not the guest's.
#[test]
fn so_it_does_in_guests() {
    comes_after_its_files("cc", &["-static"], &WAYS);
    comes_after_its_files("musl-gcc", &[], &WAYS);
}

fn comes_after_its_files(compiler: &str, options: &[&str], ways: &[&str]) {
    let script = format!("\"$FIX/dying\" {}", ways.join(" "));
    let Some((texts, log)) = run_by(compiler, options, &script, ways) else { return };
    for (name, text) in ways.iter().zip(texts) {
        let goes_on = ["child", "polls"].contains(name);
        assert_eq!(text, format!("{name}{}", if goes_on { "-" } else { "" }), "{name}: {log}");
        assert_eq!(log.matches(&format!("{name} closed with 0 bytes left\n")).count(), 1, "{name}: {log}");
    }
}

#[test]
fn no_signal_is_lost_on_who_computes_or_on_a_plugin_that_hangs() {
    run(r#""$FIX/dying" computes stuck"#, &[]);
}

#[test]
fn exec_flushes_what_was_written() {
    let script = r#"
        "$FIX/unfinished" f text cloexec /bin/true; "$FIX/unfinished" g text keep /bin/true
        "$FIX/unfinished" h one, keep "$FIX/unfinished" h two, cloexec "$FIX/unfinished" h three keep /bin/false || true"#;
    let Some((texts, _)) = run(script, &["f", "g", "h"]) else { return };
    assert_eq!(texts, ["text", "text", "one,two,three"]);
}

/// A child of posix_spawn(3) that has not come to the library's constructor when its maker ends: the session waits for it. What keeps it there is its dynamic
/// linker, which writes to a pipe that is full.
#[test]
fn a_session_waits_for_a_child_that_has_not_begun() {
    need_programs!("python3");
    let Some(session) = Session::new() else { return };
    let (mnt, backend, root) = (session.place.mnt(), session.place.backend(), session.place.root());
    fs::write(backend.join("f"), "content\n").unwrap();
    let (pipe, out) = (root.join("pipe"), root.join("out"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&pipe);
    let mut reader = reader.unwrap();
    let spawn = r#"
import os, sys
pipe, out, served = sys.argv[1:]
full = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
try:
    while True: os.write(full, bytes(4096))
except BlockingIOError: pass
os.posix_spawn("/bin/cat", ["cat", served], {**os.environ, "LD_DEBUG": "files"},
    file_actions=[(os.POSIX_SPAWN_OPEN, 2, pipe, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT, 0o600)])
"#;
    let mount = format!("{}=passthrough:{}", mnt.display(), backend.display());
    let [pipe, out_name, served] = [&pipe, &out, &mnt.join("f")].map(|path| path.display().to_string());
    let outcome =
        session.defuse(["run", "-m", &mount, "--", "python3", "-c", spawn, &pipe, &out_name, &served]);
    assert_eq!((outcome.stderr_text().as_str(), outcome.end.describe().as_str()), ("", "exit code 0"));
    // Until the child, the last that has it open, has ended.
    let flags = rustix::fs::OFlags::empty();
    rustix::fs::fcntl_setfl(&reader, flags).unwrap();
    let mut told = Vec::new();
    reader.read_to_end(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(!told.contains("cannot join"), "{told}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "content\n");
    // The reaper has nothing to wait for any more.
    assert_eq!(defuse_e2e::leftover::processes(session.place.root()).unwrap(), "");
    session.assert_nothing_left();
}
