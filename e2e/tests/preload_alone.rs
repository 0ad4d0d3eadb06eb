//! Programs that have the library and no `defuse run`, on a mount of the kernel module: `mount -t defuse` and `LD_PRELOAD` or `/etc/ld.so.preload` are all it takes.
//! `cargo vmtest run --with defuse-e2e preload_alone` runs these; where the module is not loaded they are skipped.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use defuse_e2e::module::{Detach, session_with_module};
use defuse_e2e::process::{End, Outcome};
use defuse_e2e::product::Product;
use defuse_e2e::{Serving, Session, need_programs};

#[track_caller]
fn assert_done(outcome: &Outcome) {
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
}

/// Mounts as mount(8) does when it finds a helper for the type.
fn mount_with_helper(session: &Session, point: &Path, backend: &Path, options: &str) -> Detach {
    let helper = session.place.root().join("mount.defuse");
    if !helper.exists() {
        symlink(Product::get().defuse(), &helper).unwrap();
    }
    let point = point.display().to_string();
    let options = format!("rw,library=passthrough,options={options},backend={}", backend.display());
    let status = Command::new(&helper).args(["defuse", &point, "-o", &options]).status().unwrap();
    assert!(status.success());
    Detach(point)
}

fn mount(session: &Session) -> Detach {
    mount_with_helper(session, &session.place.mnt(), &session.place.backend(), Serving::Plugin.options())
}

