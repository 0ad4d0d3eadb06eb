//! C programs under `LD_PRELOAD` of the fixture library (tests/fixture), on this system's libc and, with
//! `DEFUSE_TRIXIE_ROOT` set to the root of a Debian trixie tree, on its glibc 2.41.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use rstest::rstest;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// An example, built anew when a run of this test alone has not: cargo builds examples only when all targets are tested.
fn built(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    // target/debug/deps/preload-… -> target/debug/examples/…
    let exe = std::env::current_exe().unwrap();
    let profile = exe.ancestors().nth(2).unwrap();
    BUILT.call_once(|| {
        // Set by cargo. Where there is none, a virtual machine say, whoever brought the test brought the examples too.
        let Some(cargo) = std::env::var_os("CARGO") else { return };
        let name = profile.file_name().and_then(OsStr::to_str).unwrap();
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--examples", "--profile", if name == "debug" { "dev" } else { name }])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
            .arg(profile.parent().unwrap())
            .status();
        assert!(status.expect("cargo").success(), "cargo build --examples");
    });
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is missing: build with `cargo build -p interpose --examples`", path.display());
    path
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture").join(name)
}

fn compile(directory: &Path, name: &str, output: &str, options: &[&str]) -> PathBuf {
    let out = directory.join(output);
    let status = Command::new("cc")
        .args(["-O1", "-g", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(&out)
        .arg(source(name))
        .args(options)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "cc {name}");
    out
}

/// Runs the program once on each libc there is, without dispatch and with it.
fn run(name: &str, options: &[&str], arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), name, "program", options);
    run_program(&program, arguments, "never");
    run_program(&program, arguments, "always");
}

fn run_program(program: &Path, arguments: &[&str], dispatch: &str) {
    let library = built("libfixture.so");
    let output = Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", &library)
        .env("FIXTURE_DISPATCH", dispatch)
        .output()
        .unwrap();
    check(program, arguments, &output);
    match std::env::var_os("DEFUSE_TRIXIE_ROOT") {
        None => println!("skipped: glibc 2.41: DEFUSE_TRIXIE_ROOT is not set"),
        Some(root) => {
            let libraries = Path::new(&root).join(LIBRARIES);
            // libgcc_s, which cancellation loads, may be missing from a small root.
            let path = format!("{}:/lib/x86_64-linux-gnu", libraries.display());
            let output = Command::new(libraries.join("ld-linux-x86-64.so.2"))
                .arg("--library-path")
                .arg(path)
                .arg("--preload")
                .arg(&library)
                .arg(program)
                .args(arguments)
                .env("FIXTURE_DISPATCH", dispatch)
                .output()
                .unwrap();
            check(program, arguments, &output);
        }
    }
}

