//! The C library's text with its sites rewritten is one file of the session's, which its processes share.

use defuse_e2e::process::End;
use defuse_e2e::{Serving, Session, need_programs};

/// Prints for libc and the dynamic linker how many executable mappings are of their own files, and how many of the session's.
const COUNT: &str = r#"
    count() {
        own=$(grep -c "r-xp.*$1" <<<"$maps"); mine=$(grep -c "r-xp.*/sites/.*-text$" <<<"$maps")
        echo "$1 $own, rewritten $mine"
    }
    echo content >"$MNT/file""#;

fn run(session: &Session, text: &str) -> String {
    let outcome = session.script(Serving::Plugin, &format!("{COUNT}\n{text}"));
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    outcome.stdout_text()
}

#[test]
fn processes_of_a_session_share_it() {
    let Some(session) = Session::new() else { return };
    let text =
        r#"maps=$(cat /proc/self/maps "$MNT/file"); count libc.so; count ld-linux; tail -n 1 <<<"$maps""#;
    assert_eq!(run(&session, text), "libc.so 0, rewritten 2\nld-linux 0, rewritten 2\ncontent\n");
    session.assert_nothing_left();
}

/// What somebody has changed is not replaced.
#[test]
fn a_text_that_was_changed_is_kept() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("touching", &["-shared", "-fPIC"]);
    let text = r#"
        maps=$(LD_AUDIT=$FIX/touching cat /proc/self/maps "$MNT/file")
        own=$(grep -c "r-xp.*libc.so" <<<"$maps"); [ "$own" -ge 1 ] || echo "$maps"; count ld-linux; tail -n 1 <<<"$maps""#;
    // The auditing library has a libc of its own, which nobody has changed.
    assert_eq!(run(&session, text), "ld-linux 0, rewritten 2\ncontent\n");
    session.assert_nothing_left();
}

/// Where nothing may be run from the session's folder, processes rewrite their own copies.
#[test]
fn a_folder_that_forbids_programs_does_no_harm() {
    need_programs!("unshare", "mount");
    let Some(session) = Session::new() else { return };
    let inner = r#"maps=$(cat /proc/self/maps "$M/file"); grep "r-xp.*libc.so" <<<"$maps" >"$M/own"; [ -s "$M/own" ] || echo none; grep -c "/sites/" <<<"$maps"; tail -n 1 <<<"$maps""#;
    let outer = format!(
        r#"set -e; mkdir "$TMPDIR/run" "$TMPDIR/m" "$TMPDIR/b"; mount -t tmpfs -o noexec none "$TMPDIR/run"; echo content >"$TMPDIR/b/file"
        M=$TMPDIR/m DEFUSE_RUN_DIR=$TMPDIR/run "$0" run -m "$TMPDIR/m={}:$TMPDIR/b" -- bash -c '{inner}'; umount "$TMPDIR/run""#,
        "passthrough"
    );
    let plain = session.command([] as [&str; 0]);
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &outer]).arg(plain.get_program()).current_dir(session.place.root());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("TMPDIR", session.place.tmp());
    let outcome = session.finish(&mut command);
    if outcome.stderr_text().contains("Operation not permitted") {
        return defuse_e2e::requirement::skip("mount namespaces need root");
    }
    assert_eq!(outcome.stdout_text(), "0\ncontent\n", "{}", outcome.stderr_text());
}
