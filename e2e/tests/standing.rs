//! Mounts that stand: `defuse mount`, `umount` and `list`, without the kernel module, and mount(8)'s helper.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use defuse_e2e::process::{End, Outcome};
use defuse_e2e::product::Product;
use defuse_e2e::{Serving, Session, requirement};

/// A session on a machine where the kernel does not know the type: there the table is used.
fn without_module() -> Option<Session> {
    if fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\tdefuse\n")) {
        requirement::skip("the kernel module is loaded");
        return None;
    }
    Session::new()
}

fn argument(session: &Session) -> String {
    Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend())
}

#[track_caller]
fn assert_done(outcome: &Outcome) {
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
}

#[track_caller]
fn assert_refused(outcome: &Outcome, status: i32, wanted: &str) {
    assert_eq!(outcome.end, End::Exit(status), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    assert!(outcome.stderr_text().contains(wanted), "{}", outcome.stderr_text());
}

#[test]
fn a_mount_stands_for_each_run_until_it_is_undone() {
    let Some(session) = without_module() else { return };
    let mnt = session.place.mnt().display().to_string();
    let made = session.defuse(["mount", &argument(&session)]);
    assert_done(&made);
    let told = made.stderr_text();
    assert!(told.contains("module") && told.contains(&mnt) && told.contains("defuse-mounts-"), "{told}");

    let list = session.defuse(["list"]);
    assert_done(&list);
    let line = list.stdout_text();
    assert!(line.starts_with(&format!("table\t{mnt}=/")), "{line}");
    assert!(line.trim_end().ends_with(&format!(":{}", session.place.backend().display())), "{line}");

    for word in ["first", "second"] {
        let run = session.defuse(["run", "--", "sh", "-c", "echo $1 >>$MNT/f; cat $MNT/f", "sh", word]);
        assert_done(&run);
        assert!(run.stdout_text().ends_with(&format!("{word}\n")), "{}", run.stdout_text());
    }
    assert_eq!(fs::read_to_string(session.place.backend().join("f")).unwrap(), "first\nsecond\n");

    assert_done(&session.defuse(["umount", &mnt]));
    assert_eq!(session.defuse(["list"]).stdout, b"");
    assert_refused(&session.defuse(["run", "--", "true"]), 125, "no mount given");
    session.assert_nothing_left();
}

#[test]
fn what_is_given_to_run_goes_before_what_stands() {
    let Some(session) = without_module() else { return };
    let mnt = session.place.mnt().display().to_string();
    assert_done(&session.defuse(["mount", &argument(&session)]));
    let given = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.home());
    let run = session.defuse(["run", "-m", &given, "--", "sh", "-c", "echo x >$MNT/f; cat $MNT/f"]);
    assert_done(&run);
    assert_eq!(run.stdout, b"x\n");
    assert!(session.place.home().join("f").exists() && !session.place.backend().join("f").exists());
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

#[test]
fn a_mount_that_cannot_be_is_refused() {
    let Some(session) = without_module() else { return };
    let mnt = session.place.mnt().display().to_string();
    assert_refused(&session.defuse(["mount", &format!("{mnt}=nosuch:x")]), 1, "libnosuch.so");
    assert_refused(&session.defuse(["mount", &format!("{mnt}/none=passthrough:/")]), 1, "mkdir it first");
    assert_refused(&session.defuse(["mount", &format!("{mnt}=passthrough:/nonexistent")]), 1, "nonexistent");
    assert_refused(&session.defuse(["umount", &mnt]), 1, "nothing is mounted");
    assert_done(&session.defuse(["mount", &argument(&session)]));
    assert_refused(&session.defuse(["mount", &argument(&session)]), 1, "is mounted already");
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

#[test]
fn a_mount_that_stopped_working_is_passed_over() {
    let Some(session) = without_module() else { return };
    let mnt = session.place.mnt().display().to_string();
    assert_done(&session.defuse(["mount", &argument(&session)]));
    fs::write(session.place.mnt().join("in the way"), "").unwrap();
    let other = session.place.home().display().to_string();
    let given = format!("{other}=memory:");
    let run = session.defuse(["run", "-m", &given, "--", "ls", &mnt]);
    assert_done(&run);
    assert_eq!(run.stdout, b"in the way\n");
    assert!(run.stderr_text().contains("is left out"), "{}", run.stderr_text());
    fs::remove_file(session.place.mnt().join("in the way")).unwrap();
    assert_done(&session.defuse(["umount", &mnt]));
    session.assert_nothing_left();
}

#[test]
fn mount_8_has_a_helper_that_does_not_fall_back() {
    let Some(session) = without_module() else { return };
    let helper = session.place.root().join("mount.defuse");
    symlink(Product::get().defuse(), &helper).unwrap();
    let call = |options: &str| {
        let mut command = Command::new(&helper);
        command.args(["defuse", session.place.mnt().to_str().unwrap(), "-o", options]);
        command.current_dir(session.place.root());
        session.finish(&mut command)
    };
    let backend = session.place.backend().display().to_string();
    assert_refused(&call("rw,colour=red"), 1, "there is no option 'colour=red'");
    assert_refused(&call("rw,library=nosuch,backend=x"), 1, "libnosuch.so");
    let refused = call(&format!("rw,library=passthrough,backend={backend}"));
    assert_refused(&refused, 32, if requirement::is_root() { "module is not loaded" } else { "EPERM" });
    assert_eq!(session.defuse(["list"]).stdout, b"");
    session.assert_nothing_left();
}

#[test]
fn a_mount_that_stands_is_told_to_all_whatever_the_umask() {
    let Some(session) = without_module() else { return };
    let mut like = Command::new("sh");
    like.args(["-c", r#"umask 077; exec "$0" "$@""#]).arg(Product::get().defuse());
    like.args(["mount", &argument(&session)]).current_dir(session.place.root());
    let command = session.command::<&str>([]);
    like.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_done(&session.finish(&mut like));
    let table = fs::read_dir(session.place.run_dir()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(table).unwrap().permissions().mode() & 0o777, 0o644);
    assert_done(&session.defuse(["umount", &session.place.mnt().display().to_string()]));
    session.assert_nothing_left();
}

/// Names in a run directory that is everybody's can be taken by anybody.
#[test]
fn what_somebody_else_put_in_a_tables_place_is_passed_over() {
    if !requirement::is_root() {
        return requirement::skip("needs root to make another user's file");
    }
    let Some(session) = without_module() else { return };
    // As /dev/shm.
    fs::set_permissions(session.place.run_dir(), fs::Permissions::from_mode(0o1777)).unwrap();
    let in_the_way = session.place.run_dir().join("defuse-mounts-0");
    let ways: [fn(&Path); 3] = [
        |path| fs::write(path, "").unwrap(),
        |path| symlink("/nowhere", path).unwrap(),
        |path| fs::create_dir_all(path.join("full")).unwrap(),
    ];
    for put in ways {
        put(&in_the_way);
        lchown(&in_the_way, Some(12345), Some(12345)).unwrap();
        let list = session.defuse(["list"]);
        assert_done(&list);
        assert!(list.stderr_text().contains("defuse-mounts-0 is left out"), "{}", list.stderr_text());
        assert_done(&session.defuse(["mount", &argument(&session)]));
        assert!(session.defuse(["list"]).stdout_text().starts_with("table\t"));
        assert_done(&session.defuse(["umount", &session.place.mnt().display().to_string()]));
    }
    // What cannot be removed at once was put aside.
    let aside = fs::read_dir(session.place.run_dir()).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir(aside.join("full")).unwrap();
    fs::remove_dir(aside).unwrap();
    session.assert_nothing_left();
}
