//! What plugins hear at the end of a process, or of its image: as a file system of the kernel's does when that closes the FDs.

use std::fs;

use defuse_e2e::Session;

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