/// `words`, with the library preloaded and nothing else said.
fn preloaded(session: &Session, words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(session.place.root());
    for (name, value) in session.command([] as [&str; 0]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("LD_PRELOAD", Product::get().interposer());
    command
}

/// Runs a bash script so.
fn bash(session: &Session, text: &str) -> Outcome {
    session.finish(&mut preloaded(session, &["bash", "-c", text]))
}

/// A program that has said that it is ready, and goes on when its input ends.
struct Holder(Child);

impl Holder {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start it");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let holder = Self(child);
        assert_eq!(line, "ready\n");
        holder
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

fn undo(session: &Session) {
    let mnt = session.place.mnt().display().to_string();
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

#[test]
fn a_program_is_served_and_finds_no_trace() {
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    let text = r#"
        cd "$MNT"; mkdir d; echo line >d/f; (cat d/f; cd d; pwd; echo more >>f); wc -l <d/f; ls
        echo "${LD_PRELOAD-unset} ${DEFUSE_SESSION-unset}"; env -i cat "$MNT/d/f"
    "#;
    let done = bash(&session, text);
    assert_done(&done);
    let mnt = session.place.mnt().display().to_string();
    assert_eq!(done.stdout_text(), format!("line\n{mnt}/d\n2\nd\nunset unset\nline\nmore\n"));
    assert_eq!(done.stderr, b"");
    assert_eq!(fs::read(session.place.backend().join("d/f")).unwrap(), b"line\nmore\n");
    undo(&session);
}

#[test]
fn without_a_mount_it_is_as_if_the_library_were_not_there() {
    let Some(session) = session_with_module() else { return };
    let done =
        bash(&session, r#"ls "$MNT"; echo x >"$MNT/f"; cat "$MNT/f"; rm "$MNT/f"; echo "${LD_PRELOAD##*/}""#);
    assert_done(&done);
    assert_eq!((done.stdout_text(), done.stderr_text()), ("x\nlibdefuse.so\n".into(), String::new()));
    session.assert_nothing_left();
}

#[test]
fn the_dynamic_linkers_list_is_enough() {
    need_programs!("unshare", "mount");
    let Some(session) = session_with_module() else { return };
    let session = session.fixture("scrub", &["-static"]);
    let _detach = mount(&session);
    let text = r#"
        set -e; mkdir "$DEFUSE_E2E_CASE/etc"; mount -t tmpfs -o mode=755 none "$DEFUSE_E2E_CASE/etc"; cp -a /etc/. "$DEFUSE_E2E_CASE/etc/"
        echo "$1" >"$DEFUSE_E2E_CASE/etc/ld.so.preload"; mount --bind "$DEFUSE_E2E_CASE/etc" /etc
        exec sh -c 'echo content >"$MNT/f"; cat "$MNT/f"; "$FIX/scrub" "" sh -c "cd $MNT; cat f; head -c 3 <f"'
    "#;
    let mut command = preloaded(&session, &["unshare", "-m", "sh", "-c", text, "sh"]);
    command.arg(Product::get().interposer()).env_remove("LD_PRELOAD");
    let done = session.finish(&mut command);
    assert_done(&done);
    assert_eq!(done.stdout_text(), "content\ncontent\ncon");
    undo(&session);
}

#[test]
fn unrelated_programs_share_what_they_pass() {
    need_programs!("python3");
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    let holder = Holder::start(preloaded(
        &session,
        &[
            "python3",
            "-c",
            r#"
import os, socket, sys
f = os.open(os.environ['MNT'] + '/f', os.O_CREAT | os.O_RDWR); os.write(f, b'0123456789'); os.lseek(f, 2, 0)
s = socket.socket(socket.AF_UNIX); s.bind(os.environ['OUT'] + '/s'); s.listen(); print('ready', flush=True)
c = s.accept()[0]; socket.send_fds(c, [b'x'], [f]); assert c.recv(1) == b'y'
assert os.read(f, 3) == b'567', 'the offset is shared'
os.lockf(f, os.F_LOCK, 0); c.send(b'z'); c.recv(1)
"#,
        ],
    ));
    let mut command = preloaded(
        &session,
        &[
            "python3",
            "-c",
            r#"
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['OUT'] + '/s'); f = socket.recv_fds(s, 1, 1)[1][0]
print(os.read(f, 3)); s.send(b'y'); s.recv(1)
os.lseek(f, 0, 0)
try: os.lockf(f, os.F_TLOCK, 0)
except OSError as error: print(error.strerror)
"#,
        ],
    );
    let done = session.finish(&mut command);
    assert_done(&done);
    assert_eq!(
        done.stdout_text(),
        "b'234'\n[Errno 11] Resource temporarily unavailable\n".replace("[Errno 11] ", "")
    );
    holder.end();
    undo(&session);
}

#[test]
fn a_mount_that_comes_later_is_there_for_the_next_program() {
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    let (point, backend) = (session.place.root().join("second"), session.place.home());
    fs::create_dir(&point).unwrap();
    fs::write(session.place.backend().join("f"), "first\n").unwrap();
    fs::write(backend.join("f"), "second\n").unwrap();
    let mut command = preloaded(
        &session,
        &["bash", "-c", r#"cat "$MNT/f"; echo ready; read -r; cat "$MNT/f" "$MNT/../second/f""#],
    );
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!([lines.next(), lines.next()], [Some("first".into()), Some("ready".into())]);
    let _detach_second = mount_with_helper(&session, &point, &backend, "");
    let done = bash(&session, r#"cat "$MNT/../second/f" "$MNT/f""#);
    assert_done(&done);
    assert_eq!(done.stdout_text(), "second\nfirst\n");
    drop(child.stdin.take());
    // The shell knows the mount no more than before; what it starts does.
    assert_eq!(lines.collect::<Vec<_>>(), ["first", "second"]);
    assert!(child.wait().unwrap().success());
    // What is undone is gone, for who is in the session, too.
    assert_done(&session.defuse(["umount", &point.display().to_string()]));
    let done = bash(&session, r#"ls "$MNT/../second"; cat "$MNT/f""#);
    assert_done(&done);
    assert_eq!(done.stdout_text(), "first\n");
    undo(&session);
}

#[test]
fn another_user_has_another_session() {
    need_programs!("setpriv");
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    fs::set_permissions(session.place.backend(), PermissionsExt::from_mode(0o777)).unwrap();
    let own = session.place.root().join("run-of-another");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(65534), Some(65534)).unwrap();
    let text = r#"
        cd "$MNT"; echo held >f; exec 3<f; export DEFUSE_RUN_DIR=$MNT/../run-of-another
        cd /; setpriv --reuid=65534 --regid=65534 --clear-groups bash -c 'cat "$MNT/f"; echo theirs >"$MNT/g"; stat -c %u "$MNT/g"; cat <&3'
        cat <&3; ls "$DEFUSE_RUN_DIR" | wc -l
    "#;
    let done = bash(&session, text);
    assert_done(&done);
    assert_eq!(done.stdout_text(), "held\n65534\nheld\n1\n");
    // A description of one user's session is none of the other's: an error, no data.
    assert!(done.stderr_text().contains("Remote I/O error"), "{}", done.stderr_text());
    undo(&session);
    // What is left of the other one is what his next command removes.
    let mut command = preloaded(&session, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(Product::get().defuse()).args(["run", "-m"]);
    command.arg(Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend()));
    command.args(["--", "true"]).env("DEFUSE_RUN_DIR", &own).env_remove("LD_PRELOAD");
    assert_done(&session.finish(&mut command));
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
}

#[test]
fn limits_of_open_files_stay_what_the_program_was_given() {
    need_programs!("python3", "setpriv", "prlimit");
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    let text = r#"
import os, resource, sys
def opens(soft, hard):
    files = []
    try:
        while True: files.append(os.open(sys.argv[1] + '/f', os.O_RDWR | os.O_CREAT))
    except OSError as error: print((soft, hard), max(files), error.strerror, flush=True)
    for file in files: os.close(file)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
opens(soft, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if hard <= 2000: opens(hard, hard)
print(os.system('ulimit -Sn; ulimit -Hn'))
"#;
    let script = session.place.root().join("limits.py");
    fs::write(&script, text).unwrap();
    let (script, mnt) = (script.display().to_string(), session.place.mnt().display().to_string());
    let run = |limits: &str, drop: bool| {
        let limits = format!("--nofile={limits}");
        let mut words = vec!["prlimit", &limits];
        if drop {
            words.extend(["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-all"]);
        }
        words.extend(["python3", &script, &mnt]);
        session.finish(&mut preloaded(&session, &words))
    };
    let lines = |soft: u64, hard: u64| {
        let opens = |soft: u64, hard: u64| format!("({soft}, {hard}) {} Too many open files\n", soft - 1);
        let raised = if hard <= 2000 { opens(hard, hard) } else { String::new() };
        format!("{}{raised}{hard}\n{hard}\n0\n", opens(soft, hard))
    };
    for (limits, soft, hard, drop) in
        [("64:100", 64, 100, false), ("1024:2000", 1024, 2000, false), ("1024:20000", 1024, 20_000, true)]
    {
        let done = run(limits, drop);
        assert_done(&done);
        assert_eq!((done.stdout_text(), done.stderr_text()), (lines(soft, hard), String::new()), "{limits}");
    }
    undo(&session);
}

#[test]
fn a_library_without_its_command_leaves_the_mount_refused() {
    let Some(session) = session_with_module() else { return };
    let _detach = mount(&session);
    let alone = session.place.root().join("libdefuse.so");
    fs::copy(Product::get().interposer(), &alone).unwrap();
    let mut command = preloaded(&session, &["bash", "-c", r#"echo goes on; echo x >"$MNT/f""#]);
    let done = session.finish(command.env("LD_PRELOAD", &alone));
    assert_eq!(done.end, End::Exit(1));
    assert_eq!(done.stdout_text(), "goes on\n");
    let said = done.stderr_text();
    assert!(said.contains("no command 'defuse'") && said.contains("Remote I/O error"), "{said}");
    undo(&session);
}

#[test]
fn what_a_killed_program_stored_is_written_before_the_mount_goes() {
    need_programs!("python3");
    let Some(session) = session_with_module() else { return };
    let _detach =
        mount_with_helper(&session, &session.place.mnt(), &session.place.backend(), Serving::Paged.options());
    fs::write(session.place.backend().join("f"), [b'.'; 8192]).unwrap();
    let mut command = preloaded(
        &session,
        &[
            "python3",
            "-c",
            r#"
import mmap, os, signal
f = os.open(os.environ['MNT'] + '/f', os.O_RDWR); m = mmap.mmap(f, 8192); m[4096:4100] = b'kept'
os.kill(os.getpid(), signal.SIGKILL)
"#,
        ],
    );
    assert_eq!(session.finish(&mut command).end, End::Signal(9));
    undo(&session);
    assert_eq!(&fs::read(session.place.backend().join("f")).unwrap()[4094..4101], b"..kept.");
}
