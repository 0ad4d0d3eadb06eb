//! Wrong arguments, broken plugins and backends, full disks: each has an error that names what is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use defuse_e2e::process::{End, Outcome};
use defuse_e2e::product::Product;
use defuse_e2e::{Serving, Session, need_programs, requirement};

/// Asserts that `defuse` refused: a non-zero exit code, a message with all of `words`, no panic, and no program run.
#[track_caller]
fn assert_refused(outcome: &Outcome, words: &[&str]) {
    let message = outcome.stderr_text();
    assert!(
        matches!(outcome.end, End::Exit(code) if code != 0 && code != 101),
        "{}: {message}",
        outcome.end.describe()
    );
    assert!(!message.contains("panicked"), "{message}");
    assert!(!outcome.stdout_text().contains("the program ran"), "the program ran all the same: {message}");
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

/// Runs a program with `-m ARGUMENT`.
fn mount(session: &Session, argument: &str) -> Outcome {
    session.defuse(["run", "-m", argument, "--", "echo", "the program ran"])
}

/// A file in the case's folder that stands for a plugin, and the mount argument that names it.
fn plugin_file(session: &Session, name: &str, content: &[u8]) -> (PathBuf, String) {
    let path = session.place.root().join(name);
    fs::write(&path, content).unwrap();
    let argument =
        format!("{}={}:{}", session.place.mnt().display(), path.display(), session.place.backend().display());
    (path, argument)
}

/// Where the last segment that is loaded ends: a file cut behind it, in its symbols, is still whole for the loader.
fn end_of_loaded_part(elf: &[u8]) -> usize {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let headers = (0..half(56)).map(|index| word(32) + index * half(54));
    // p_type 1 is PT_LOAD; p_offset and p_filesz follow at 8 and 32.
    headers.filter(|&at| elf[at] == 1).map(|at| word(at + 8) + word(at + 32)).max().unwrap()
}

fn passthrough_bytes() -> Vec<u8> {
    fs::read(Product::get().plugin("passthrough")).unwrap()
}

#[test]
fn missing_plugin_is_named() {
    let Some(session) = Session::new() else { return };
    let (mnt, backend) = (session.place.mnt(), session.place.backend());
    let outcome = mount(&session, &format!("{}=nosuchplugin:{}", mnt.display(), backend.display()));
    assert_refused(&outcome, &["nosuchplugin"]);
    let outcome = mount(&session, &format!("{}=/no/such/file.so:{}", mnt.display(), backend.display()));
    assert_refused(&outcome, &["/no/such/file.so"]);
    session.assert_nothing_left();
}

#[test]
fn truncated_plugin_is_refused() {
    let Some(session) = Session::new() else { return };
    let whole = passthrough_bytes();
    let loaded = end_of_loaded_part(&whole);
    for length in [0, 3, 64, 1000, loaded / 2, loaded - 4097] {
        let (path, argument) = plugin_file(&session, "truncated.so", &whole[..length]);
        assert_refused(&mount(&session, &argument), &[path.to_str().unwrap()]);
    }
    session.assert_nothing_left();
}

#[test]
fn plugin_for_another_machine_is_refused() {
    let Some(session) = Session::new() else { return };
    // e_machine: 183 is AArch64; EI_CLASS: 1 is 32 bit; EI_DATA: 2 is big-endian.
    for (name, offset, value) in [("aarch64.so", 18, 183), ("32bit.so", 4, 1), ("big-endian.so", 5, 2)] {
        let mut bytes = passthrough_bytes();
        bytes[offset] = value;
        let (path, argument) = plugin_file(&session, name, &bytes);
        assert_refused(&mount(&session, &argument), &[path.to_str().unwrap()]);
    }
    session.assert_nothing_left();
}

#[test]
fn file_that_is_no_plugin_is_refused() {
    let Some(session) = Session::new() else { return };
    let (path, argument) = plugin_file(&session, "text.so", b"#!/bin/sh\necho the program ran\n");
    assert_refused(&mount(&session, &argument), &[path.to_str().unwrap()]);

    let source = session.place.root().join("empty.c");
    fs::write(&source, "int unrelated(void) { return 0; }\n").unwrap();
    let library = session.place.root().join("unrelated.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(compiled.success());
    let argument = format!(
        "{}={}:{}",
        session.place.mnt().display(),
        library.display(),
        session.place.backend().display()
    );
    assert_refused(&mount(&session, &argument), &[library.to_str().unwrap()]);

    let directory = session.place.root().join("directory.so");
    fs::create_dir(&directory).unwrap();
    let argument = argument.replace("unrelated.so", "directory.so");
    assert_refused(&mount(&session, &argument), &[directory.to_str().unwrap()]);
    session.assert_nothing_left();
}

#[test]
fn plugin_that_others_may_write_is_not_trusted() {
    let Some(session) = Session::new() else { return };
    let (path, argument) = plugin_file(&session, "writable.so", &passthrough_bytes());
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_refused(&mount(&session, &argument), &[path.to_str().unwrap()]);
    session.assert_nothing_left();
}

#[test]
fn nonsense_mount_arguments_are_refused() {
    let Some(session) = Session::new() else { return };
    let mnt = session.place.mnt().display().to_string();
    let backend = session.place.backend().display().to_string();
    let arguments = [
        String::new(),
        "=".into(),
        "nonsense".into(),
        mnt.clone(),
        format!("{mnt}="),
        format!("{mnt}=passthrough:"),
        format!("{mnt}=:{backend}"),
        format!("=passthrough:{backend}"),
        format!("{mnt}:passthrough={backend}"),
        format!("{mnt}=passthrough,nosuchoption:{backend}"),
    ];
    for argument in arguments {
        let outcome = mount(&session, &argument);
        assert!(!outcome.end.is_success(), "{argument:?} is taken");
        assert_refused(&outcome, &["defuse"]);
    }
    session.assert_nothing_left();
}

#[test]
fn one_mount_point_twice_is_refused() {
    let Some(session) = Session::new() else { return };
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let outcome = session.defuse(["run", "-m", &argument, "-m", &argument, "--", "echo", "the program ran"]);
    assert_refused(&outcome, &[session.place.mnt().to_str().unwrap()]);
}

#[test]
fn mount_point_that_is_no_empty_directory_is_refused() {
    let Some(session) = Session::new() else { return };
    let (mnt, backend) = (session.place.mnt(), session.place.backend());
    let missing = mnt.join("missing");
    assert_refused(&mount(&session, &Serving::Plugin.mount_argument(&missing, &backend)), &["missing"]);
    fs::write(mnt.join("file"), "").unwrap();
    let file = mnt.join("file");
    assert_refused(&mount(&session, &Serving::Plugin.mount_argument(&file, &backend)), &["file"]);
    // Its content would be hidden, and a call that slipped past would find it.
    assert_refused(&mount(&session, &Serving::Plugin.mount_argument(&mnt, &backend)), &["empty"]);
}

#[test]
fn backend_that_is_no_directory_is_refused() {
    let Some(session) = Session::new() else { return };
    let missing = session.place.root().join("missing-backend");
    let outcome = mount(&session, &Serving::Plugin.mount_argument(&session.place.mnt(), &missing));
    assert_refused(&outcome, &["missing-backend"]);
    fs::write(&missing, "").unwrap();
    let outcome = mount(&session, &Serving::Plugin.mount_argument(&session.place.mnt(), &missing));
    assert_refused(&outcome, &["missing-backend"]);
    session.assert_nothing_left();
}

#[test]
fn command_line_errors_are_those_of_a_good_tool() {
    let Some(session) = Session::new() else { return };
    assert_refused(&session.defuse(["nosuchcommand"]), &["nosuchcommand"]);
    assert_refused(&session.defuse(["run", "--nosuchoption"]), &["--nosuchoption"]);
    assert_refused(&session.defuse(["run", "-m"]), &["-m"]);
    assert_refused(&session.defuse::<&str>([]), &["command"]);
    let help = session.defuse(["--help"]);
    assert!(help.end.is_success() && help.stdout_text().contains("run"), "{}", help.stderr_text());
    assert!(session.defuse(["--version"]).stdout_text().starts_with("defuse "));
    session.assert_nothing_left();
}

#[test]
fn exit_status_is_that_of_the_program() {
    let Some(session) = Session::new() else { return };
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let run = |command: &[&str]| session.defuse(["run", "-m", &argument, "--"].iter().chain(command)).end;
    assert_eq!(run(&["true"]), End::Exit(0));
    assert_eq!(run(&["sh", "-c", "exit 7"]), End::Exit(7));
    // As env(1) and shells have it.
    assert_eq!(run(&["nosuchprogram"]), End::Exit(127));
    assert_eq!(run(&["/dev/null"]), End::Exit(126));
    let killed = run(&["sh", "-c", "kill -TERM $$"]);
    assert!(matches!(killed, End::Exit(143) | End::Signal(15)), "{}", killed.describe());
    session.assert_nothing_left();
}

#[test]
fn vanished_backend_gives_errors_and_no_hang() {
    for serving in [Serving::Plugin, Serving::BackingFd] {
        let Some(session) = Session::new() else { return };
        let outcome = session.script(
            serving,
            "cd $MNT; echo kept >f; exec 3<f; rm -r $BACKEND
             (echo x >new) 2>&1 || echo refused; cat f 2>&1 || echo gone; ls >/dev/null 2>&1; read -r x <&3; echo \"$x\"; mkdir d 2>/dev/null || echo refused
             mkdir $BACKEND; cd /; echo outside works",
        );
        let text = outcome.stdout_text();
        assert!(outcome.end.is_success(), "{}: {text}{}", outcome.end.describe(), outcome.stderr_text());
        assert_eq!(text.matches("refused").count(), 2, "{text}");
        for word in ["gone", "kept", "outside works"] {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
        session.assert_nothing_left();
    }
}

/// Mounts a small tmpfs where `$1` says, in a mount namespace of its own so that it goes with the last process, and runs the rest.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=256k,nr_inodes=40 none "$1" && shift && exec "$@""#;

/// What programs find out when the disk, and then the table of inodes, is full.
const FILL: &str = r#"
    cd "$MNT"; head -c 100000 /dev/zero >kept; cp kept copy
    head -c 1000000 /dev/zero >big; echo "rc $?"; stat -c %s big; dd if=/dev/zero of=big bs=4096 seek=10 conv=notrunc 2>&1 | tail -n 1 | cut -d' ' -f1
    fallocate -l 1000000 more; echo "rc $?"; rm big more; echo again >small; cat small; cmp kept copy && echo same
    for i in $(seq 1 60); do : >inode$i || break; done 2>/dev/null; ls | wc -l; mkdir d; echo "rc $?"; rm inode*; mkdir d; echo "rc $?"
    cp kept copy2; cp kept copy3; echo "rc $?"; rm copy*; seq 1 1000 | sort -r >sorted; wc -l sorted
"#;

/// Runs `command` in mounts of its own, which `mount` makes with the folder `dir` as its `$1`, in the environment that `defuse` gets.
fn in_own_mounts(session: &Session, mount: &str, dir: &Path, command: &[&str]) -> Outcome {
    let like = session.command::<&str>([]);
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "bash", "-c", mount, "small"]).arg(dir).args(command);
    unshare.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare.current_dir(session.place.root());
    session.finish(&mut unshare)
}

#[test]
fn full_disk_says_so_as_a_plain_one_does() {
    need_programs!("unshare", "fallocate");
    let Some(session) = Session::new() else { return };
    let script = format!("umask 022\n{FILL}");
    let on_small_disk =
        |dir: PathBuf, command: &[&str]| in_own_mounts(&session, ON_A_SMALL_DISK, &dir, command);
    let possible = on_small_disk(session.place.mnt(), &["true"]);
    if !possible.end.is_success() {
        return requirement::skip("no mount namespace with a small tmpfs can be made here");
    }
    let plain = on_small_disk(session.place.mnt(), &["bash", "-c", &script]);
    assert!(plain.stderr_text().contains("No space left on device"), "{}", plain.stderr_text());
    for serving in [Serving::Plugin, Serving::BackingFd] {
        let mount = serving.mount_argument(&session.place.mnt(), &session.place.backend());
        let defuse = Product::get().defuse();
        let command = [defuse.to_str().unwrap(), "run", "-m", &mount, "--", "bash", "-c", &script];
        let served = on_small_disk(session.place.backend(), &command);
        let differences = defuse_e2e::diff::outcomes(&plain, &served);
        assert!(differences.is_empty(), "{serving:?}\n{differences}");
    }
    session.assert_nothing_left();
}

/// Mounts a tmpfs of the size `$2` where `$1` says, for the session's folder.
const RUN_DIRECTORY: &str =
    r#"mount -t tmpfs -o "size=$2" none "$1" && export DEFUSE_RUN_DIR="$1" RUN="$1" && shift 2 && exec "$@""#;

/// What becomes of opening files when the session's folder has no room for what it must know of them.
const FILL_RUN_DIRECTORY: &str = r#"
import os, resource, subprocess
os.chdir(os.environ["MNT"])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def fill():
    with open(os.environ["RUN"] + "/filler", "ab", 0) as file:
        try:
            while True: file.write(bytes(4096))
        except OSError as error: print(error.strerror)
def open_many():
    opened = []
    try:
        for n in range(2000): opened.append(os.open("f%d" % n, os.O_CREAT | os.O_RDWR))
    except OSError as error: print(error.strerror, len(opened) < 200)
    return opened
fill()
files = open_many()
print({os.write(file, b"written") for file in files})
for file in files: os.close(file)
again = [os.open("f%d" % n, os.O_RDWR) for n in range(len(files))]
print({os.read(file, 10) for file in again})
try:
    child = os.fork()
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
except OSError as error: pass  # An error, and not the end.
os.remove(os.environ["RUN"] + "/filler")
for file in again: os.close(file)
print(len(open_many()), subprocess.run(["cat", "f1"], capture_output=True))
"#;

#[test]
fn full_run_directory_is_an_error_and_not_the_end() {
    need_programs!("unshare", "python3");
    let Some(session) = Session::new() else { return };
    let mount = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let dir = session.place.root().join("small");
    fs::create_dir(&dir).unwrap();
    let run = |size: &str, program: &[&str]| {
        let defuse = Product::get().defuse();
        let command = [&[size, defuse.to_str().unwrap(), "run", "-m", &mount, "--"], program].concat();
        in_own_mounts(&session, RUN_DIRECTORY, &dir, &command)
    };
    if !in_own_mounts(&session, RUN_DIRECTORY, &dir, &["64k", "true"]).end.is_success() {
        return requirement::skip("no mount namespace with a small tmpfs can be made here");
    }
    for size in ["4k", "16k", "64k", "80k"] {
        assert_refused(&run(size, &["echo", "the program ran"]), &["o space left"]);
    }
    // With some room more it runs, or fails by itself, but is not killed.
    for size in ["96k", "128k", "256k"] {
        let outcome = run(size, &["sh", "-c", "cd $MNT; echo x >f; cat f f | wc -c"]);
        assert!(
            matches!(outcome.end, End::Exit(_)),
            "{size} {}: {}",
            outcome.end.describe(),
            outcome.stderr_text()
        );
    }
    let outcome = run("4m", &["python3", "-c", FILL_RUN_DIRECTORY]);
    let expected = "No space left on device\nNo space left on device True\n{7}\n{b'written'}\n\
        2000 CompletedProcess(args=['cat', 'f1'], returncode=0, stdout=b'written', stderr=b'')\n";
    assert_eq!(outcome.stdout_text(), expected, "{} {}", outcome.end.describe(), outcome.stderr_text());
    session.assert_nothing_left();
}

#[test]
fn descriptor_limit_is_an_error_of_the_call_not_of_the_program() {
    for serving in [Serving::Plugin, Serving::BackingFd] {
        let Some(session) = Session::new() else { return };
        let outcome = session.script(
            serving,
            r"cd $MNT; echo data >f; ulimit -n 10; n=0; while { exec {fd}<f; } 2>/dev/null; do n=$((n + 1)); test $n -lt 20 || break; done
               test $n -lt 10 && echo limited; exec 4<&-; cat f; ulimit -n",
        );
        assert_eq!(outcome.stdout_text(), "limited\ndata\n10\n", "{}", outcome.stderr_text());
        session.assert_nothing_left();
    }
}

#[test]
fn session_left_by_a_killed_run_disturbs_no_later_one() {
    let Some(session) = Session::new() else { return };
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    // The whole group is killed in the middle, the command that would clean up included.
    let killed = session.defuse([
        "run",
        "-m",
        &argument,
        "--",
        "bash",
        "-c",
        "cd $MNT; exec 3>held; echo before >&3; kill -KILL 0; echo not reached",
    ]);
    assert_eq!(killed.end, End::Signal(9), "{}", killed.stderr_text());
    // Its processes die one after the other; while one lives, the session is not a left one.
    assert_eq!(defuse_e2e::leftover::processes(session.place.root()).unwrap(), "");
    assert_eq!(fs::read_to_string(session.place.backend().join("held")).unwrap(), "before\n");
    let next = session.script(Serving::Plugin, "cd $MNT; cat held; echo after >>held; cat held");
    assert!(next.end.is_success(), "{}", next.stderr_text());
    assert_eq!(next.stdout_text(), "before\nbefore\nafter\n");
    // The later run has swept what the killed one left.
    session.assert_nothing_left();
}

#[test]
fn session_folder_of_somebody_else_is_not_used() {
    if !requirement::is_root() {
        return requirement::skip("needs root to make a folder of another user");
    }
    let Some(session) = Session::new() else { return };
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let foreign = session.place.root().join("foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(12345), Some(12345)).unwrap();
    let mut command =
        session.command(["run", "-m", &argument, "--", "bash", "-c", "cd $MNT; echo x >f; cat f"]);
    let outcome = session.finish(command.env("DEFUSE_RUN_DIR", &foreign));
    // Refused or left aside, but never used.
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 0);
    assert!(!outcome.end.is_success() || outcome.stdout_text() == "x\n", "{}", outcome.stderr_text());
    session.assert_nothing_left();
}
