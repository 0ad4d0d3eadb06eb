//! The library in `/etc/ld.so.preload`, for a whole system: here for the processes of one mount namespace.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use defuse_e2e::process::End;
use defuse_e2e::requirement::{has_mount_namespaces, skip};
use defuse_e2e::{Serving, Session, need_programs};

/// Puts the library into a copy of `/etc`, mounts that over `/etc`, and goes on with the rest of the arguments.
const WITH_PRELOAD: &str = r#"
    set -e; mkdir -p "$DEFUSE_E2E_CASE/etc"; mount -t tmpfs -o mode=755 none "$DEFUSE_E2E_CASE/etc"; cp -a /etc/. "$DEFUSE_E2E_CASE/etc/"
    echo "$1" >"$DEFUSE_E2E_CASE/etc/ld.so.preload"; mount --bind "$DEFUSE_E2E_CASE/etc" /etc; shift; exec "$@"
"#;

/// Runs `words` in a mount namespace in which the library is preloaded everywhere, and returns the output; none, with a
/// `skipped:` line, where there can be no such thing.
fn run<S: AsRef<OsStr>>(session: &Session, words: impl IntoIterator<Item = S>) -> Option<String> {
    if !has_mount_namespaces() {
        skip("mount namespaces need root");
        return None;
    }
    let plain = session.command([] as [&str; 0]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", WITH_PRELOAD, "sh"]);
    command.arg(Path::new(plain.get_program()).with_file_name("libdefuse.so")).args(words);
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("DEFUSE_E2E_CASE", session.place.root()).current_dir(session.place.root());
    let outcome = session.finish(&mut command);
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    Some(outcome.stdout_text())
}

/// Runs a bash script in a session in that namespace.
fn run_in_session(session: &Session, text: &str) -> Option<String> {
    let mount = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let command = session.command(["run", "-m", &mount, "--", "bash", "-c", text]);
    run(session, [command.get_program()].into_iter().chain(command.get_args()))
}

#[test]
fn outside_a_session_nothing_happens() {
    need_programs!("unshare", "mount");
    let Some(session) = Session::new() else { return };
    let text =
        "grep -c 'r-xp.*libdefuse' /proc/self/maps; echo \"${LD_PRELOAD-unset} ${DEFUSE_SESSION-unset}\"";
    let Some(output) = run(&session, ["bash", "-c", text]) else { return };
    assert_eq!(output, "1\nunset unset\n");
}

#[test]
fn a_session_needs_no_variable() {
    need_programs!("unshare", "mount");
    let Some(session) = Session::new() else { return };
    let session = session.fixture("scrub", &["-static"]);
    let text = r#"
        echo content >"$MNT/f"
        # A static program in between takes our entry away. Another library's stays.
        "$FIX/scrub" "" cat "$MNT/f"; "$FIX/scrub" "" sh -c 'cd "$MNT"; cat f; sh -c "cat f"; echo "${LD_PRELOAD-unset}"'
        "$FIX/scrub" libm.so.6 sh -c 'cd "$MNT"; cat f; echo "$LD_PRELOAD"; sh -c "cat f"'
    "#;
    let Some(output) = run_in_session(&session, text) else { return };
    assert_eq!(output, "content\ncontent\ncontent\nunset\ncontent\nlibm.so.6\ncontent\n");
    session.assert_nothing_left();
}

#[test]
fn named_twice_it_is_loaded_once() {
    need_programs!("unshare", "mount");
    let Some(session) = Session::new() else { return };
    let text = r#"
        cd "$MNT"; echo content >f; cat f; grep -c 'r-xp.*libdefuse' /proc/self/maps; echo "${LD_PRELOAD-unset}"
    "#;
    let Some(output) = run_in_session(&session, text) else { return };
    assert_eq!(output, "content\n1\nunset\n");
    session.assert_nothing_left();
}