fn check(program: &Path, arguments: &[&str], output: &Output) {
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[rstest]
#[case("never")]
#[case("always")]
fn paths_that_are_of_no_interest_are_not_offered(#[case] dispatch: &str) {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "paths.c", "program", &[]);
    let base = directory.path().canonicalize().unwrap();
    std::fs::create_dir(base.join(".hidden")).unwrap();
    let names = [
        "file",
        ".hidden/..dots",
        ".hidden/.file",
        "inode",
        "server",
        "long-name-of-more-than-sixteen-bytes-and-more-than-thirty-two",
    ];
    for name in names {
        std::fs::write(base.join(name), "").unwrap();
    }
    std::fs::create_dir(base.join("dir")).unwrap();
    std::os::unix::fs::symlink("file", base.join("link")).unwrap();
    assert!(Command::new("mkfifo").arg(base.join("fifo")).status().unwrap().success());
    let arguments = [base.to_str().unwrap()];
    let output = Command::new(&program)
        .args(arguments)
        .env("LD_PRELOAD", built("libfixture.so"))
        .env("FIXTURE_DISPATCH", dispatch)
        .env("FIXTURE_PATHS", &base)
        .output()
        .unwrap();
    check(&program, &arguments, &output);
}

#[test]
fn registers_are_kept() {
    run("registers.c", &[], &[]);
}

#[rstest]
#[case("deferred")]
#[case("same_descriptor")]
#[case("jumping")]
#[case("masks")]
#[case("waiting")]
#[case("restarting")]
#[case("together")]
#[case("resetting")]
#[case("queries")]
#[case("alternate_stack")]
#[case("faults")]
#[case("exec_inherits")]
#[case("threads")]
#[case("exiting")]
#[case("passed_on")]
#[case("broken")]
#[case("changing_stacks")]
fn signals(#[case] name: &str) {
    run("signals.c", &[], &[name]);
}

#[test]
fn cancellation_works_in_passed_and_in_served_calls() {
    run("cancel.c", &[], &[]);
}

#[rstest]
#[case("forks")]
#[case("vforks")]
#[case("storms")]
#[case("spawns")]
#[case("threads")]
#[case("everything")]
#[case("shared")]
#[case("inner")]
fn processes(#[case] name: &str) {
    run("process.c", &[], &[name]);
}

/// An object that comes later is rewritten as it is mapped, one that is unloaded and another in its place too.
#[test]
fn objects_loaded_later_are_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "later.c", "program", &["-ldl"]);
    let shared = ["-shared", "-fPIC", "-DOBJECT"];
    let one = compile(directory.path(), "later.c", "one.so", &shared);
    let two = compile(directory.path(), "later.c", "two.so", &[&shared[..], &["-Wl,-z,norelro"]].concat());
    let three = compile(
        directory.path(),
        "later.c",
        "three.so",
        &[&shared[..], &["-Wl,-z,noseparate-code"]].concat(),
    );
    let paths: Vec<_> = [&one, &two, &three].iter().map(|path| path.to_str().unwrap()).collect();
    run_program(&program, &paths, "never");
    run_program(&program, &paths, "always");
}

/// What one process found by scanning, the next takes from the store; a damaged plan is made anew.
#[test]
fn plans_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "plans.c", "program", &[]);
    let plans = directory.path().join("plans");
    std::fs::create_dir(&plans).unwrap();
    let run = |expected: &str| {
        let output = Command::new(&program)
            .arg(expected)
            .env("LD_PRELOAD", built("libfixture.so"))
            .env("FIXTURE_PLANS", &plans)
            .output()
            .unwrap();
        check(&program, &[expected], &output);
    };
    run("stores");
    run("loads");
    for plan in std::fs::read_dir(&plans).unwrap() {
        let path = plan.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(&path, bytes).unwrap();
    }
    run("repairs");
    run("loads");
}

/// Code made at run time, 32-bit calls, in threads, children and signal handlers.
#[test]
fn dispatch_catches_calls_from_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "direct.c", "program", &[]);
    run_program(&program, &[], "always");
}

/// Without a site that cannot be rewritten, `auto` costs nothing; with one it catches that.
#[test]
fn dispatch_arms_itself_for_a_site_that_cannot_be_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "stubborn.c", "program", &[]);
    run_program(&program, &[], "auto");
    let plain = compile(directory.path(), "plain.c", "plain", &[]);
    run_program(&plain, &[], "auto");
}

/// An allocator that makes system calls before any constructor of ours has run.
#[test]
fn programs_with_jemalloc_run() {
    let Some(jemalloc) = ["libjemalloc.so.2"]
        .iter()
        .map(|name| Path::new("/").join(LIBRARIES).join(name))
        .find(|path| path.exists())
    else {
        println!("skipped: libjemalloc2 is not installed");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path(), "process.c", "program", &[]);
    let preload = format!("{}:{}", built("libfixture.so").display(), jemalloc.display());
    let output = Command::new(&program).arg("threads").env("LD_PRELOAD", preload).output().unwrap();
    check(&program, &["threads"], &output);
}

#[test]
fn a_fixed_executable_is_rewritten() {
    run("registers.c", &["-no-pie", "-fno-pie"], &[]);
}
