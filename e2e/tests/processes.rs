//! Every way a program makes another, hands on what it has open, and does away with it.

use defuse_e2e::process::End;
use defuse_e2e::session::same_beside_the_mount;
use defuse_e2e::{Case, Serving, Session, need_programs, same_as_plain, same_as_plain_by, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// posix_spawn with every file action and attribute, popen, system.
    spawned: transcript("spawning");

    /// close_range, closefrom, daemons (which close every number below the limit), unshare, programs without standard streams.
    closed: script("ulimit -Sn 1100; cd \"$MNT\"; \"$FIX/closing\"").fixture("closing");

    /// Many at once take over one description of a file that has no name any more.
    many_heirs: script(r#"
        cd "$MNT"
        for round in $(seq 3); do
            seq -w 100 119 >lines; exec 3<lines; rm lines
            for child in $(seq 20); do (exec dd bs=4 count=1 status=none <&3) & done | sort
            wait; exec 3<&-
        done"#);

    /// The first who touches the mount is a child of vfork, whose FD table is not its parent's.
    first_use: script(r#"
        cd /; for case in opens enters spawns overtaken together nested; do
            mkdir -p "$MNT/$case/d/e"; echo held >"$MNT/$case/d/e/file"; echo "== $case"; "$FIX/first_use" "$MNT/$case" $case | sort; cat "$MNT/$case/log"; ls "$MNT/$case"
        done
        python3 -c 'import os, subprocess, sys; m = sys.argv[1]; subprocess.run(["ls"], cwd=m); print(sorted(os.listdir(m))); os.mkdir(m + "/made"); print(open(m + "/opens/log").read())' "$MNT""#).fixture_with("first_use", &["-pthread"]);

    /// clone and clone3 with memory, descriptors, working directory and handlers shared or not.
    shared: transcript("sharing");

    /// Children of vfork and posix_spawn that are killed at any moment.
    killed_children: transcript("killed");

    /// Processes that are killed with more files open, all in all, than a session has room for.
    killed_with_open_files: script(r#"cd "$MNT"; "$FIX/killed" 36 4000"#).fixture("killed");

    /// fexecve, `#!` chains, exec from a thread and in vain.
    executed: script(r#"cp "$FIX/executing" "$MNT/program"; cd "$MNT"; PATH=$MNT:$PATH; ./program"#).fixture("executing");

    /// What a vfork child does to files, directory, umask, limits, locks and mappings.
    borrowed_memory: transcript("borrowing");

    /// exec by another thread while the main one writes: nobody waits for what that held.
    executed_beside_the_main_thread: script(r#"
        cd "$MNT"; exec 5>log
        for round in $(seq 24); do "$FIX/executing_writer" $round; echo after >&5; echo $?; done; exec 5>&-; rm log"#).fixture_with("executing_writer", &["-pthread"]);

    /// clone and exec that fail, exec by /proc/self/exe, without arguments, with very many.
    not_made: script(r#"cp "$FIX/failing" "$MNT/program"; cd "$MNT"; ./program first; "$FIX/failing" show || true"#).fixture("failing");

    /// Processes and threads that open, duplicate, close, lock, pass, take, fork and exec by chance, in an order that a seed says.
    by_chance: script(r#"cd "$MNT"; for seed in $(seq 40); do echo "seed $seed"; "$FIX/by_chance" $seed 300; "$FIX/by_chance" $seed 300 records; done"#).fixture_with("by_chance", &["-pthread"]);

    /// SCM_RIGHTS between processes that share nothing but the session, also from one that has ended; pidfd_getfd.
    passed: transcript("passing");

    /// Objects without a build ID, so that each is looked at anew, are loaded by threads while others fork.
    objects_are_loaded_beside_forks: script(r#"
        cd "$MNT"; echo 'int answer(void) { return 42; }' >x.c; cc -shared -fPIC -Wl,--build-id=none -o x.so x.c
        for i in $(seq 0 59); do cp x.so a$i.so; cp x.so b$i.so; done
        "$FIX/loading_beside"; rm *.so"#).needs(&["cc"]).fixture_with("loading_beside", &["-pthread"]);

    /// Messages for which there is hardly room: numbers, control data, descriptors under way; and what else comes in them.
    passed_where_room_is_scarce: transcript("parcels");

    /// A descriptor that cannot be taken out of its process is opened by way of /proc.
    passed_without_leave_to_take: script(r#"cd "$MNT"; "$FIX/confining" taking "$FIX/parcels" appending"#).fixture("confining").fixture("parcels");

    /// No less than a socket is set to receive, and what another thread does with a number as soon as it has come.
    received_beside_threads: script(r#"cd "$MNT"; "$FIX/receiving""#).fixture_with("receiving", &["-pthread"]);

    /// A table that was a vfork child's, too, is not believed before it has been compared with the kernel's.
    table_had_in_common: script(r#"cd "$MNT"; "$FIX/one_table""#).fixture_with("one_table", &["-pthread"]);

    /// A number that a plugin has for a moment is closed by another thread.
    closed_at_random: script(r#"cd "$MNT"; "$FIX/at_random""#).fixture_with("at_random", &["-pthread"]);

    /// What is closed waits for a peer, who works with files.
    closed_while_others_wait: script(r#"cd "$MNT"; "$FIX/lingering""#).fixture_with("lingering", &["-pthread"]);

    /// What other threads do to the FDs that a vfork child has before it execs.
    closed_beside_vfork_children: script(r#"cd "$MNT"; "$FIX/closing_beside""#).fixture_with("closing_beside", &["-pthread"]);

    /// RLIMIT_NOFILE lowered and raised, numbers above and below.
    limited: script(r#"ulimit -Sn 1000; cd "$MNT"; "$FIX/limits""#).fixture("limits");

    /// As many open files as the limits leave room for; 100,000 are in `many_files`.
    many_open_files: script(r#"cd "$MNT"; n=$(($(ulimit -Sn) / 2 - 100)); "$FIX/limits" $((n < 20000 ? n : 20000))"#).fixture("limits");

    /// Coprocesses, /dev/stdin, descriptor 255, numbers from 10 on.
    shells: script(r#"
        cd "$MNT"; printf '%s
' one two three four five >f
        coproc { read -r line <&3; echo "coproc $line"; read -r line; echo "told $line"; } 3<f; echo hello >&"${COPROC[1]}"; cat <&"${COPROC[0]}"; wait
        exec 4<f; read -r x <&4; coproc P { cat <&4; }; cat <&"${P[0]}"; wait; read -r x <&4 || echo "at the end: $x"; exec 4<&-
        cat /dev/stdin <f | head -n 1; bash /dev/stdin <<<'echo from stdin'; (read -r x; cat /dev/fd/0) <f | head -n 1; for i in /proc/self/fd/0 /dev/stdin; do (read -r x; cat $i; :) <f | head -n 1; done
        exec 255<f; read -r -u 255 x; echo "$x"; (read -r -u 255 x; echo "$x"); bash -c 'read -r -u 255 x; echo "$x"'; exec 255<&-
        for n in 10 11 19 63 99; do eval "exec $n<f"; done; for n in 10 11 19 63 99; do eval "read -r x <&$n; read -r x <&$n; echo $n \$x"; done; ls /proc/self/fd | grep -c '^[1-9][0-9]'
        exec 10<&- 11<&99; read -r x <&11; echo "$x"; read -r x <&99; echo "$x"
        printf 'echo sourced; exec 6<f; read -r x <&6; echo $x
' >s; . ./s; bash s; bash <s; bash -s <s; mapfile -t a <f; echo ${#a[@]}
        { echo to both; cat <<<here; } > >(tee copy >&2) 2>/dev/null; wait; diff <(sort f) <(sort -r f | sort) && echo same"#);
}

same_as_plain_by! {
    [paged: Paged]

    /// The pager's descriptors are in a table that two processes have in common.
    shared_table_beside_mapped_pages: script(r#"cd "$MNT"; "$FIX/sharing" mapped"#).fixture("sharing");

    /// The same where the pager maps the files, which it does not do for a vfork child.
    borrowed_memory_of_pages: script(r#"cd "$MNT"; "$FIX/borrowing" paged"#).fixture("borrowing");
}

same_as_plain_by! {
    [session: SessionLocks]

    /// What carries the locks of a file stays with vfork children, too.
    locks_closed_beside_vfork_children: script(r#"cd "$MNT"; "$FIX/closing_beside""#).fixture_with("closing_beside", &["-pthread"]);
}

/// A library of the paper's form has one state for all of a process: a vfork child that is the first to use the mount must not start it for itself.
#[test]
fn a_vfork_child_is_the_first_to_use_a_plugin_with_one_state() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("one_state", &["-shared", "-fPIC"]).fixture("first_use", &["-pthread"]);
    let (root, backend) = (session.place.root(), session.place.backend());
    let plugin = format!("{}/fixtures/one_state:{}", root.display(), backend.display());
    let script = r#"for case in opens enters spawns overtaken together nested; do
            mkdir -p "$1/$case/d/e"; echo held >"$1/$case/d/e/file"; echo "== $case"
            "$FIX/first_use" "$1/$case" $case | sort; cat "$1/$case/log"; ls "$1/$case"
        done"#;
    same_beside_the_mount(&session, &plugin, script);
}

/// The plugin is told of the umask by us.
#[test]
fn umask_and_limits_of_a_vfork_child_are_its_own() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("borrowing", &["-pthread"]);
    same_beside_the_mount(&session, "memory:", r#"cd "$1"; "$FIX/borrowing" own"#);
}

/// Runs `forking`, one of the session's fixtures, on a mount of `plugin`.
fn fork_beside_threads_in(session: &Session, plugin: &str) {
    let mnt = session.place.mnt().display().to_string();
    let mount = format!("{mnt}={plugin}");
    let script = format!("cd '{mnt}'; exec '{}/fixtures/forking'", session.place.root().display());
    let outcome = session.defuse(["run", "-m", &mount, "--", "bash", "-c", &script]);
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    assert_eq!(outcome.stdout, b"equal\n");
    session.assert_nothing_left();
}

/// Runs `mapping_forks`, one of the session's fixtures, on mounts of these plugins.
fn fork_beside_mapping_threads(session: &Session, plugins: &[&str]) {
    let root = session.place.root();
    let points: Vec<_> = (0..plugins.len()).map(|index| root.join(format!("mapped{index}"))).collect();
    let mut arguments = vec!["run".to_owned()];
    for (point, plugin) in points.iter().zip(plugins) {
        std::fs::create_dir(point).expect("a new folder");
        arguments.extend(["-m".to_owned(), format!("{}={plugin}", point.display())]);
    }
    arguments.extend([
        "--".to_owned(),
        root.join("fixtures/mapping_forks").display().to_string(),
        "60".to_owned(),
    ]);
    arguments.extend(points.iter().map(|point| point.display().to_string()));
    let outcome = session.defuse(arguments.iter().map(String::as_str));
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    assert_eq!(outcome.stdout, b"equal\n");
    session.assert_nothing_left();
}

/// The session with a plugin that calls malloc in its operations, and the mount's argument for it.
fn with_allocating_plugin(session: Session) -> (Session, String) {
    with_allocating_plugin_built(session, &["-shared", "-fPIC"])
}

fn with_allocating_plugin_built(session: Session, options: &[&'static str]) -> (Session, String) {
    let session = session.fixture("allocating", options);
    let plugin = session.place.root().join("fixtures/allocating");
    let argument = format!("{}:{}", plugin.display(), session.place.backend().display());
    (session, argument)
}

/// fork(3) takes malloc's locks and then makes the system call, which waits until nobody is in the plugin any more; whoever is may wait for malloc.
#[test]
fn threads_fork_beside_a_plugin_that_uses_the_programs_malloc() {
    let Some(session) = Session::new() else { return };
    let (session, plugin) = with_allocating_plugin(session.fixture("forking", &["-pthread"]));
    fork_beside_threads_in(&session, &plugin);
}

/// Plugins are called as files come to be mapped and cease to be, and under locks that a fork waits for.
#[test]
fn threads_fork_beside_mapped_files_of_plugins() {
    let Some(session) = Session::new() else { return };
    let (session, plugin) = with_allocating_plugin(session.fixture("mapping_forks", &["-pthread"]));
    let other = session.place.root().join("other");
    std::fs::create_dir(&other).expect("a new folder");
    let paged = format!("passthrough,{}:{}", Serving::Paged.options(), other.display());
    fork_beside_mapping_threads(&session, &[&plugin, &paged]);
}

/// fork(3) takes the lock of the list of streams, which a plugin takes that opens one.
#[test]
fn threads_fork_beside_a_plugin_that_opens_streams() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("forking", &["-pthread"]);
    let (session, plugin) = with_allocating_plugin_built(session, &["-shared", "-fPIC", "-DSTREAMS"]);
    fork_beside_threads_in(&session, &plugin);
}

/// A guest's fork is our libc's, which takes the locks of the malloc that the plugins use.
#[test]
fn guests_threads_fork_beside_a_plugin_that_uses_malloc() {
    need_programs!("musl-gcc");
    let Some(session) = Session::new() else { return };
    let (session, plugin) = with_allocating_plugin(session.fixture_by("musl-gcc", "forking", &[]));
    fork_beside_threads_in(&session, &plugin);
}

/// A plugin that keeps its files in the process waits, at a fork, until no thread is in the middle of an operation.
#[test]
fn threads_fork_beside_a_plugin_that_waits_for_them() {
    let Some(session) = Session::new() else { return };
    fork_beside_threads_in(&session.fixture("forking", &["-pthread"]), "memory:");
}
