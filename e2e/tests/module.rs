//! Mounts of the kernel module: what programs get from it that the session's folder cannot give, and the commands that make them.
//! `cargo vmtest run --with defuse-e2e module` runs these; where the module is not loaded they are skipped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Child, Command, Stdio};

use defuse_e2e::module::{Detach, session_with_module};
use defuse_e2e::process::{End, Outcome};
use defuse_e2e::product::Product;
use defuse_e2e::{Serving, Session, need_programs};

#[track_caller]
fn assert_done(outcome: &Outcome) {
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
}

fn mount(session: &Session) -> (String, Detach) {
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    let made = session.defuse(["mount", &argument]);
    assert_done(&made);
    assert_eq!(made.stderr_text(), "", "it must not fall back");
    let point = session.place.mnt().display().to_string();
    (point.clone(), Detach(point))
}

/// A Python program in a session of its own, which has said that it is ready, and goes on when its input ends.
struct Holder(Child);

impl Holder {
    fn start(session: &Session, program: &str) -> Self {
        let program = format!(
            "import fcntl, os, sys, signal\n{program}\nprint('ready', flush=True)\nsys.stdin.read()\n"
        );
        let mut command = session.command(["run", "--", "python3", "-c", &program]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start python");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let holder = Self(child);
        assert_eq!(line, "ready\n");
        holder
    }

    /// The process that runs the program, which is the only child of `defuse run`.
    fn program(&self) -> String {
        let runner = self.0.id();
        let children = fs::read_to_string(format!("/proc/{runner}/task/{runner}/children")).unwrap();
        children.trim().to_owned()
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// Runs a Python program in a session of its own.
fn python(session: &Session, program: &str) -> String {
    let program = format!("import fcntl, os, sys, struct, errno\n{program}");
    let outcome = session.defuse(["run", "--", "python3", "-c", &program]);
    assert_done(&outcome);
    outcome.stdout_text()
}

#[test]
fn a_mount_of_the_kernel_is_made_listed_used_and_undone() {
    let Some(session) = session_with_module() else { return };
    let (mnt, _detach) = mount(&session);
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        info.lines().any(|line| line.contains(&format!(" {mnt} ")) && line.contains(" - defuse ")),
        "{info}"
    );
    assert!(session.defuse(["list"]).stdout_text().starts_with(&format!("module\t{mnt}=/")));
    let again = session.defuse(["mount", &format!("{mnt}=passthrough:/")]);
    assert!(again.stderr_text().contains("mounted already"), "{}", again.stderr_text());
    for _ in 0..2 {
        assert_done(&session.defuse(["run", "--", "sh", "-c", "cd $MNT; echo line >>f; cat f"]));
    }
    assert_eq!(fs::read(session.place.backend().join("f")).unwrap(), b"line\nline\n");
    assert_done(&session.defuse(["umount", &mnt]));
    assert_eq!(session.defuse(["list"]).stdout, b"");
    session.assert_nothing_left();
}

#[test]
fn the_command_is_the_helper_by_its_name() {
    let Some(session) = session_with_module() else { return };
    let helper = session.place.root().join("mount.defuse");
    symlink(Product::get().defuse(), &helper).unwrap();
    let mnt = session.place.mnt().display().to_string();
    let options = format!(
        "rw,noauto,nosuid,library=passthrough,options=backing-fd,backend={}",
        session.place.backend().display()
    );
    let _detach = Detach(mnt.clone());
    let status = Command::new(&helper).args(["defuse", &mnt, "-o", &options]).status().unwrap();
    assert!(status.success());
    let list = session.defuse(["list"]).stdout_text();
    assert!(list.starts_with("module\t") && list.contains(",backing-fd:"), "{list}");
    assert_done(&session.defuse(["run", "--", "sh", "-c", "echo x >$MNT/f; cat $MNT/f"]));
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

/// mount(8) and umount(8) look for helpers in /sbin alone. Laid over it here, in a namespace of mounts that ends with the shell.
const HELPERS: &str = r#"set -e
mount -t tmpfs tmpfs "$T"
mkdir "$T/upper" "$T/work"
sbin=$(realpath /sbin)
mount -t overlay -o "lowerdir=$sbin,upperdir=$T/upper,workdir=$T/work" overlay "$sbin"
ln -s "$DEFUSE" /sbin/mount.defuse
ln -s "$DEFUSE" /sbin/umount.defuse
super_options() { findmnt -n -o FS-OPTIONS --mountpoint "$MNT"; }
"#;

/// Runs a shell script as root that calls mount(8) and umount(8), with our helpers where they look.
fn with_helpers(session: &Session, script: &str) -> Outcome {
    let folder = session.place.root().join("sbin");
    fs::create_dir(&folder).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{HELPERS}{script}")]);
    let of_session = session.command(["--version"]);
    command.env_clear().envs(of_session.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("T", &folder).env("DEFUSE", Product::get().defuse());
    session.finish(command.current_dir(session.place.root()))
}

#[test]
fn mount_8_calls_the_helper() {
    need_programs!("unshare", "mount", "findmnt");
    let Some(session) = session_with_module() else { return };
    // The module itself refuses a library that is no path: the helper has found the plugin by its name.
    let made = with_helpers(
        &session,
        r#"
mount -t defuse -o "library=passthrough,nosuid,backend=$BACKEND" defuse "$MNT"
super_options
"$DEFUSE" run -- sh -c 'echo x >"$MNT/f"; cat "$MNT/f"'
mount -o remount,ro "$MNT"
super_options
"$DEFUSE" run -- sh -c 'echo y >"$MNT/f"' 2>&1 && exit 1
mount -o remount,rw "$MNT"
"$DEFUSE" run -- sh -c 'echo y >"$MNT/f"; cat "$MNT/f"'
umount "$MNT"
if findmnt --mountpoint "$MNT"; then exit 1; fi
"#,
    );
    assert_done(&made);
    let text = made.stdout_text();
    let lines: Vec<_> = text.lines().collect();
    let [first, "x", second, refused, "y"] = lines[..] else { panic!("{text}") };
    assert!(first.starts_with("rw,") && first.contains("library=/"), "{first}");
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(second, first.replacen("rw,", "ro,", 1));
    session.assert_nothing_left();
}

#[test]
fn a_line_of_fstab_is_mounted() {
    need_programs!("unshare", "mount", "findmnt");
    let Some(session) = session_with_module() else { return };
    let made = with_helpers(
        &session,
        r#"
echo "defuse $MNT defuse library=passthrough,backend=$BACKEND,noauto,nofail,x-systemd.automount 0 0" >"$T/fstab"
mount -T "$T/fstab" "$MNT"
super_options
"$DEFUSE" run -- sh -c 'echo x >"$MNT/f"'
cat "$BACKEND/f"
# What umount.defuse says of a mount that is in use is not what the kernel's own caller says.
cd "$MNT"
umount "$MNT" 2>&1 && exit 1
cd /
umount "$MNT"
if findmnt --mountpoint "$MNT"; then exit 1; fi
"#,
    );
    assert_done(&made);
    let text = made.stdout_text();
    let [shown, "x", busy] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(shown.contains("library=/"), "{shown}");
    assert!(busy.starts_with("defuse: cannot unmount") && busy.contains("EBUSY"), "{busy}");
    session.assert_nothing_left();
}

#[test]
fn a_file_in_use_keeps_the_mount_busy_and_shows_its_path() {
    need_programs!("python3");
    let Some(session) = session_with_module() else { return };
    let (mnt, _detach) = mount(&session);
    fs::create_dir(session.place.backend().join("dir")).unwrap();
    let holder =
        Holder::start(&session, "os.dup2(os.open(os.environ['MNT'] + '/dir/f', os.O_CREAT | os.O_RDWR), 77)");
    // What the kernel says to who is not of the session.
    let link = fs::read_link(format!("/proc/{}/fd/77", holder.program())).unwrap();
    assert_eq!(link, session.place.mnt().join("dir/f"));
    let busy = session.defuse(["umount", &mnt]);
    assert!(busy.stderr_text().contains("EBUSY"), "{}", busy.stderr_text());
    assert_done(&session.defuse(["umount", "-l", &mnt]));
    holder.end();
    session.assert_nothing_left();
}

#[test]
fn record_locks_hold_between_sessions() {
    need_programs!("python3");
    let Some(session) = session_with_module() else { return };
    let (mnt, _detach) = mount(&session);
    // From the end and from the offset, which the kernel does not know.
    let holder = Holder::start(
        &session,
        "f = os.open(os.environ['MNT'] + '/f', os.O_CREAT | os.O_RDWR); os.write(f, b'0123456789')
fcntl.lockf(f, fcntl.LOCK_EX, 2, -2, os.SEEK_END); os.lseek(f, 3, 0); fcntl.lockf(f, fcntl.LOCK_EX, 1, 1, os.SEEK_CUR)
g = os.open(os.environ['MNT'] + '/g', os.O_CREAT | os.O_RDWR); fcntl.flock(g, fcntl.LOCK_EX)",
    );
    let said = python(
        &session,
        "f = os.open(os.environ['MNT'] + '/f', os.O_RDWR); g = os.open(os.environ['MNT'] + '/g', os.O_RDWR)
asked = fcntl.fcntl(f, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
print(struct.unpack('hhqqi4x', asked)[:4])
for start in range(10):
    try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start); print(start)
    except OSError as error: print(start, errno.errorcode[error.errno])
try: fcntl.flock(g, fcntl.LOCK_SH | fcntl.LOCK_NB)
except OSError as error: print('flock', errno.errorcode[error.errno])",
    );
    let wanted = "(1, 0, 4, 1)\n0\n1\n2\n3\n4 EAGAIN\n5\n6\n7\n8 EAGAIN\n9 EAGAIN\nflock EAGAIN\n";
    assert_eq!(said, wanted);
    holder.end();
    let said = python(
        &session,
        "f = os.open(os.environ['MNT'] + '/f', os.O_RDWR); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')",
    );
    assert_eq!(said, "free\n");
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

#[test]
fn a_lease_is_broken_by_an_open_in_another_session() {
    need_programs!("python3");
    let Some(session) = session_with_module() else { return };
    let (mnt, _detach) = mount(&session);
    let holder = Holder::start(
        &session,
        "f = os.open(os.environ['MNT'] + '/f', os.O_CREAT | os.O_RDWR)
def give_up(*_): fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_UNLCK); os.write(f, b'given up')
signal.signal(signal.SIGIO, give_up); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
assert fcntl.fcntl(f, fcntl.F_GETLEASE) == fcntl.F_WRLCK",
    );
    // The first open starts the breaking and does not wait, the second waits until it is done.
    let said = python(
        &session,
        "path = os.environ['MNT'] + '/f'; os.close(os.open(path, os.O_PATH)); print('place')
try: os.open(path, os.O_RDONLY | os.O_NONBLOCK); print('opened')
except OSError as error: print(errno.errorcode[error.errno])
low = os.open('/dev/null', os.O_RDONLY); os.close(low)
print(os.open(path, os.O_RDONLY) == low)",
    );
    assert_eq!(said, "place\nEAGAIN\nTrue\n");
    holder.end();
    assert_eq!(fs::read(session.place.backend().join("f")).unwrap(), b"given up");
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

/// What was open before is open there, and all files can be opened, also those of users that have no number there.
#[test]
fn a_user_has_other_numbers_in_a_user_namespace() {
    need_programs!("setpriv", "unshare", "python3");
    let Some(session) = session_with_module() else { return };
    let (mnt, _detach) = mount(&session);
    fs::set_permissions(session.place.backend(), PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(session.place.backend().join("roots"), "root's\n").unwrap();
    let own = session.place.root().join("run-of-another");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(1000), Some(1000)).unwrap();
    let text = r#"
        cd "$MNT"; echo own >own; exec 3<>own 4<roots
        unshare -r bash -c 'id -u; cat <&3; cat <&4; echo more >&3; /bin/echo most >&3; cat own roots; stat -c %u roots own
            exec 6<roots 7<>own 8<.; cat <&6; cat <&7; exec 3>&- 4<&-; echo new >new; cat new; python3 -c "import os; print(sorted(os.listdir(8)))"'
        echo "rc $?"; exec 5>>other; echo end >&3; echo x >&5; cat own new other; cat <&4
    "#;
    let mut command = session.command(["run", "--", "bash", "-c", text]);
    let defuse = command.get_program().to_owned();
    let mut user = Command::new("setpriv");
    user.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).arg(defuse).args(command.get_args());
    user.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command = user;
    let done = session.finish(command.current_dir(session.place.root()).env("DEFUSE_RUN_DIR", &own));
    assert_done(&done);
    let inside = "0\nown\nroot's\nown\nmore\nmost\nroot's\n65534\n0\nroot's\nown\nmore\nmost\nnew\n['new', 'own', 'roots']\n";
    assert_eq!(done.stdout_text(), format!("{inside}rc 0\nown\nmore\nmost\nend\nnew\nx\n"));
    assert_eq!(done.stderr_text(), "");
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}
