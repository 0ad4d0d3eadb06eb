//! The evaluation on next to nothing: it works, and leaves nothing behind. What it measures is not looked at.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn evaluate(folder: &Path) -> Command {
    let scratch = folder.join("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_defuse-evaluation"));
    command.args(["--smoke", "--output"]).arg(folder.join("out/report.md")).arg("--scratch").arg(scratch);
    command.stdin(Stdio::null());
    command
}

/// No file, mount or process that has to do with `folder`.
fn nothing_is_left(folder: &Path) {
    let scratch = folder.join("scratch");
    let left: Vec<_> = fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let name = scratch.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        // Gone meanwhile, or not a process.
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains(name), "{} {line}", process.path().display());
    }
}

#[test]
fn a_run_leaves_a_report_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = evaluate(folder.path()).args(["metadata", "calls", "start", "programs"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(folder.path().join("out/report.md")).unwrap();
    for wanted in ["| create |", "| untar |", "`stat-deep`", "What falls short", "report/metadata-tmpfs.svg"]
    {
        assert!(report.contains(wanted), "{wanted} is not in\n{report}");
    }
    assert!(folder.path().join("out/report/metadata-tmpfs.svg").exists());
    let results = fs::read_to_string(folder.path().join("out/report.jsonl")).unwrap();
    for interface in ["direct", "defuse", "defuse-backing", "memory", "preload"] {
        assert!(results.contains(&format!("\"interface\":\"{interface}\"")), "no {interface} in\n{results}");
    }
    nothing_is_left(folder.path());

    // The report is made of the results alone, and a run has not moved beside itself.
    let results = folder.path().join("out/report.jsonl");
    let again = folder.path().join("again.md");
    let output = Command::new(env!("CARGO_BIN_EXE_defuse-evaluation"))
        .arg("--from")
        .arg(&results)
        .arg("--compare")
        .arg(&results)
        .arg("--output")
        .arg(&again)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no figure moved"), "{said}");
    assert_eq!(fs::read_to_string(again).unwrap().replace("again/", "report/"), report);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut run =
        evaluate(folder.path()).args(["metadata", "threads"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    // In the middle: the servers and sessions of the part before were there, those of this one are being started.
    let second = lines.by_ref().map(Result::unwrap).filter(|line| line.contains(" on ")).nth(1);
    assert!(second.is_some(), "the run ended early");
    // SAFETY: our own child, not waited for yet.
    assert_eq!(unsafe { libc::kill(run.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(run.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    nothing_is_left(folder.path());
}

#[test]
fn a_wrong_word_is_refused_before_anything_is_done() {
    let output = Command::new(env!("CARGO_BIN_EXE_defuse-evaluation")).arg("throughputs").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("throughputs"), "{said}");
}
