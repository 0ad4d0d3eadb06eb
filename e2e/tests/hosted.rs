//! Programs that do not load the library, statically linked or linked with another C library: on the mount as on a plain directory.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;

use defuse_e2e::process::End;
use defuse_e2e::product::Product;
use defuse_e2e::{Case, Serving, Session, requirement, same_as_plain, script};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
/// What Go has compiled, so that it need not do it every time.
const GO_CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/go-build");

/// Everything that one program does, started from elsewhere and from the mount, as it is and by a program of its kind.
///
/// `guests` is the variable that says which programs are; empty is the default.
fn guest(compiler: &'static str, options: &[&'static str], guests: &'static str) -> Case {
    script(
        r#"
        cd "$MNT"; "$FIX/guest" some words || echo "ended with $?"
        LD_PRELOAD=/nowhere.so LD_LIBRARY_PATH=/nowhere GLIBC_TUNABLES=glibc.malloc.check=0 "$FIX/guest" itself
        cp "$FIX/guest" here; ./here itself; PATH=$MNT:$PATH; here exit 7 || echo "ended with $?"
        mkdir e; cd e; ../here >../said || echo "ended with $?"; wc -l <../said
    "#,
    )
    .fixture_by(compiler, "guest", options)
    .env("DEFUSE_GUESTS", guests)
}

/// A fixture that is linked with musl.
fn with_musl(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture_by("musl-gcc", name, &[])
}

/// A fixture that is linked statically.
fn fixed(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture_with(name, &["-static"]).env("DEFUSE_GUESTS", "1")
}

