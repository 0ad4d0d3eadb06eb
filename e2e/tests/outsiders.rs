//! Programs that cannot be intercepted: they run as they would without defuse, what they start is intercepted where that is
//! possible, and one line on standard error says so when they are given something of a mount.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use defuse_e2e::mounted::by_module;
use defuse_e2e::process::{End, Outcome};
use defuse_e2e::{Serving, Session, need_programs, requirement};

/// Runs a script with `$MNT/f` on the mount, which must succeed.
fn run(session: &Session, script: &str) -> Outcome {
    let outcome = session.script(Serving::Plugin, &format!("echo content >$MNT/f; {script}"));
    assert_eq!(outcome.end, End::Exit(0), "{}\n{}", outcome.stdout_text(), outcome.stderr_text());
    session.assert_nothing_left();
    outcome
}

/// The lines of warning, from what the program is on.
fn warnings(outcome: &Outcome) -> Vec<String> {
    let text = outcome.stderr_text();
    text.lines().map(|line| line.split_once(" warn ").map_or(line, |(_, said)| said).to_owned()).collect()
}

#[test]
fn a_static_program_is_told_of() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &["-static"]);
    let outcome =
        run(&session, "cd $OUT; $FIX/opener $MNT/f /dev/null; $FIX/opener /dev/null; echo $LD_PRELOAD");
    assert_eq!(outcome.stdout_text(), "not found: \nfound: \nfound: \n\n");
    let [warning] = &warnings(&outcome)[..] else { panic!("{}", outcome.stderr_text()) };
    let name = session.place.root().join("fixtures/opener");
    assert!(warning.starts_with(&format!("\"{}\" is statically linked", name.display())), "{warning}");
    assert!(
        warning.ends_with(&format!("it will not find \"{}\"", session.place.mnt().join("f").display())),
        "{warning}"
    );
}

#[test]
fn what_it_gets_is_named() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &["-static"]);
    for (script, named) in [
        ("$FIX/opener <$MNT/f", "using its FD 0 will fail"),
        ("$FIX/opener 7>>$MNT/f 2>/dev/null 2>&1", "using its FD 7 will fail"),
        ("cd $MNT; $FIX/opener", "it will not find its working directory"),
        ("$FIX/opener --file=$MNT/f || true", "it will not find"),
        ("cp $FIX/opener $MNT/o; $MNT/o $MNT/f", "it will not find"),
    ] {
        let outcome = run(&session, script);
        assert!(
            matches!(&warnings(&outcome)[..], [one] if one.contains(named)),
            "{script}: {}",
            outcome.stderr_text()
        );
    }
}

/// Its working directory is one in which nothing can be found or made, also if it was elsewhere in between.
#[test]
fn it_starts_where_nothing_is_found() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &["-static"]);
    for way in ["cd $MNT", "cd $OUT; cd $MNT", "cd $MNT; cd $OUT; cd $MNT"] {
        let outcome = run(&session, &format!("echo elsewhere >$OUT/x; {way}; $FIX/opener x"));
        assert_eq!(outcome.stdout_text(), "not found: \n", "{way}");
    }
}

#[test]
fn nothing_is_said_when_nothing_is_lost() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &["-static"]);
    // A descriptor that exec closes, another directory of a like name, a program that is intercepted.
    let outcome = run(
        &session,
        "cd $OUT; cc -w -o plain-opener -x c - <<<'int main(){}'; $FIX/opener ${MNT}x 3<&-; ./plain-opener $MNT/f 5<$MNT/f",
    );
    assert_eq!(outcome.stdout_text(), "not found: \n");
    assert_eq!(warnings(&outcome), Vec::<String>::new());
}

#[test]
fn what_a_static_program_starts_is_intercepted() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &["-static"]);
    let outcome = run(&session, "cd $OUT; $FIX/opener '!cat '$MNT/f");
    assert_eq!(outcome.stdout_text(), "content\n");
}

#[test]
fn a_program_of_32_bits_runs_as_before() {
    let Some(session) = Session::new() else { return };
    let options = [
        "-m32",
        "-nostdlib",
        "-static",
        "-fno-pic",
        "-no-pie",
        "-fno-stack-protector",
        "-Wl,--build-id=none",
    ];
    let session = session.fixture("bare", &options);
    let program = session.place.root().join("fixtures/bare");
    match Command::new(&program).output() {
        Ok(alone) if alone.stdout == b"ran\n" => {}
        other => return requirement::skip(&format!("no 32-bit programs here: {other:?}")),
    }
    let outcome = run(&session, "cd $OUT; $FIX/bare; $FIX/bare >$MNT/g; echo $?; $FIX/bare $MNT/f");
    assert_eq!(outcome.stdout_text(), "ran\n7\nran\n");
    let warnings = warnings(&outcome);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|line| line.contains("is not a 64-bit program")), "{warnings:?}");
}

