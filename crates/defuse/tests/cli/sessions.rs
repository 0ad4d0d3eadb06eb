//! What a program finds of its session, and what is left of it.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use defuse::log::Level;
use defuse::session::{OpenedSession, names};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

use super::lab::{Lab, exists, stderr, stdout};

/// A shell that tells its session's folder and ends when its standard input does.
struct Waiting {
    child: Child,
    stdin: ChildStdin,
    folder: PathBuf,
}

fn start(lab: &Lab) -> Waiting {
    let mut command = lab.run_script("echo $DEFUSE_SESSION; read line; exit 3");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let stdin = child.stdin.take().unwrap();
    Waiting { child, stdin, folder: line.trim_end().into() }
}

#[test]
fn a_program_can_open_its_session() {
    let lab = Lab::new();
    let Waiting { mut child, stdin, folder } = start(&lab);
    let session = OpenedSession::open(&folder).unwrap();
    let mount = &session.config.mounts[0];
    assert_eq!(mount.point, fs::canonicalize(lab.point()).unwrap());
    assert_eq!(mount.library, fs::canonicalize(lab.at("libtiny.so")).unwrap());
    assert_eq!(session.config.log.level, Level::Warn);
    let arena = openat(&session.folder, names::ARENA, OFlags::RDWR, Mode::empty()).unwrap();
    assert_eq!(stash::Arena::open(arena.as_fd()).unwrap().live_processes().count(), 0);
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(lab.sessions().is_empty());
}

#[test]
fn the_interposer_is_loaded_before_what_is_loaded_already() {
    let lab = Lab::new();
    let own = lab.at("libempty.so").display().to_string();
    let preloaded = |existing: Option<&str>| {
        let mut command = lab.run_script("echo $LD_PRELOAD");
        if let Some(existing) = existing {
            command.env("LD_PRELOAD", existing);
        }
        stdout(&command.output().unwrap())
    };
    assert_eq!(preloaded(None), format!("{own}\n"));
    assert_eq!(preloaded(Some("")), format!("{own}\n"));
    let other = lab.at("libtiny.so").display().to_string();
    assert_eq!(preloaded(Some(&other)), format!("{own}:{other}\n"));
}

#[test]
fn a_library_with_a_space_in_its_path_is_loaded_by_a_link() {
    let lab = Lab::new();
    fs::copy(lab.at("libempty.so"), lab.at("lib with space.so")).unwrap();
    let mut command = lab.run_script("readlink $LD_PRELOAD");
    let output = command.env("DEFUSE_LIBRARY", lab.at("lib with space.so")).output().unwrap();
    assert_eq!(stdout(&output), format!("{}\n", lab.at("lib with space.so").display()));
    assert_eq!(stderr(&output), "");
    assert!(lab.sessions().is_empty());
}

#[test]
fn fds_that_the_program_may_have_end_below_those_of_plugins() {
    let lab = Lab::new();
    let folder = "cat $DEFUSE_SESSION/session; ulimit -Sn; ulimit -Hn";
    let text = stdout(&lab.run_script(folder).output().unwrap());
    let number = |name: &str, at: usize| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(' ').nth(at).unwrap().parse().unwrap()
    };
    let mut limits = text.lines().rev().map(|line| line.parse::<u64>().unwrap());
    let (hard, soft) = (limits.next().unwrap(), limits.next().unwrap());
    let base = number("private-fd-base", 1);
    assert!(soft == base && base < hard, "{text}");
    // What the program believes in is what this process has.
    let output = Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
    assert_eq!(number("nofile", 1).to_string(), stdout(&output).trim());
}

#[test]
fn no_fd_of_the_command_reaches_the_program() {
    let lab = Lab::new();
    let listed = |mut command: Command| stdout(&command.output().unwrap());
    let mut direct = Command::new("sh");
    direct.args(["-c", "ls /proc/self/fd"]).stdin(Stdio::null());
    assert_eq!(listed(lab.run_script("ls /proc/self/fd")), listed(direct));
}

#[test]
fn a_killed_run_is_tidied_up_by_the_next() {
    let lab = Lab::new();
    let Waiting { mut child, stdin, folder } = start(&lab);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(exists(&folder));
    drop(stdin);
    assert!(lab.run(&["true"]).status().unwrap().success());
    assert!(lab.sessions().is_empty());
}

#[test]
fn a_session_that_is_in_use_is_not_tidied_up() {
    let lab = Lab::new();
    let Waiting { mut child, stdin, folder } = start(&lab);
    assert!(lab.run(&["true"]).status().unwrap().success());
    assert!(exists(&folder));
    drop(stdin);
    child.wait().unwrap();
    assert!(!exists(&folder));
}

/// Set for [`daemon`] to the folder of the session to be part of.
const DAEMON_VARIABLE: &str = "DEFUSE_TEST_DAEMON";

/// Not a test by itself: a process of a session that ends when its standard input does.
#[test]
fn daemon() {
    let Some(folder) = env::var_os(DAEMON_VARIABLE) else { return };
    let session = OpenedSession::open(folder.as_ref()).unwrap();
    let arena = openat(&session.folder, names::ARENA, OFlags::RDWR, Mode::empty()).unwrap();
    stash::Arena::open(arena.as_fd()).unwrap().register_process().unwrap();
    // Not captured by the test harness, unlike `println!`.
    std::io::stdout().write_all(b"registered\n").unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

fn start_daemon(folder: &std::path::Path) -> Child {
    let mut daemon = Command::new(env::current_exe().unwrap())
        .args(["--exact", "sessions::daemon", "--nocapture"])
        .env(DAEMON_VARIABLE, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(daemon.stdout.as_mut().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.ends_with("registered")));
    daemon
}

#[test]
fn a_session_stays_until_its_last_process_ends() {
    let lab = Lab::new();
    let Waiting { mut child, stdin, folder } = start(&lab);
    let mut daemon = start_daemon(&folder);
    let lock = fs::File::open(folder.join(names::LOCK)).unwrap();
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(3));

    // Nobody sweeps what the reaper looks after.
    assert!(lab.run(&["true"]).status().unwrap().success());
    assert!(exists(&folder.join(names::CONFIG)));
    assert!(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());

    daemon.stdin.take();
    assert!(daemon.wait().unwrap().success());
    // The reaper lets go of the lock when it has done its work.
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    assert!(lab.sessions().is_empty());
}

#[test]
fn a_session_with_a_live_process_outlives_a_killed_runner() {
    let lab = Lab::new();
    let Waiting { mut child, stdin, folder } = start(&lab);
    let mut daemon = start_daemon(&folder);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    assert!(lab.run(&["true"]).status().unwrap().success());
    assert!(exists(&folder));
    daemon.stdin.take();
    daemon.wait().unwrap();
    assert!(lab.run(&["true"]).status().unwrap().success());
    assert!(lab.sessions().is_empty());
}

#[test]
fn what_is_logged_goes_where_it_is_told() {
    let lab = Lab::new();
    let to_file =
        lab.run(&["true"]).env("DEFUSE_LOG", format!("info:{}", lab.at("log").display())).output().unwrap();
    assert_eq!(stderr(&to_file), "");
    let logged = fs::read_to_string(lab.at("log")).unwrap();
    assert!(logged.lines().any(|line| line.contains(" info session ")), "{logged}");

    let to_stderr = lab.command(&["run", "--log=info", &lab.mount(), "true"]).output().unwrap();
    assert!(stderr(&to_stderr).contains(" info session "), "{}", stderr(&to_stderr));
    assert_eq!(stderr(&lab.run(&["true"]).output().unwrap()), "");
}
