use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::config::{Mount, Nofile, SessionConfig, Shadows};
use super::{OpenedSession, Session, SessionError, SessionSpec, extend, is_standing, names, sweep_stale};
use crate::log::LogTarget;

/// Of an arena.
const ID: u128 = 0x5eed;

fn spec(base: &Path) -> SessionSpec {
    let mount = Mount {
        point: "/mnt/with space".into(),
        library: "/l.so".into(),
        backend: "b".into(),
        options: "".into(),
        hidden: None,
        shadows: Shadows::Folder,
    };
    let config = SessionConfig {
        private_fd_base: 1024,
        nofile: Nofile { soft: 1024, hard: 4096 },
        dispatch: interpose::DispatchPolicy::Auto,
        log: LogTarget::default(),
        mounts: vec![mount],
        one_state: Vec::new(),
    };
    SessionSpec { base: base.into(), config, standing: false, pages: true }
}

fn create(base: &TempDir) -> Session {
    Session::create(&spec(base.path()), |_| Ok(ID)).unwrap()
}

/// What is in `base`.
fn content(base: &TempDir) -> Vec<PathBuf> {
    fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_session_is_found_as_it_was_made() {
    let base = tempfile::tempdir().unwrap();
    let session = create(&base);
    let opened = OpenedSession::open(session.path()).unwrap();
    assert_eq!(opened.config, spec(base.path()).config);
    session.remove().unwrap();
    assert_eq!(content(&base), Vec::<PathBuf>::new());
}

#[test]
fn a_standing_session_is_known_by_its_name_and_swept_like_others() {
    let base = tempfile::tempdir().unwrap();
    let made = Session::create(&SessionSpec { standing: true, ..spec(base.path()) }, |_| Ok(ID)).unwrap();
    let (path, other) = (made.path().to_owned(), create(&base));
    assert!(is_standing(&path) && !is_standing(other.path()));
    other.remove().unwrap();
    drop(made);
    assert_eq!(sweep_stale(base.path(), |_| Ok(false)).unwrap().removed, [path]);
}

#[test]
fn mounts_are_added_to_a_session() {
    let base = tempfile::tempdir().unwrap();
    let session = create(&base);
    let mut config = spec(base.path()).config;
    config.mounts.push(Mount { point: "/mnt/more".into(), ..config.mounts[0].clone() });
    // Somebody was killed at this.
    fs::write(session.path().join("session.new"), "defuse-").unwrap();
    extend(session.folder(), session.path(), &config, false).unwrap();
    assert_eq!(OpenedSession::open(session.path()).unwrap().config, config);
    assert_eq!(mode(&session.path().join(names::CONFIG)), 0o644);
    assert!(!session.path().join("session.new").exists());
    session.remove().unwrap();
}

#[test]
fn modes_are_those_of_the_table_whatever_the_umask() {
    // The umask belongs to the process, so it is changed in a child of its own.
    if std::env::var_os("DEFUSE_TEST_UMASK").is_none() {
        let test = "session::tests::modes_are_those_of_the_table_whatever_the_umask";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact"])
            .env("DEFUSE_TEST_UMASK", "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    for umask in [0o000, 0o022, 0o077] {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let session = create(&base);
        let path = session.path();
        assert_eq!(mode(path), 0o711);
        for name in [names::SLOTS, names::LOCKS, names::GUESTS] {
            assert_eq!(mode(&path.join(names::shared(ID)).join(name)), 0o1733);
        }
        assert_eq!(mode(&path.join(names::SOCKETS)), 0o1733);
        for name in [names::EXEC, names::NULL, names::SITES, &names::shared(ID)] {
            assert_eq!(mode(&path.join(name)), 0o711);
        }
        assert_eq!(mode(&path.join(names::CONFIG)), 0o644);
        assert_eq!(mode(&path.join(names::ARENA)), 0o600);
        session.remove().unwrap();
    }
}

#[test]
fn the_arena_is_filled_by_the_caller_and_a_failure_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let fill = |arena: rustix::fd::BorrowedFd<'_>| {
        rustix::io::write(arena, b"arena").unwrap();
        Ok(ID)
    };
    let session = Session::create(&spec(base.path()), fill).unwrap();
    assert_eq!(fs::read(session.path().join(names::ARENA)).unwrap(), b"arena");
    session.remove().unwrap();

    let failure = SessionError::System { attempted: "fill".into(), errno: rustix::io::Errno::NOSPC };
    assert_eq!(Session::create(&spec(base.path()), |_| Err(failure.clone())).unwrap_err(), failure);
    assert_eq!(content(&base), Vec::<PathBuf>::new());
}

