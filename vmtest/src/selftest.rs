//! `vmtest selftest`: a run whose tests go wrong must fail, say which, and exit with cargo's status.

use std::process::{Command, ExitCode, ExitStatus, Stdio};

use crate::error::Error;
use crate::kernels::Kernel;

/// One run of [`faults`](crate::guest), and what must come of it.
struct Case {
    name: &'static str,
    /// Which tests run, by their names.
    tests: &'static [&'static str],
    /// Exactly these are listed as failures, each with what is said of it.
    failures: &'static [(&'static str, &'static str)],
    /// How the last line ends; how many pass depends on the kernel's checkers.
    totals: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "tests_that_fail",
        tests: &["faults::passes", "faults::skips", "faults::panics", "faults::dies_by", "faults::never"],
        failures: &[
            ("faults::panics", "as it should be"),
            ("faults::dies_by_a_signal", "killed by signal 9"),
            ("faults::never_ends", "ran out of time"),
        ],
        totals: "3 failed, 1 skipped",
    },
    Case {
        name: "what_a_test_does_to_the_kernel",
        tests: &["faults::makes", "faults::taints", "faults::leaves"],
        failures: &[
            ("faults::makes_the_kernel_warn", "the kernel complained:"),
            ("faults::taints_the_kernel", "marked itself as tainted: B"),
            ("faults::leaves_a_mount", "mounts were left:"),
            ("faults::leaves_a_shadow", "shadow inodes were left"),
            // The shadow still holds it.
            ("module::unload", "Resource temporarily unavailable"),
        ],
        totals: "5 failed, 0 skipped",
    },
    Case {
        name: "a_panic_of_the_kernel",
        tests: &["faults::crashes"],
        failures: &[("faults::crashes_the_kernel", "the machine died")],
        totals: "1 failed, 0 skipped",
    },
    Case {
        name: "a_machine_that_hangs",
        tests: &["faults::stops"],
        failures: &[("faults::stops_the_runner", "the machine hangs")],
        totals: "1 failed, 0 skipped",
    },
];

/// Runs all of them; the exit code says whether each went wrong as it should.
pub fn run(kernel: &Kernel) -> Result<ExitCode, Error> {
    let mut failed = 0;
    for case in &CASES {
        let (status, text) = lab_run(kernel, case.tests)?;
        let faults = case.faults(kernel, status, &text);
        if faults.is_empty() {
            println!("test {} selftest::{} ... ok", kernel.name, case.name);
            continue;
        }
        failed += 1;
        println!("test {} selftest::{} ... FAILED", kernel.name, case.name);
        for line in faults.iter().map(String::as_str).chain(text.lines()) {
            println!("    {line}");
        }
    }
    println!("\n{} passed, {failed} failed, 0 skipped", CASES.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(crate::run::TESTS_FAILED) })
}

/// What `vmtest run` says and exits with, when these run: another process, since its status is part of what is tested.
fn lab_run(kernel: &Kernel, tests: &[&str]) -> Result<(ExitStatus, String), Error> {
    let failed = |source| Error::Io { attempt: "run vmtest".into(), source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["run", "--faults", "-k", kernel.name]).args(tests);
    let output = command.stdin(Stdio::null()).output().map_err(failed)?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status, text.concat()))
}

impl Case {
    /// In what the run differs from what it must be.
    fn faults(&self, kernel: &Kernel, status: ExitStatus, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if status.code() != Some(i32::from(crate::run::TESTS_FAILED)) {
            faults.push(format!("it ended with {status}"));
        }
        let listed: Vec<_> = text
            .lines()
            .skip_while(|line| *line != "failures:")
            .skip(1)
            .map_while(|line| line.strip_prefix("    "))
            .collect();
        let wanted: Vec<_> =
            self.failures.iter().map(|(name, _)| format!("{} {name}", kernel.name)).collect();
        if listed != wanted {
            faults.push(format!("it lists as failures {listed:?}, not {wanted:?}"));
        }
        for (name, reason) in self.failures {
            let begin = format!("test {} {name} ... FAILED", kernel.name);
            let mut said = text
                .lines()
                .skip_while(|line| *line != begin)
                .skip(1)
                .take_while(|line| line.starts_with("    "));
            if !said.any(|line| line.contains(reason)) {
                faults.push(format!("of {name} it does not say {reason:?}"));
            }
        }
        if !text.lines().any(|line| line.contains(" passed, ") && line.ends_with(self.totals)) {
            faults.push(format!("it does not end with {:?}", self.totals));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const CASE: Case = Case {
        name: "case",
        tests: &[],
        failures: &[("faults::panics", "why")],
        totals: "1 failed, 0 skipped",
    };
    const RIGHT: &str = "test 6.12 faults::panics ... FAILED\n    why\n\nfailures:\n    6.12 faults::panics\n\n0 passed, 1 failed, 0 skipped\n";

    fn faults(code: i32, text: &str) -> usize {
        let kernel = crate::kernels::named("6.12").expect("6.12 is in the table");
        CASE.faults(kernel, ExitStatus::from_raw(code << 8), text).len()
    }

    #[test]
    fn a_run_is_judged_by_all_that_it_says() {
        assert_eq!(faults(101, RIGHT), 0);
        assert_eq!(faults(0, RIGHT), 1);
        assert_eq!(faults(101, &RIGHT.replace("    why\n", "")), 1);
        assert_eq!(faults(101, &RIGHT.replace("    6.12 faults", "    6.12 other")), 1);
        assert_eq!(faults(101, ""), 3);
    }
}
