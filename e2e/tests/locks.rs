//! Locks that the session keeps for plugins that keep none: what carries them, and who finds it.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::mounted::by_module;
use defuse_e2e::requirement::{is_root, missing_program, skip};
use defuse_e2e::{Serving, Session, same_as_plain_by, script};

same_as_plain_by! {
    [session: SessionLocks]

    shell_locks: script(r#"
        cd "$MNT"
        exec 9>lock; flock -n 9; echo "rc $?"
        flock -n lock true || echo "held: rc $?"
        (flock -n 9; echo "inherited: rc $?")
        bash -c 'flock -n 9; echo "through exec: rc $?"; flock -n lock true || echo "held: rc $?"'
        flock -u 9; flock -n lock echo free
        exec 9>&-
        # Whoever waits gets it when the holder is killed.
        (exec 7>lock; flock 7; echo holding >ready; exec sleep 1000) & holder=$!
        until [ -s ready ]; do :; done
        flock lock echo got >got & waiter=$!
        kill $holder; wait $holder || echo "rc $?"; wait $waiter; echo "rc $?"; cat got
        for i in 1 2 3 4; do (for j in 1 2 3 4 5; do (flock 8; n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n) 8>>lock; done) & done; wait; cat n
        rm ready got
    "#).needs(&["flock"]);

    other_users_see_the_locks: script(r#"
        cd "$MNT"; chmod 755 .; umask 077; echo x >f; chmod 666 f
        exec 9<f; flock -s 9
        setpriv --reuid=65534 --regid=65534 --clear-groups bash -c 'flock -n -s f echo shared; flock -n f echo exclusive || echo "rc $?"; flock -n 9 || echo "rc $?"; exit 0'
        flock -u 9
        setpriv --reuid=65534 --regid=65534 --clear-groups bash -c 'exec 7<>f; flock 7; flock -n "$MNT/f" true || echo "rc $?"; exec 7>&-; flock -n f echo free'
    "#).needs(&["setpriv", "flock"]).needs_root();

    sqlite_locks: script(r#"
        cd "$MNT"
        sqlite3 db 'CREATE TABLE t (a); INSERT INTO t VALUES (1)'
        { echo 'BEGIN EXCLUSIVE; INSERT INTO t VALUES (2);'; echo '.shell sqlite3 db "INSERT INTO t VALUES (3)" || echo refused'; echo 'COMMIT; SELECT sum(a) FROM t;'; } | sqlite3 db 2>&1 | sed 's/[^:]*: //'
        for i in 1 2 3 4; do sqlite3 -cmd '.timeout 60000' db "INSERT INTO t VALUES (10)" & done; wait
        sqlite3 db 'SELECT sum(a) FROM t'; rm db
    "#).needs(&["sqlite3"]);
}

/// Prints how many lock files there are.
const COUNT: &str = r#"count() { ls "$DEFUSE_RUN_DIR"/defuse-*/*/locks | wc -l; }; cd "$MNT"; "#;

#[test]
fn lock_files_live_as_long_as_somebody_uses_the_inode() {
    let Some(session) = Session::new() else { return };
    if let Some(program) = missing_program(&["flock", "python3"]) {
        return skip(&format!("{program} is not installed"));
    }
    let script = r#"
        count
        exec 8>f 9>>f; flock 9; count; exec 8>&-; count
        (exec 9>&-); count; exec 9>&-; count
        echo x >g; cat <g; count
        python3 -c '
import fcntl, os
a, b = open("r", "w"), open("other", "w"); fcntl.lockf(a, fcntl.LOCK_EX); fcntl.lockf(b, fcntl.LOCK_EX); fcntl.lockf(a, fcntl.LOCK_UN)
os.system("ls $DEFUSE_RUN_DIR/defuse-*/*/locks | wc -l")
del a, b'
        count
        (flock 9; kill -9 $BASHPID) 9>killed; count
        exec 9>killed; flock 9; exec 9>&-; count
    "#;
    let outcome = session.script(Serving::SessionLocks, &format!("{COUNT}{script}"));
    let text = outcome.stdout_text();
    let counts: Vec<&str> = text.lines().filter(|line| *line != "x").collect();
    // `ls` itself inherits the descriptors, and is no reason for a lock file of what is closed.
    // The module's locks are the kernel's, and need no files.
    let expected = if by_module() { ["0"; 10] } else { ["0", "1", "1", "1", "0", "0", "2", "0", "1", "0"] };
    assert_eq!(counts, expected, "{text}{}", outcome.stderr_text());
    session.assert_nothing_left();
}

#[test]
fn nobody_else_finds_the_folders_that_all_may_write() {
    let Some(session) = Session::new() else { return };
    if !is_root() {
        return skip("needs root");
    }
    if let Some(program) = missing_program(&["setpriv"]) {
        return skip(&format!("{program} is not installed"));
    }
    let script = r#"
        chmod 755 "$DEFUSE_RUN_DIR" "$(dirname "$DEFUSE_RUN_DIR")"; cd /; stat -c %a "$DEFUSE_RUN_DIR"/defuse-*/*/slots
        setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs bash -c '
            for folder in "$DEFUSE_RUN_DIR"/defuse-*; do
                test -x "$folder" && echo passable; ls "$folder"; test -r "$folder/arena" || echo closed; ls -d "$folder"/*/slots "$folder/slots"
            done'
        true
    "#;
    let outcome = session.script(Serving::Plugin, script);
    assert_eq!(outcome.stdout_text(), "1733\npassable\nclosed\n", "{}", outcome.stderr_text());
    session.assert_nothing_left();
}
