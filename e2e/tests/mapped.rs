//! Files that are mapped: by a fixture that does so in every way, and by programs that live from it.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use defuse_e2e::process::End;
use defuse_e2e::product::Product;
use defuse_e2e::{Case, Serving, Session, need_programs, requirement, same_as_plain_mapped, script};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// One part of the fixture, in the mount's root.
fn part(name: &str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/mapped\" {name}")).fixture_with("mapped", &["-pthread"])
}

same_as_plain_mapped! {
    /// Protections, kinds of sharing, and what mmap refuses.
    arguments: part("arguments");

    /// read, write, truncate, fallocate and copies meet mappings, in both directions.
    descriptors_and_mappings_agree: part("descriptors");

    /// `MAP_PRIVATE`.
    private_copies: part("private");

    /// munmap, mprotect, mremap, msync, madvise, mlock, and mappings over mappings.
    calls_about_memory: part("memory");

    /// Memory that system calls read and write.
    arguments_of_system_calls: part("kernel");

    /// fork, vfork, posix_spawn, exec, four processes that count together, and kill -9.
    processes: part("processes");

    /// Threads that store while others write back.
    threads: part("threads");

    /// What a process stored that was killed as it made a child is written back at the end.
    killed_forking: script(r#"cd "$MNT"; printf %8192s >f; "$FIX/killed_forking""#).fixture("killed_forking");

    /// A program that has had all its memory locked, what it maps from then on too.
    locked_memory: script(r#"
        cd "$MNT"; for letter in a b c d e f; do printf "%8192s" | tr " " $letter; done >f
        env python3 -c '
import ctypes, mmap
libc = ctypes.CDLL(None)
print(libc.mlockall(2))
f = open("f", "r+b"); m = mmap.mmap(f.fileno(), 0)
print(m[0:1], m[20000:20003], f.read(3)); m[30000:30001] = b"-"; m.flush(); m.close()
print(libc.munlockall())'
        cksum f"#).needs(&["python3"]).needs_root();

    /// exec beside threads that are at work on a mapped file: nobody waits for what they held.
    executes_beside_threads: script(r#"cd "$MNT"; "$FIX/executing_beside"; rm f"#).fixture_with("executing_beside", &["-pthread"]);

    /// Files that have a number of one that was mapped where a process was killed.
    inodes_again: part("inodes");

    /// A process of another PID namespace, whose pid is somebody else's here, stores on after others have read what it had stored.
    in_another_pid_namespace: script(r#"
        cd "$MNT"; printf %8192s >f; mkfifo "$OUT/stored" "$OUT/go"
        unshare -pf --mount-proc env python3 -c '
import mmap, os
f = open("f", "r+b"); m = mmap.mmap(f.fileno(), 0); m[0:1] = b"1"
open(os.environ["OUT"] + "/stored", "w").close(); open(os.environ["OUT"] + "/go").close()
m[1:2] = b"2"; m.close(); f.close()' &
        : <"$OUT/stored"; head -c 2 f; echo; : >"$OUT/go"; wait; head -c 2 f; echo
    "#).needs(&["python3", "unshare"]).needs_root();

    /// A file gets its first name after a process that had stored to it was killed.
    first_name: part("unnamed");

    /// Signals while pages are written back and changed, in which the pager blocks those it can.
    sent_traps: script("cd \"$MNT\"; \"$FIX/trapped\"").fixture("trapped");

    /// Touched where there is little stack: alternate stacks of 8 KiB, their handlers, threads of 16 KiB.
    small_stacks: script("cd \"$MNT\"; \"$FIX/small_stacks\"").fixture_with("small_stacks", &["-pthread"]);

    /// A write-ahead log, whose index is a mapped file that all processes share. Four write at once; then one is killed in the middle
    /// of a transaction while another writes, five times.
    sqlite_write_ahead_log: script(r#"
        cd "$MNT"
        sqlite3 db 'pragma journal_mode=wal; create table t(who, n);'
        for who in a b c d; do
            (for n in $(seq 1 40); do echo "insert into t values('$who', $n);"; done | sqlite3 -cmd '.timeout 100000' db) &
        done; wait
        sqlite3 db 'select who, count(*), sum(n) from t group by who; pragma integrity_check;'
        exec 2>/dev/null # where the shell tells the number of the killed process
        for round in 1 2 3 4 5; do
            (exec sqlite3 -cmd '.timeout 100000' db) <<END &
insert into t values('k', $round); begin; insert into t select 'x', n from t limit 100;
.shell kill -KILL \$PPID
END
            killed=$!
            (for n in $(seq 1 15); do echo "insert into t values('r$round', $n);"; done | sqlite3 -cmd '.timeout 100000' db) &
            wait $killed || echo "rc $?"; wait
            sqlite3 -cmd '.timeout 100000' db 'pragma integrity_check; select who, count(*) from t group by who'
        done
        sqlite3 db 'pragma journal_mode=delete; create table s as select * from t order by who, n; drop table t; vacuum;'; ls -A; rm db
    "#).needs(&["sqlite3"]);

    /// Processes that write to one database with robust locks in a mapped file, and data that is stored to by a mapping or by FD; one is
    /// killed with the lock.
    lmdb: script(r#"
        cc -w -O1 -o "$OUT/database" "$SOURCES/database.c" -llmdb; cd "$MNT"
        "$OUT/database" stored stores; "$OUT/database" written reads; mdb_stat -n stored | grep Entries; mdb_copy -n -c written copy; mdb_dump -n copy | tail -n +8 | cut -c1-20 | md5sum
        rm stored* written* copy* "$OUT/database"
    "#).env("SOURCES", SOURCES).needs(&["cc", "mdb_stat"]).needs_header("lmdb.h");

    /// Threads and another JVM count in one mapping; buffers are handed to system calls; a file is cut off under a mapping.
    jvm: script(r#"
        javac -d "$OUT/classes" "$SOURCES/Mapped.java"; cd "$MNT"
        java -XX:-UsePerfData -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx64m -cp "$OUT/classes" Mapped
        rm -r "$OUT/classes"
    "#).env("SOURCES", SOURCES).needs(&["java", "javac"]);

    /// Packs and indexes are mapped.
    git_packs_and_checks: script(r#"
        export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE='2026-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2026-01-01 00:00:00 +0000'
        cd "$MNT"; git init -q -b main r; cd r; git config pack.threads 1; git config gc.auto 0
        for i in $(seq 1 20); do seq $i 4000 >f$((i % 7)); echo $i >g$i; git add -A; git commit -qm "c$i"; done
        git gc -q --prune=now; git fsck --full --strict; git log --oneline | md5sum
        git repack -adfq --depth=50; git fsck --full; git rev-list --objects --all | git cat-file --batch-check | md5sum
        git clone -q . ../c; git -C ../c fsck; git -C ../c status --short; git grep -c 3999 | md5sum; cd ..; rm -rf r c; echo done >done
    "#).needs(&["git"]);

    python_mmap: script(r#"
        cd "$MNT"; cat >"$OUT/t.py" <<'END'
import mmap, os, re, multiprocessing as mp
with open("m", "wb") as f: f.write(bytes(range(256)) * 400)
f = open("m", "r+b"); m = mmap.mmap(f.fileno(), 0)
print(len(m), m[:5], m.find(b"\x10\x11"), m.rfind(b"\xff\x00")); m[0:4] = b"abcd"; m.flush(); print(open("m", "rb").read(8))
m.move(100, 0, 50); m.seek(200); m.write(b"hello"); print(m.read(3), m.tell(), m.size())
m.resize(200000); m[150000] = 7; print(len(m), os.path.getsize("m")); m.madvise(mmap.MADV_DONTNEED); print(m[150000], m[100:104], len(re.findall(rb"\x01\x02\x03", m)))
def work(i):
    with open("m", "r+b") as f, mmap.mmap(f.fileno(), 0) as x:
        for k in range(1000): x[i * 5000 + k] = (i + k) % 256
workers = [mp.get_context("fork").Process(target=work, args=(i,)) for i in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]; print([sum(m[i * 5000:i * 5000 + 1000]) for i in range(4)])
ro = mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ)
try: ro[0] = 1
except TypeError as error: print(error)
c = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); c[0] = 99; print(c[0], m[0]); c.close(); m.close()
END
        python3 "$OUT/t.py"; cksum m; rm "$OUT/t.py"
    "#).needs(&["python3"]);

    /// A library on the mount makes system calls of its own, which reach the mount too; a program that was written by a mapping runs.
    libraries_and_programs: script(r#"
        cd "$MNT"; cat >"$OUT/lib.c" <<'END'
#include <fcntl.h>
#include <sys/syscall.h>
int data = 5; static int bss[5000];
static inline long direct(long n, long a, long b, long c) { long r; asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory"); return r; }
int peek(const char *path, char *to) { int fd = direct(SYS_open, (long)path, O_RDONLY, 0); int n = direct(SYS_read, fd, (long)to, 20); direct(SYS_close, fd, 0, 0); bss[4000]++; return n + data++ + bss[4000]; }
END
        cat >"$OUT/main.c" <<'END'
#include <dlfcn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) { void *l = dlopen("./lib.so", RTLD_NOW); if (!l) { puts(dlerror()); return 1; }
 int (*peek)(const char *, char *) = dlsym(l, "peek"); char b[32] = {0};
 for (int i = 0; i < 3; i++) printf("%d %.5s\n", peek("text", b), b); fflush(stdout);
 if (fork() == 0) { printf("%d %.5s\n", peek("text", b), b); fflush(stdout); _exit(0); } wait(0);
 printf("%d\n", dlclose(l)); l = dlopen("./lib.so", RTLD_NOW); peek = dlsym(l, "peek"); printf("%d %.5s\n", peek("text", b), b); return 0; }
END
        echo "text of a file" >text; cc -O1 -shared -fPIC -o lib.so "$OUT/lib.c"; cc -O1 -o main "$OUT/main.c" -ldl; ./main; sh -c 'exec ./main'
        cp "$(command -v cksum)" ck; ./ck text
        python3 -c 'import mmap, os, shutil
data = open("ck", "rb").read(); f = open("written", "w+b"); f.truncate(len(data)); m = mmap.mmap(f.fileno(), 0); m[:] = data; os.chmod("written", 0o755); f.close(); m.close()'
        ./written text; rm lib.so main ck written "$OUT/lib.c" "$OUT/main.c"
    "#).needs(&["cc", "python3"]);

    ripgrep: script(r#"
        cd "$MNT"; for i in $(seq 1 30); do seq $i 3000 >f$i; done
        rg --mmap -c 299 . | sort; rg --mmap -j1 -n '^17.9$' f3 f4; rg --no-mmap -c 299 . | sort | md5sum; cat f* | rg -c 2; cat f1 f2 >all; rg --mmap -c 7 all
    "#).needs(&["rg"]);

    /// Random reads, writes, lengths, holes and copies, by FD and by mapping, on one file and on four at once.
    fsx_with_mappings: script(r#"
        cat >"$OUT/fsx.toml" <<END
flen = 262144
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 5
close_open = 1
invalidate = 0.5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 3
sendfile = 3
posix_fadvise = 1
copy_file_range = 3
END
        cd "$MNT"; export RUST_BACKTRACE=0
        fsx -f "$OUT/fsx.toml" -N 5000 -S 11 -P "$OUT" one
        for seed in 12 13 14 15; do fsx -f "$OUT/fsx.toml" -N 1500 -S $seed -P "$OUT" "file$seed" & done; wait; cksum *
    "#).needs(&["fsx"]);
}

/// Mounts a small tmpfs on the directory `$1` and runs the rest of the arguments.
const WITH_LITTLE_ROOM: &str =
    r#"mount -t tmpfs -o size=4m,mode=755 small "$1" && export DEFUSE_RUN_DIR="$1" && shift && exec "$@""#;

/// The session's folder is on a file system of a fraction of the file's size: clean pages are given back, dirty ones written back to make
/// room, whoever has them mapped.
#[test]
fn files_larger_than_the_room_for_their_pages() {
    need_programs!("unshare");
    let Some(session) = Session::new() else { return };
    let session = session.fixture("larger", &[]);
    let place = &session.place;
    let room = place.root().join("room");
    fs::create_dir(&room).expect("make a mount point");
    let with_little_room = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        let flags = if requirement::is_root() { "-m" } else { "-rm" };
        unshare.args([flags, "bash", "-c", WITH_LITTLE_ROOM, "room"]).arg(&room).args(command);
        let environment = session.command::<&str>([]);
        let variables = environment.get_envs().filter_map(|(name, value)| Some((name, value?)));
        session.finish(unshare.env_clear().envs(variables).current_dir(place.root()))
    };
    if !with_little_room(&["true"]).end.is_success() {
        return requirement::skip("no mount namespace with a small tmpfs can be made here");
    }
    let larger = place.root().join("fixtures/larger");
    // ripgrep has several threads, whose stacks for signals are as small as can be.
    let run = |directory: &Path| {
        let larger = larger.display();
        format!(
            r#"cd {}; {larger} large copy; if command -v rg >/dev/null; then for i in 1 2 3 4 5 6 7 8 9 10; do rg --mmap -ac '^' | sort; done; rg --mmap -j1 -ac x copy; fi"#,
            directory.display()
        )
    };
    let plain = with_little_room(&["bash", "-c", &run(&place.out())]);
    let mount = Serving::Paged.mount_argument(&place.mnt(), &place.backend());
    let defuse = Product::get().defuse();
    let defuse = defuse.to_str().expect("a path in UTF-8");
    let served = with_little_room(&[defuse, "run", "-m", &mount, "--", "bash", "-c", &run(&place.mnt())]);
    let differences = defuse_e2e::diff::outcomes(&plain, &served);
    assert!(differences.is_empty(), "{differences}");
    assert!(plain.stdout_text().contains("the other alone: 0\n"), "{}", plain.stdout_text());
    for file in ["large", "copy"] {
        let same = fs::read(place.out().join(file)).ok() == fs::read(place.backend().join(file)).ok();
        assert!(same, "{file} differs in the end");
    }
    session.assert_nothing_left();
}

/// Stores `kept` to the file `f` by a mapping, and then waits for the end.
const STORE_AND_WAIT: &str = r#"
import mmap, os, sys, time
f = open("f", "r+b"); m = mmap.mmap(f.fileno(), 0); m[4096:4100] = b"kept"
print("stored", flush=True); os.close(1); os.kill(os.getpid(), 19)
"#;

/// The same where it is sure to happen: all files of the plugin have one number. A file has nothing of what another one had.
#[test]
fn files_that_have_the_number_of_one_that_is_gone() {
    let Some(session) = Session::new() else { return };
    let session = session
        .fixture("mapped", &["-pthread"])
        .fixture("allocating", &["-shared", "-fPIC", "-DINODES_AGAIN"]);
    let place = &session.place;
    let program = place.root().join("fixtures/mapped");
    let plain = Command::new(&program)
        .args(["inodes", "named"])
        .current_dir(place.out())
        .output()
        .expect("run the fixture");
    let plugin = place.root().join("fixtures/allocating");
    let mount = format!("{}={}:{}", place.mnt().display(), plugin.display(), place.backend().display());
    let script = format!("cd '{}'; exec '{}' inodes named", place.mnt().display(), program.display());
    let served = session.defuse(["run", "-m", &mount, "--", "bash", "-c", &script]);
    assert_eq!(served.end, End::Exit(0), "{}", served.stderr_text());
    assert_eq!(served.stdout_text(), String::from_utf8_lossy(&plain.stdout));
    session.assert_nothing_left();
}

/// A process that is killed in a write may have given its bytes to the plugin before anybody else knew: whoever appends after it does not
/// take them for a hole.
#[test]
fn what_a_process_appended_as_it_was_killed_is_kept() {
    let Some(session) = Session::new() else { return };
    fs::write(session.place.backend().join("f"), b"0123456789").expect("make the file");
    let mount = Serving::Paged.mount_argument(&session.place.mnt(), &session.place.backend());
    let append_behind = r#"
import mmap, os
f = open("f", "r+b"); m = mmap.mmap(f.fileno(), 0); m[0]
open(os.environ["BACKEND"] + "/f", "ab").write(b"killed")
os.write(os.open("f", os.O_WRONLY | os.O_APPEND), b"later")
print(open("f", "rb").read(), f.read())
"#;
    let script = format!("cd {} && exec python3 -c '{append_behind}'", session.place.mnt().display());
    let outcome = session.defuse(["run", "-m", &mount, "--", "bash", "-c", &script]);
    let whole = "b'0123456789killedlater'";
    assert_eq!(outcome.stdout_text(), format!("{whole} {whole}\n"), "{}", outcome.stderr_text());
    session.assert_nothing_left();
}

/// The runner and all processes are killed: the next run on this machine writes back what was stored to mapped files.
#[test]
fn what_a_killed_session_stored_is_written_back_by_the_next() {
    let Some(session) = Session::new() else { return };
    fs::write(session.place.backend().join("f"), vec![b'.'; 8192]).expect("make the file");
    let mount = Serving::Paged.mount_argument(&session.place.mnt(), &session.place.backend());
    let script = format!("cd {} && exec python3 -c '{STORE_AND_WAIT}'", session.place.mnt().display());
    let mut command = session.command(["run", "-m", &mount, "--", "bash", "-c", &script]);
    let mut runner = command.stdout(std::process::Stdio::piped()).spawn().expect("start defuse");
    let mut said = String::new();
    let mut output = BufReader::new(runner.stdout.take().expect("a pipe"));
    output.read_line(&mut said).expect("read what it says");
    assert_eq!(said, "stored\n");
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).expect("its children");
    // A killed process still counts as one of the session's until it has ended, which takes its time.
    let pids =
        children.split_whitespace().map(|pid| pid.parse().ok().and_then(Pid::from_raw).expect("a PID"));
    let children: Vec<_> =
        pids.map(|pid| pidfd_open(pid, PidfdFlags::empty()).expect("open the child")).collect();
    runner.kill().expect("kill the runner");
    runner.wait().expect("wait for the runner");
    for child in &children {
        pidfd_send_signal(child, Signal::KILL).expect("kill the child");
        poll(&mut [PollFd::new(child, PollFlags::IN)], None).expect("wait for the child's end");
    }
    let there = || fs::read(session.place.backend().join("f")).expect("read the file")[4096..4100].to_vec();
    assert_eq!(there(), b"....", "nobody has written it back yet");
    let outcome = session.defuse(["run", "-m", &mount, "--", "true"]);
    assert_eq!(outcome.end, defuse_e2e::process::End::Exit(0), "{}", outcome.stderr_text());
    assert_eq!(there(), b"kept");
    session.assert_nothing_left();
}
