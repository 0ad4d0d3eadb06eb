//! Help, version, lists.

use super::lab::{Lab, assert_refused, stderr, stdout};

#[test]
fn help_goes_to_standard_output() {
    let lab = Lab::new();
    for (arguments, named) in [
        (&["--help"][..], "defuse doctor"),
        (&["run", "--help"], "POINT=LIBRARY[,OPTION...]:BACKEND"),
        (&["plugin", "--help"], "plugin check"),
        (&["doctor", "--help"], "defuse doctor"),
    ] {
        let output = lab.command(arguments).output().unwrap();
        assert!(output.status.success());
        assert!(stdout(&output).contains(named) && stdout(&output).contains("Usage:"));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn the_version_is_the_crate_s() {
    let output = Lab::new().command(&["--version"]).output().unwrap();
    assert_eq!(stdout(&output), concat!("defuse ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_wrong_command_line_says_where_help_is() {
    let lab = Lab::new();
    assert_refused(&lab.command(&[]).output().unwrap(), 2, "Try 'defuse --help'.");
    assert_refused(&lab.command(&["walk"]).output().unwrap(), 2, "no command 'walk'");
    assert_refused(&lab.command(&["run", "--frob"]).output().unwrap(), 125, "Try 'defuse run --help'.");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Lab::new().command(&["--help"]).stdout(full).output().unwrap();
    assert_refused(&output, 1, "cannot write to standard output");
}

#[test]
fn plugins_are_listed_with_what_they_are() {
    let lab = Lab::new();
    std::fs::write(lab.at("libtext.so"), "no library").unwrap();
    let output = lab.command(&["plugin", "list"]).output().unwrap();
    let listed = stdout(&output);
    let line = listed.lines().find(|line| line.starts_with("tiny ")).expect(&listed);
    assert!(line.contains("listing 1 (usfs_)") && line.ends_with("libtiny.so"), "{line}");
    assert!(!listed.contains("libtext.so") && !listed.contains("libempty.so"), "{listed}");
}

#[test]
fn a_plugin_that_cannot_be_tried_is_named() {
    let lab = Lab::new();
    let check = |spec: &str| lab.command(&["plugin", "check", spec]).output().unwrap();
    assert_refused(&check("nothing:/tmp"), 1, "libnothing.so");
    assert_refused(&check("empty:/tmp"), 1, "libempty.so");
    assert_refused(&check("tiny"), 2, "no ':'");
    // It answers everything with ENOSYS.
    assert_refused(&check("tiny:/tmp"), 1, "cannot check");
}

#[test]
fn a_plugin_that_crashes_is_reported_with_the_signal() {
    let lab = Lab::new();
    let open = "int usfs_open(const char *path, int flags, unsigned mode, unsigned long *handle)";
    lab.add_plugin(
        "fall",
        &format!("#include <stdlib.h>\n{open} {{ return 0; }}\nint usfs_init(void) {{ abort(); }}"),
    );
    let output = lab.command(&["plugin", "check", "fall:/tmp"]).output().unwrap();
    assert_refused(&output, 1, "libfall.so");
    assert!(
        stderr(&output).contains("crashed") && stderr(&output).contains("SIGABRT"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_doctor_s_status_says_whether_something_lacks() {
    let lab = Lab::new();
    let output = lab.command(&["doctor"]).output().unwrap();
    let report = stdout(&output);
    assert_eq!(output.status.code(), Some(i32::from(report.lines().any(|line| line.starts_with("lack")))));
    assert!(report.contains("interposer") && report.contains("libempty.so"), "{report}");
    assert!(report.contains("kernel"), "{report}");
    assert!(report.lines().count() >= 16, "{report}");
    for line in report.lines() {
        assert!(
            ["ok    ", "note  ", "lack  ", "      "].iter().any(|start| line.starts_with(start)),
            "{line}"
        );
    }

    let without = lab.command(&["doctor"]).env("DEFUSE_LIBRARY", "/nonexistent.so").output().unwrap();
    assert_eq!(without.status.code(), Some(1));
    assert!(stdout(&without).contains("lack  interposer"), "{}", stdout(&without));
}

#[test]
fn a_library_that_crashes_as_it_is_loaded_is_named_in_the_list() {
    let lab = Lab::new();
    lab.add_plugin(
        "aborting",
        "#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }",
    );
    let output = lab.command(&["plugin", "list"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let listed = stdout(&output);
    let line = listed.lines().find(|line| line.starts_with("aborting "));
    assert!(line.is_some_and(|line| line.contains("refused: ") && line.contains("SIGABRT")), "{listed}");
    assert!(listed.contains("listing 1 (usfs_)"), "{listed}");
}
