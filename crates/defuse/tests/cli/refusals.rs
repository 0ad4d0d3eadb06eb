//! What `run` refuses before the program is started.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::lab::{Lab, assert_refused, exists};

/// Runs with these options; asserts that it is refused with `named` and that neither the program ran nor a session is left.
#[track_caller]
fn refused(lab: &Lab, options: &[&str], named: &str) {
    let mut command = lab.command(&["run"]);
    command.args(options).args(["--", "touch"]).arg(lab.at("ran"));
    assert_refused(&command.output().unwrap(), 125, named);
    assert!(!exists(&lab.at("ran")));
    assert!(lab.sessions().is_empty());
}

#[test]
fn mounts_that_make_no_sense() {
    let lab = Lab::new();
    let at = |name: &str, plugin: &str| format!("-m{}={plugin}:/tmp", lab.at(name).display());
    refused(&lab, &["-mnonsense"], "there is no '='");
    refused(&lab, &[&at("missing", "tiny")], "mkdir it first");
    refused(&lab, &[&at("libtiny.so", "tiny")], "not a directory");
    refused(&lab, &[&at(".", "tiny")], "not empty");
    refused(&lab, &["-m/=tiny:/tmp"], "root directory");
    refused(&lab, &[&lab.mount(), &lab.mount()], "mount point already");
    refused(&lab, &[], "no mount given");
}

#[test]
fn plugins_that_do_not_load() {
    let lab = Lab::new();
    let with = |plugin: &str| format!("-m{}={plugin}:/tmp", lab.point().display());
    refused(&lab, &[&with("nothing")], "DEFUSE_PLUGIN_PATH");
    refused(&lab, &[&with("/nonexistent/x.so")], "/nonexistent/x.so");
    refused(&lab, &[&with("empty")], "libempty.so");
    fs::write(lab.at("libtext.so"), "no library").unwrap();
    refused(&lab, &[&with("text")], "libtext.so");
    let whole = fs::read(lab.at("libtiny.so")).unwrap();
    fs::write(lab.at("libcut.so"), &whole[..whole.len() / 4]).unwrap();
    refused(&lab, &[&with("cut")], "libcut.so");
    fs::set_permissions(lab.at("libtiny.so"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&lab, &[&with("tiny")], "written by others");
}

#[test]
fn a_plugin_that_crashes_at_its_start() {
    let lab = Lab::new();
    let with = |plugin: &str| format!("-m{}={plugin}:/nonexistent", lab.point().display());
    lab.add_plugin(
        "fall",
        "#include <stdlib.h>\nint usfs_open(void) { return 38; }\nvoid usfs_init(void) { abort(); }",
    );
    refused(&lab, &[&with("fall")], "SIGABRT");
}

#[test]
fn a_run_without_the_interposer() {
    let lab = Lab::new();
    let run = |library: &str| {
        lab.run(&["touch", lab.at("ran").to_str().unwrap()]).env("DEFUSE_LIBRARY", library).output().unwrap()
    };
    assert_refused(&run("/nonexistent.so"), 125, "/nonexistent.so");
    let writable = lab.at("libempty.so");
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o757)).unwrap();
    assert_refused(&run(writable.to_str().unwrap()), 125, "written by others");
    assert!(!exists(&lab.at("ran")));
}

#[test]
fn logs_that_cannot_be_written() {
    let lab = Lab::new();
    refused(&lab, &["--log", "loud", &lab.mount()], "off, error, warn");
    refused(&lab, &["--trace=/nonexistent/log", &lab.mount()], "cannot log to /nonexistent/log");
    let output = lab.run(&["true"]).env("DEFUSE_LOG", "loud").output().unwrap();
    assert_refused(&output, 125, "DEFUSE_LOG");
}

#[test]
fn a_run_directory_that_cannot_be_used() {
    let lab = Lab::new();
    let output = lab.run(&["true"]).env("DEFUSE_RUN_DIR", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(super::lab::stderr(&output).contains("/nonexistent"));
}

#[test]
fn a_limit_of_file_size_below_a_session_s_memory() {
    let lab = Lab::new();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -f 1; exec \"$@\"", "sh"]);
    let run = lab.run(&["true"]);
    command.arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // A file may not become as large as the session's memory: an error, not death by SIGXFSZ.
    assert_refused(&command.output().unwrap(), 125, "arena");
    assert!(lab.sessions().is_empty());
}
