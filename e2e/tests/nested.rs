//! `defuse run` inside a session: the inner program has the inner mounts, and those outside that they do not cover.

use std::fs;
use std::path::PathBuf;

use defuse_e2e::process::{End, Outcome};
use defuse_e2e::product::Product;
use defuse_e2e::{Serving, Session, need_programs};

/// A mount point and its back end that lie beside the session's own.
fn second(session: &Session) -> (PathBuf, PathBuf) {
    let made = ["second", "second-backend"].map(|name| session.place.root().join(name));
    for folder in &made {
        fs::create_dir(folder).unwrap();
    }
    let [point, backend] = made;
    (point, backend)
}

/// Runs a bash script on the session's mount. In it, `inner ...` is `defuse run` with a mount at `$POINT`.
fn run(session: &Session, serving: Serving, script: &str) -> (Outcome, PathBuf) {
    let (point, backend) = second(session);
    let outer = serving.mount_argument(&session.place.mnt(), &session.place.backend());
    let inner = serving.mount_argument(&point, &backend);
    let (defuse, point) = (Product::get().defuse().display().to_string(), point.display());
    let script =
        format!("POINT={point}; inner() {{ \"{defuse}\" run -m '{inner}' -- \"$@\"; }}; umask 022\n{script}");
    (session.defuse(["run", "-m", &outer, "--", "bash", "-c", &script]), backend)
}

#[track_caller]
fn assert_says(outcome: &Outcome, wanted: &str) {
    assert_eq!(outcome.stdout_text(), wanted, "{}", outcome.stderr_text());
    assert_eq!(outcome.stderr_text(), "");
    assert_eq!(outcome.end, End::Exit(0));
}

/// On both mounts, in programs that these start, in a program that lies outside, and from a working directory there.
#[test]
fn inner_and_outer_mounts_are_seen() {
    for serving in [Serving::Plugin, Serving::BackingFd] {
        let Some(session) = Session::new() else { return };
        let script = r#"
            mkdir "$MNT/d"; echo outer >"$MNT/f"; echo data | inner tee "$POINT/g"; inner ls "$POINT"
            inner bash -c 'cat "$MNT/f" "$1/g"; (cat "$1/g"; echo more >>"$1/g"; echo more >>"$MNT/f"); env -i cat "$1/g" "$MNT/f"' bash "$POINT"
            cat "$MNT/f"; cd "$MNT/d"; inner bash -c 'pwd | sed "s:$MNT:MNT:"; cat ../f; echo made >here'; cat here; cp /bin/cat copy
            inner ./copy "$POINT/g"; inner sh -c 'env | grep -e DEFUSE_SESSION -e DEFUSE_OUTER -e LD_PRELOAD'; inner sh -c 'exit 7'; echo $?"#;
        let (outcome, backend) = run(&session, serving, script);
        assert_says(
            &outcome,
            "data\ng\nouter\ndata\ndata\ndata\nmore\nouter\nmore\nouter\nmore\nMNT/d\nouter\nmore\nmade\ndata\nmore\n7\n",
        );
        assert_eq!(fs::read_to_string(backend.join("g")).unwrap(), "data\nmore\n");
        assert_eq!(fs::read_to_string(session.place.backend().join("d/here")).unwrap(), "made\n");
        session.assert_nothing_left();
    }
}

/// At the same point the inner one counts; inside of the outer one, too; without one of its own the inner session has the outer mounts.
#[test]
fn an_inner_mount_covers_the_outer_one() {
    let Some(session) = Session::new() else { return };
    let (_, backend) = second(&session);
    let defuse = Product::get().defuse().display().to_string();
    let at = |point: PathBuf| Serving::Plugin.mount_argument(&point, &backend);
    let (same, below) = (at(session.place.mnt()), at(session.place.mnt().join("d")));
    let script = format!(
        r#"mkdir "$MNT/d"; echo outer >"$MNT/f"; "{defuse}" run -m '{same}' -- sh -c 'ls $MNT; echo inner >$MNT/f'; cat "$MNT/f"
        "{defuse}" run -m '{below}' -- sh -c 'cat $MNT/f $MNT/d/f; ls $MNT'; "{defuse}" run cat "$MNT/f"; ls $MNT/d
        "{defuse}" run -m '{below}' -- "{defuse}" run -m '{same}' -- sh -c 'ls $MNT; cat $MNT/f'"#
    );
    let outcome = session.script(Serving::Plugin, &script);
    assert_says(&outcome, "outer\nouter\ninner\nd\nf\nouter\nf\ninner\n");
    assert_eq!(fs::read_to_string(backend.join("f")).unwrap(), "inner\n");
    session.assert_nothing_left();
}

/// What the outer session has open is an error to the inner program, never the wrong bytes, and the outer session has it as before. Where the plugin has
/// given the program the file itself it is one as any.
#[test]
fn descriptors_of_the_outer_session_give_errors() {
    let errors = "first\n|1\n1\nx\n1\nsecond\nfirst\nsecond\nthird\n";
    let native = "first\nsecond|0\n0\nx\nfirst\nsecond\nno\n0\nno\nfirst\nsecond\nno\nthird\n";
    for (serving, wanted) in [(Serving::Plugin, errors), (Serving::BackingFd, native)] {
        let Some(session) = Session::new() else { return };
        let script = r#"
            printf 'first\nsecond\n' >"$MNT/f"; exec 3<"$MNT/f" 4>>"$MNT/f"; read line <&3; echo $line
            inner bash -c 'echo x >"$1/f"; exec 5<"$1/f"; read line <&3; echo "$line|$?"; echo no >&4; echo $?; read line <&5; echo "$line"' bash "$POINT" 2>/dev/null
            inner cat <"$MNT/f"; echo $?; read line <&3; echo $line; echo third >&4; cat "$MNT/f""#;
        let (outcome, _) = run(&session, serving, script);
        let said = outcome.stderr_text();
        assert_eq!(outcome.stdout_text(), wanted, "{serving:?}: {said}");
        let told = said.contains("standard input is a file on a mount of the session outside");
        assert_eq!(told, wanted == errors, "{said}");
        session.assert_nothing_left();
    }
}

/// What a killed session left in mapped pages is written back by an inner run, too.
#[test]
fn an_inner_run_writes_back_what_a_killed_session_left() {
    need_programs!("python3");
    let Some(session) = Session::new() else { return };
    let (point, backend) = second(&session);
    fs::write(backend.join("m"), "0123456789").unwrap();
    let second = Serving::Paged.mount_argument(&point, &backend);
    let store = "import mmap, os, signal, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[:4] = b'kept'; os.killpg(0, signal.SIGKILL)";
    let killed = session.defuse([
        "run",
        "-m",
        &second,
        "--",
        "python3",
        "-c",
        store,
        &point.join("m").display().to_string(),
    ]);
    assert_eq!(killed.end, End::Signal(9), "{}", killed.stderr_text());
    assert_eq!(defuse_e2e::leftover::processes(session.place.root()).unwrap(), "");
    let defuse = Product::get().defuse().display().to_string();
    let outcome = session.script(Serving::Plugin, &format!("\"{defuse}\" run true"));
    assert_says(&outcome, "");
    assert_eq!(fs::read_to_string(backend.join("m")).unwrap(), "kept456789");
    session.assert_nothing_left();
}
