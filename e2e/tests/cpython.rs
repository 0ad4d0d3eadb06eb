//! CPython's tests of its own modules, with the working directory and the temporary directory on the mount: each has the same result
//! as on a plain directory.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::process::Command;
use std::time::Duration;

use defuse_e2e::{Case, Serving, need_programs, requirement, script};

/// Runs the modules it is given, and prints the result of each test, with the last line of what went wrong. Left out are those that
/// fail where a machine is slow: they want an answer within 50 ms, a second, or as long as a child sleeps.
const RUNNER: &str = r#"
import io, sys, unittest
sys.path[:] = [p for p in sys.path if p]  # not the working directory
from test import support
class Results(unittest.TestResult):
    lines = {}
    def note(self, test, result): self.lines.setdefault(test.id(), []).append(result)
    def wrong(self, test, kind, error): self.note(test, f'{kind}: {error[0].__name__}: {error[1]}')
    def addSuccess(self, test): self.note(test, 'ok')
    def addSkip(self, test, why): self.note(test, 'skipped')
    def addExpectedFailure(self, test, error): self.note(test, 'expected failure')
    def addUnexpectedSuccess(self, test): self.note(test, 'unexpected success')
    def addError(self, test, error): self.wrong(test, 'error', error)
    def addFailure(self, test, error): self.wrong(test, 'failure', error)
    def addSubTest(self, test, part, error):
        if error: self.wrong(part, 'failure', error)
out, sys.stdout, sys.stderr = sys.stdout, io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
modules = [f'test.{name}' for name in sys.argv[1:]]
timed = {'test_utime_current', 'test_utime_current_old', 'test_check_output_timeout',
    'test_run_with_shell_timeout_and_capture_output', 'test_leak_fast_process_del_killed'}
def kept(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite): yield from kept(test)
        elif test.id().rpartition('.')[2] not in timed: yield test
results = Results()
unittest.TestSuite(kept(unittest.defaultTestLoader.loadTestsFromNames(modules))).run(results)
for test, result in sorted(results.lines.items()): print(*result, test, file=out)
"#;

fn modules(names: &str) -> Case {
    script(format!(
        r#"cat >"$OUT/runner.py" <<'RUNNER'
{RUNNER}
RUNNER
        mkdir "$MNT/tmp"; cd "$MNT"; export TMPDIR=$MNT/tmp
        python3 -B "$OUT/runner.py" {names} 2>&1 | sed 's/0x[0-9a-f]*/ADDRESS/g'; ls -A . tmp
    "#
    ))
    .limit(Duration::from_secs(600))
}

/// Compares, unless CPython's tests are not installed.
fn compare(names: &str, serving: Serving) {
    need_programs!("python3");
    let found = Command::new("python3").args(["-c", "import test.test_os"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return requirement::skip("python3 has no module test.test_os (Debian: python3-testsuite)");
    }
    modules(names).compare(serving);
}

const FILES: &str = "test_os test_posix test_fileio test_shutil test_tempfile test_glob test_pathlib";
const STREAMS_AND_PROCESSES: &str = "test_io test_subprocess";

#[test]
fn modules_about_files_served() {
    compare(FILES, Serving::Plugin);
}

#[test]
fn modules_about_files_native() {
    compare(FILES, Serving::BackingFd);
}

#[test]
fn streams_and_processes_served() {
    compare(STREAMS_AND_PROCESSES, Serving::Plugin);
}

#[test]
fn streams_and_processes_native() {
    compare(STREAMS_AND_PROCESSES, Serving::BackingFd);
}