#[test]
fn a_program_linked_with_musl_runs_on_the_mount_unless_told_otherwise() {
    need_programs!("musl-gcc");
    for (guests, finds, warned) in [("", "found: content", 0), ("0", "not found: ", 1)] {
        let Some(session) = Session::new() else { return };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/opener.c");
        let program = session.place.root().join("fixtures/opener");
        let compiled = Command::new("musl-gcc")
            .arg("-w")
            .arg("-o")
            .arg(&program)
            .arg(source)
            .status()
            .expect("musl-gcc");
        assert!(compiled.success());
        std::fs::write(session.place.backend().join("f"), "content\n").expect("a file");
        let mount =
            format!("{}=passthrough:{}", session.place.mnt().display(), session.place.backend().display());
        let words = |more: &[&str]| [&["run", "-m", &mount], more].concat().join("\0");
        let script = "$0 $1; $0 '!cat '$1; $0 \"!$0 '!cat $1'\"";
        let file = session.place.mnt().join("f").display().to_string();
        let program = program.display().to_string();
        let run = |more: &[&str]| {
            let words = words(more);
            let outcome = session.finish(session.command(words.split('\0')).env("DEFUSE_GUESTS", guests));
            assert_eq!(outcome.end, End::Exit(0), "{}", outcome.stderr_text());
            outcome
        };
        let outcome = run(&["sh", "-c", script, &program, &file]);
        let line = format!("{finds}\n");
        let said = if finds.ends_with("content") { format!("{line}\n") } else { line.clone() };
        assert_eq!(outcome.stdout_text(), format!("{said}content\ncontent\n"));
        let warnings = warnings(&outcome);
        assert_eq!(warnings.len(), warned, "{warnings:?}");
        assert!(warnings.iter().all(|one| one.contains("is linked with musl")), "{warnings:?}");
        // As the first program of a session, too.
        assert_eq!(run(&[&program, &file]).stdout_text(), said);
    }
}

#[test]
fn a_program_that_changes_the_user_runs_as_before() {
    need_programs!("setpriv");
    if !requirement::is_root() {
        return requirement::skip("not root: no program can be made to change the user");
    }
    let Some(session) = Session::new() else { return };
    let session = session.fixture("opener", &[]);
    let outcome = run(
        &session,
        "chmod 755 $MNT .; cp $FIX/opener $OUT/o; chmod 755 $OUT; chown 65534 $OUT/o; chmod 4755 $OUT/o
        cd /; $OUT/o $MNT/f; setpriv --reuid=65534 --regid=65534 --clear-groups $OUT/o $MNT/f; setpriv --no-new-privs $OUT/o $MNT/f",
    );
    // It is another user's for root only, and not when it may not be.
    assert_eq!(outcome.stdout_text(), "not found: \nfound: content\n\nfound: content\n\n");
    let [warning] = &warnings(&outcome)[..] else { panic!("{}", outcome.stderr_text()) };
    assert!(warning.contains("runs with other rights"), "{warning}");
}

/// A process that is not of the session gets what was sent to it, and nothing that plugins have.
#[test]
fn it_is_passed_what_the_program_passes() {
    const LISTENER: &str = r#"
import os, socket, sys
listening = socket.socket(socket.AF_UNIX); listening.bind(sys.argv[1]); listening.listen(); print("listening", flush=True)
_, fds, flags, _ = socket.recv_fds(listening.accept()[0], 10, 8)
print(len(fds), bool(flags & socket.MSG_CTRUNC))
try: print(os.read(fds[0], 10))
except OSError as error: print(error.strerror)"#;
    const SENDER: &str = r#"python3 -c 'import socket, sys
f = open(sys.argv[2]); there = socket.socket(socket.AF_UNIX); there.connect(sys.argv[1]); socket.send_fds(there, [b"x"], [f.fileno()])' $OUT/listening $MNT/f"#;
    need_programs!("python3");
    let Some(session) = Session::new() else { return };
    let name = session.place.out().join("listening");
    let mut listener = Command::new("python3");
    let mut listener =
        listener.args(["-c", LISTENER]).arg(name).stdout(Stdio::piped()).spawn().expect("start python3");
    let mut said = BufReader::new(listener.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("read what it says");
    assert_eq!(line, "listening\n");
    run(&session, SENDER);
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("read what it says");
    assert!(listener.wait().expect("wait for python3").success());
    let error = if by_module() { "Remote I/O error" } else { "Is a directory" };
    assert_eq!(rest, format!("1 False\n{error}\n"));
}
