//! A process without defuse in it that inherits a served descriptor gets errors from it: never data, end-of-file or success.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::process::End;
use defuse_e2e::{Serving, Session, same_as_plain, script};

/// The calls in the bystander's transcript that did not fail, the check of the descriptor itself left out.
fn successes(transcript: &str) -> Vec<&str> {
    transcript
        .lines()
        .filter(|line| !line.contains(" = -1") && !line.starts_with("fcntl(3, F_GETFD)"))
        .collect()
}

fn bystander(what: &str, script: &str) {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("bystander", &["-static"]);
    let outcome = session.script(Serving::Plugin, script);
    let text = outcome.stdout_text();
    assert_eq!(outcome.end, End::Exit(0), "{text}{}", outcome.stderr_text());
    assert!(text.contains("fcntl(3, F_GETFD) = 0"), "the descriptor was not inherited:\n{text}");
    assert_eq!(
        successes(&text),
        Vec::<&str>::new(),
        "{what}: these calls of the bystander succeeded:\n{text}"
    );
    session.assert_nothing_left();
}

#[test]
fn inherited_file_gives_errors_only() {
    bystander("file", "cd $MNT; echo data >f; exec 3<>f; $FIX/bystander file; test \"$(cat f)\" = data");
}

#[test]
fn inherited_file_opened_for_reading_gives_errors_only() {
    bystander(
        "read-only file",
        "cd $MNT; echo data >f; exec 3<f; $FIX/bystander file; test \"$(cat <&3)\" = data",
    );
}

#[test]
fn inherited_directory_gives_errors_only() {
    bystander(
        "directory",
        "cd $MNT; mkdir d; echo x >d/inside; exec 3<d; $FIX/bystander directory; test \"$(ls d)\" = inside",
    );
}

#[test]
fn standard_output_on_the_mount_is_refused_to_a_static_program() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("bystander", &["-static"]);
    // Its output has nowhere to go, and the file must not look as if the program had said nothing.
    let outcome = session.script(
        Serving::Plugin,
        "cd $MNT; echo before >f; $FIX/bystander file 3<f >>f; cat f; echo after >>f; cat f",
    );
    assert_eq!(outcome.stdout_text(), "before\nbefore\nafter\n", "{}", outcome.stderr_text());
    session.assert_nothing_left();
}

same_as_plain! {
    /// What the program has of its own, and paths elsewhere, are none of our business. The warning about its working directory is
    /// in the tests of outsiders.
    static_program_on_the_mount_runs: script(r#"
        cd "$MNT"; cp "$FIX/bystander" b; ls -l b | cut -c1-10; exec 3</dev/null; ./b file | head -n 2; "$FIX/bystander" file <b | head -n 1
    "#).fixture_with("bystander", &["-static"]).env("DEFUSE_LOG", "error");
}