#[test]
fn a_run_directory_that_is_missing_is_named() {
    let base = tempfile::tempdir().unwrap();
    let error = Session::create(&spec(&base.path().join("missing")), |_| Ok(ID)).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_session_that_others_could_have_changed_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&Path), named: &str| {
        let session = create(&base);
        change(session.path());
        let message = OpenedSession::open(session.path()).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    };
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    refused(&|path| set_mode(path, 0o777), "will not use");
    refused(&|path| set_mode(path, 0o731), "will not use");
    refused(&|path| set_mode(&path.join(names::CONFIG), 0o646), "session: its mode 0646");
    refused(&|path| set_mode(&path.join(names::ARENA), 0o620), "arena: its mode 0620");
    refused(&|path| fs::remove_file(path.join(names::ARENA)).unwrap(), "arena");
    refused(&|path| fs::remove_file(path.join(names::CONFIG)).unwrap(), "ENOENT");
    refused(&|path| fs::write(path.join(names::CONFIG), b"").unwrap(), "cut short");
    let replace_by_link = |path: &Path, name: &str| {
        fs::rename(path.join(name), path.join("elsewhere")).unwrap();
        symlink("elsewhere", path.join(name)).unwrap();
    };
    refused(&|path| replace_by_link(path, names::CONFIG), "ELOOP");
    refused(&|path| replace_by_link(path, names::ARENA), "not a regular file");
    let replace_by_fifo = |path: &Path| {
        fs::remove_file(path.join(names::CONFIG)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join(names::CONFIG),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
    };
    refused(&replace_by_fifo, "not a regular file");
}

#[test]
fn a_session_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a file to another user");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    for name in ["", names::CONFIG, names::ARENA] {
        let session = create(&base);
        std::os::unix::fs::lchown(session.path().join(name), Some(1), None).unwrap();
        let error = OpenedSession::open(session.path()).unwrap_err();
        assert!(error.to_string().contains("user 1 owns it"), "{error}");
    }
}

#[test]
fn the_folder_itself_is_not_reached_through_a_link() {
    let base = tempfile::tempdir().unwrap();
    let session = create(&base);
    let link = base.path().join("link");
    symlink(session.path(), &link).unwrap();
    assert!(OpenedSession::open(&link).unwrap_err().errno().is_some());
    assert!(OpenedSession::open(Path::new("relative")).unwrap_err().to_string().contains("not absolute"));
}

#[test]
fn a_folder_whose_runner_is_dead_is_swept() {
    let base = tempfile::tempdir().unwrap();
    let alive = create(&base);
    let dead = create(&base);
    let dead_path = dead.path().to_path_buf();
    fs::create_dir(dead_path.join(names::shared(ID)).join("slots/17")).unwrap();
    fs::create_dir(dead_path.join("exec/1")).unwrap();
    fs::write(dead_path.join("exec/1/program"), b"").unwrap();
    drop(dead);
    let foreign = base.path().join("defuse-notes");
    fs::create_dir(&foreign).unwrap();

    let swept = sweep_stale(base.path(), |_| Ok(false)).unwrap();
    assert_eq!(swept.removed, [dead_path]);
    assert!(swept.failed.is_empty());
    let mut left = content(&base);
    left.sort();
    let mut wanted = vec![alive.path().to_path_buf(), foreign];
    wanted.sort();
    assert_eq!(left, wanted);
    alive.remove().unwrap();
}

#[test]
fn a_folder_with_live_processes_or_of_unknown_state_is_kept() {
    let base = tempfile::tempdir().unwrap();
    drop(create(&base));
    assert!(sweep_stale(base.path(), |_| Ok(true)).unwrap().removed.is_empty());
    let unknown = SessionError::System { attempted: "read".into(), errno: rustix::io::Errno::IO };
    let swept = sweep_stale(base.path(), |_| Err(unknown.clone())).unwrap();
    assert_eq!(swept.failed, [unknown]);
    assert_eq!(content(&base).len(), 1);
}

#[test]
fn a_folder_left_half_made_is_swept() {
    let base = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    fs::create_dir(base.path().join(format!("defuse-{uid}-{:032x}", 7))).unwrap();
    assert_eq!(sweep_stale(base.path(), |_| Ok(false)).unwrap().removed.len(), 1);
    assert_eq!(content(&base), Vec::<PathBuf>::new());
}

#[test]
fn what_only_looks_like_a_folder_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("precious"), b"").unwrap();
    symlink(victim.path(), base.path().join(format!("defuse-{uid}-{:032x}", 1))).unwrap();
    fs::write(base.path().join(format!("defuse-{uid}-{:032x}", 2)), b"").unwrap();
    fs::create_dir(base.path().join(format!("defuse-{uid}-{:032X}", 0xab))).unwrap();
    let swept = sweep_stale(base.path(), |_| Ok(false)).unwrap();
    assert!(swept.removed.is_empty() && swept.failed.is_empty());
    assert_eq!(content(&base).len(), 3);
    assert!(victim.path().join("precious").exists());
}

#[test]
fn sweeps_and_new_sessions_at_once_do_not_hurt_each_other() {
    let base = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        drop(create(&base));
    }
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20 {
                    let swept = sweep_stale(base.path(), |_| Ok(false)).unwrap();
                    assert!(swept.failed.is_empty(), "{:?}", swept.failed);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    let session = create(&base);
                    OpenedSession::open(session.path()).unwrap();
                    session.remove().unwrap();
                }
            });
        }
    });
    assert_eq!(content(&base), Vec::<PathBuf>::new());
}

#[test]
fn the_lock_lives_as_long_as_the_session() {
    let base = tempfile::tempdir().unwrap();
    let session = create(&base);
    let lock = fs::File::open(session.path().join(names::LOCK)).unwrap();
    assert!(flock(&lock, FlockOperation::NonBlockingLockShared).is_err());
    drop(session);
    assert!(flock(&lock, FlockOperation::NonBlockingLockShared).is_ok());
}