fn go() -> Case {
    script(r#"cd "$MNT"; "$FIX/guest"; cp "$FIX/guest" here; ./here >said; wc -l <said"#)
        .setup(r#"[ -x "$FIX/guest" ] || CGO_ENABLED=0 go build -o "$FIX/guest" "$SOURCES/guest.go""#)
        .env("SOURCES", SOURCES)
        .env("DEFUSE_GUESTS", "1")
        .env("GOCACHE", GO_CACHE)
        .needs(&["go"])
        .limit(std::time::Duration::from_secs(600))
}

same_as_plain! {
    musl: guest("musl-gcc", &[], "");

    musl_static: guest("musl-gcc", &["-static"], "1");

    glibc_static: guest("cc", &["-static"], "1");

    glibc_static_pie: guest("cc", &["-static-pie"], "1");

    go_static: go();

    spawned: fixed("spawning");

    closed: script("ulimit -Sn 1100; cd \"$MNT\"; \"$FIX/closing\"").fixture_with("closing", &["-static"]).env("DEFUSE_GUESTS", "1");

    passed: fixed("passing");

    limited: fixed("limits");

    /// Handlers that do to files what they have interrupted, jump out of calls, or end those that wait.
    interrupted: fixed("interrupted");

    /// 64 threads, fork, 16 KiB stacks, cancellation.
    busy_threads: fixed("busy");

    /// Signals sent at any instruction, also of what becomes of another.
    stepped: fixed("stepping");

    stepped_musl: with_musl("stepping");

    /// SIGTRAP, SIGILL and SIGFPE that are sent while calls are made.
    sent_faults: with_musl("sent_faults");
    signalled_children: with_musl("signalled_children");

    everything_at_once: fixed("mixed");

    /// Memory that must not be paged out, with what the session has mapped among it.
    locked_memory: with_musl("locked_memory").needs_root();

    locked_memory_static: fixed("locked_memory").needs_root();

    /// Its own limit of the address space leaves room for what it asks for.
    small_space: fixed("small_space");

    small_space_musl: with_musl("small_space");

    /// Executed through descriptors that exec closes.
    by_descriptor: script(r#"cd "$MNT"; "$FIX/by_descriptor" "$FIX/by_descriptor""#)
        .fixture_by("musl-gcc", "by_descriptor", &[]);

    /// A program on the mount that several processes start for the first time, all at once. (What they say goes through a pipe: those who write to one file by
    /// `sendfile` at once write over each other.)
    started_at_once: script(r#"
        cd "$MNT"; echo found >f
        for copy in 1 2 3 4 5 6; do mkdir $copy; cp "$(command -v busybox)" $copy; { for n in 1 2 3 4 5 6 7 8; do $copy/busybox cat f & done; wait; } | uniq -c; done
    "#).needs(&["busybox"]).env("DEFUSE_GUESTS", "1");

    mapped: script(r#"cd "$MNT"; "$FIX/mapped""#).fixture_with("mapped", &["-static"]).env("DEFUSE_GUESTS", "1");

    /// A shell that is everything itself, its scripts, what it starts and what starts it.
    busybox: script(r#"
        cp "$(command -v busybox)" "$MNT/busybox"; cd "$MNT"
        cat >tools.sh <<'END'
echo one >a; echo two >>a; cat a | wc -l; cp a b; ls; for i in 1 2 3; do echo $i; done | sort -r | head -n 2; (cd ..; pwd | grep -c /)
find . -type f | sort; sed -i s/one/1/ a; cat a; mv b c; rm c; tar cf - a | tar tf -; /bin/sh -c 'cat a'; echo $(cat a | tr 12 ab)
trap 'echo trapped' USR1; kill -USR1 $$; sleep 0.1 & wait; grep -c 1 a; md5sum a; cat <a 5<a /dev/fd/5; echo end >>a; exec cat a
END
        busybox sh tools.sh; ./busybox sh tools.sh; env -i ./busybox sh -c 'cat a | busybox head -n 1; ./busybox readlink /proc/self/exe' || true
        printf '#!%s/busybox sh\necho "script $0 $1"; cat a\n' "$MNT" >script; chmod 755 script; ./script x; PATH=$MNT:$PATH; script y
        printf '#!%s sh\necho "script $0 $1"; cat a\n' "$(command -v busybox)" >other; chmod 755 other; ./other x; sh -c './other z <a'
        exec 7<a; ./busybox sh -c 'read -r x <&7; echo $x; exec sh -c "cat <&7"'; cat <&7
    "#).needs(&["busybox"]).env("DEFUSE_GUESTS", "1");
}

/// A host that has not got the library does not take the program's words for its own.
#[test]
fn a_host_that_nobody_tells_its_program_runs_nothing() {
    let Some(session) = Session::new() else { return };
    for name in ["host", "host-of-static"] {
        let link = session.place.home().join(name);
        symlink(Product::get().defuse(), &link).expect("a link");
        let outcome = session.finish(Command::new(&link).arg0("program").arg("--version"));
        assert_eq!(outcome.end, End::Exit(126), "{}", outcome.stdout_text());
        assert_eq!(outcome.stdout_text(), "");
        assert!(outcome.stderr_text().contains("cannot run 'program'"), "{}", outcome.stderr_text());
    }
}

/// Where the host would not do it is not executed, or not asked for; and where the kernel refuses to execute it, the program is executed without.
#[test]
fn a_program_that_cannot_have_a_host_runs_without_the_mounts() {
    if let Some(name) = requirement::missing_program(&["busybox"]) {
        requirement::skip(name);
        return;
    }
    let Some(session) = Session::new() else { return };
    let session = session.fixture("confining", &[]);
    let run = |guests: &str, how: &str| {
        let text = format!(
            r#"echo content >"$MNT/f"; "$FIX/confining" {how} "$(command -v busybox)" cat "$MNT/f"; echo "ended with $?""#
        );
        let mut arguments = vec!["run".to_owned(), "-m".to_owned()];
        arguments.push(Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend()));
        arguments.extend(["--", "bash", "-c", &text].map(str::to_owned));
        session.finish(session.command(arguments).env("DEFUSE_GUESTS", guests))
    };
    let hosted = run("1", "nothing");
    assert_eq!(hosted.stdout_text(), "content\nended with 0\n", "{}", hosted.stderr_text());
    for (guests, how) in
        [("1", "landlock"), ("1", "filter"), ("1", "space"), ("", "nothing"), ("0", "nothing")]
    {
        let outcome = run(guests, how);
        if how == "landlock" && outcome.stdout_text().contains("cannot prepare") {
            requirement::skip("the kernel has no Landlock");
            continue;
        }
        assert_eq!(outcome.stdout_text(), "ended with 1\n", "{how}: {}", outcome.stderr_text());
        let told = outcome.stderr_text();
        assert!(
            told.contains("runs without the mounts") && told.contains("cat: can't open"),
            "{how}: {told}"
        );
    }
    session.assert_nothing_left();
}
