//! The end of the program is the end of the command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;

use rstest::rstest;

use super::lab::{Lab, assert_refused, stderr, stdout};

#[rstest]
#[case(0)]
#[case(1)]
#[case(125)]
#[case(255)]
fn an_exit_status_is_handed_on(#[case] status: i32) {
    let lab = Lab::new();
    let output = lab.run_script(&format!("echo out; echo err >&2; exit {status}")).output().unwrap();
    assert_eq!(output.status.code(), Some(status));
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("out\n", "err\n"));
    assert!(lab.sessions().is_empty());
}

#[rstest]
#[case(libc::SIGTERM)]
#[case(libc::SIGKILL)]
#[case(libc::SIGSEGV)]
#[case(libc::SIGPIPE)]
#[case(libc::SIGABRT)]
#[case(40)]
fn a_signal_that_kills_the_program_kills_the_command(#[case] signal: i32) {
    let lab = Lab::new();
    let output = lab.run_script(&format!("kill -{signal} $$")).output().unwrap();
    assert_eq!(output.status.signal(), Some(signal), "{}", stderr(&output));
    assert!(!output.status.core_dumped());
    assert!(lab.sessions().is_empty());
}

#[test]
fn a_program_that_is_missing_or_cannot_be_executed() {
    let lab = Lab::new();
    // A directory on the path that may not be entered would make it 126, as for `env`.
    let missing = lab.run(&["no-such-program"]).env("PATH", "/usr/bin:/bin").output().unwrap();
    assert_refused(&missing, 127, "'no-such-program'");
    assert_refused(&lab.run(&["/nonexistent/x"]).output().unwrap(), 127, "'/nonexistent/x'");
    fs::write(lab.at("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(lab.at("script"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(
        &lab.run(&[lab.at("script").to_str().unwrap()]).output().unwrap(),
        126,
        "Permission denied",
    );
    assert_refused(&lab.run(&["/"]).output().unwrap(), 126, "'/'");
    assert!(lab.sessions().is_empty());
}

#[test]
fn a_program_on_the_mount_is_looked_for_from_inside() {
    let lab = Lab::new();
    // The library is an empty one, so nothing is found there; but what lies elsewhere on the path is.
    let inside = lab.point().join("tool");
    assert_refused(&lab.run(&[inside.to_str().unwrap()]).output().unwrap(), 127, "tool");
    let path = format!("{}:{}", lab.point().display(), std::env::var("PATH").unwrap());
    let output = lab.run(&["sh", "-c", "echo $0; exit 3", "-x"]).env("PATH", path).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(3), "-x\n"));
}
