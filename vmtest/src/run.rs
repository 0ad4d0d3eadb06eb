//! `vmtest run`: boot each kernel, show each test's result, sum up.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::cli::RunOptions;
use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::{Lab, check};
use crate::report::{Outcome, Record};
use crate::vm::{Event, Machine, Vm};
use crate::{guest, kernel_log, kmod, kvm, test_binary, tools};

/// Beyond a test's own time-out, which the guest keeps, before the machine is taken for hung.
const GRACE: Duration = Duration::from_secs(60);
/// The same where a machine is made to hang, which is waited for.
const GRACE_OF_FAULTS: Duration = Duration::from_secs(20);
/// `cargo test` exits so when a test failed.
pub const TESTS_FAILED: u8 = 101;

/// How many times longer than on a machine whole programs may take in an emulated one.
const EMULATION: u32 = 8;
/// What the tests of other packages run.
const PRODUCT: [&str; 3] = ["defuse", "defuse-plugin-passthrough", "defuse-plugin-memory"];

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

/// Run the tests in every kernel; the exit code says whether all passed.
pub fn run(lab: &Lab, options: &RunOptions) -> Result<ExitCode, Error> {
    tools::require(&options.kernels)?;
    if !crate::virtme::is_there(lab) {
        return Err(Error::Missing("virtme-ng is not there: run `cargo vmtest setup`".into()));
    }
    for kernel in &options.kernels {
        lab.abi(kernel)?;
    }
    let external = external_tests(lab, &options.packages)?;
    let chosen = chosen(options, &external)?;
    let seed = seed()?;
    let mut tally = Tally::default();
    for kernel in &options.kernels {
        let ko = kmod::build(lab, kernel, false)?;
        let kvm = kvm::works(lab, kernel)?;
        let mut guest: Vec<OsString> = vec!["run".into(), ko.into()];
        for file in &external {
            guest.extend(["--external".into(), file.into()]);
        }
        let slowness = kernel.slowness();
        let external_slowness = if kvm { slowness } else { slowness * EMULATION };
        guest.extend(["--slowness".into(), slowness.to_string().into()]);
        guest.extend(["--external-slowness".into(), external_slowness.to_string().into()]);
        guest.extend(["--seed".into(), seed.to_string().into()]);
        if options.faults {
            guest.push("--faults".into());
        }
        guest.extend(options.filters.iter().map(OsString::from));
        let cpus = options.cpus.unwrap_or(kernel.cpus());
        let machine = Machine { kernel, cpus, kvm, programs: !external.is_empty(), guest };
        let grace = if options.faults { GRACE_OF_FAULTS } else { GRACE };
        let mut expected = Expected { names: chosen.clone(), plan: None, ended: 0 };
        run_kernel(lab, &machine, grace * kernel.slowness(), &mut expected, &mut tally)?;
    }
    if !tally.failed.is_empty() {
        println!("\nfailures:");
        for name in &tally.failed {
            println!("    {name}");
        }
    }
    println!("\n{} passed, {} failed, {} skipped", tally.passed, tally.failed.len(), tally.skipped);
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TESTS_FAILED) })
}

/// What random tests begin with: `$VMTEST_SEED`, a number or `random`; without it always the same, so that a run can be repeated.
fn seed() -> Result<u64, Error> {
    let Ok(text) = std::env::var(guest::SEED_VARIABLE) else { return Ok(0) };
    let seed = match text.as_str() {
        "random" => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
        number => number.parse().map_err(|_| {
            Error::Usage(format!("{} is a number or \"random\", not {number:?}", guest::SEED_VARIABLE))
        })?,
    };
    println!("{}={seed}", guest::SEED_VARIABLE);
    Ok(seed)
}

/// The tests that will run. A filter that chooses none is a mistake, or the name of a test that is no more.
fn chosen(options: &RunOptions, external: &[PathBuf]) -> Result<Vec<String>, Error> {
    let mut all: Vec<_> = guest::some(options.faults).map(|test| test.name.to_owned()).collect();
    for program in external {
        let stem = test_binary::stem(program);
        let tests = test_binary::list(program).map_err(Error::Missing)?;
        all.extend(tests.into_iter().map(|test| format!("{stem}::{test}")));
    }
    let idle = |filter: &&String| !all.iter().any(|name| name.contains(filter.as_str()));
    if let Some(filter) = options.filters.iter().find(idle) {
        return Err(Error::Missing(format!("no test has {filter:?} in its name")));
    }
    all.retain(|name| guest::matches(name, &options.filters));
    Ok(all)
}

/// What a machine is to report.
struct Expected {
    /// Tests that have not ended.
    names: Vec<String>,
    /// How many results it has announced.
    plan: Option<usize>,
    /// How many came.
    ended: usize,
}

impl Expected {
    fn ended(&mut self, name: &str) {
        self.ended += 1;
        if let Some(at) = self.names.iter().position(|expected| expected == name) {
            self.names.swap_remove(at);
        }
    }

    /// What is wrong with the report of a machine that has said it is done.
    fn lacks(&self) -> Option<String> {
        if !self.names.is_empty() {
            return Some(format!("it did not report {}", self.names.join(", ")));
        }
        (self.plan != Some(self.ended)).then(|| format!("{} results, of {:?}", self.ended, self.plan))
    }
}

fn run_kernel(
    lab: &Lab,
    machine: &Machine<'_>,
    grace: Duration,
    expected: &mut Expected,
    tally: &mut Tally,
) -> Result<(), Error> {
    let kernel = machine.kernel;
    let how = if machine.kvm { "KVM" } else { "emulated" };
    println!("\nbooting {} ({}, {how}, {} CPU)", kernel.name, lab.abi(kernel)?, machine.cpus);
    let began = Instant::now();
    let mut vm = Vm::boot(lab, machine)?;
    if !vm.wait_until_up(None) {
        show_log(vm.log(), None);
        tally.fail(kernel, "boot", "the machine did not come up");
        return Ok(());
    }
    let failed_before = tally.failed.len();
    let ending = follow(&mut vm, kernel, grace, expected, tally);
    if matches!(ending, Ending::Done)
        && let Some(lack) = expected.lacks()
    {
        tally.fail(kernel, "report", &lack);
    }
    let broken = match ending {
        Ending::Done if vm.wait_until_off() => None,
        Ending::Done => Some(("power-off".to_owned(), "the machine did not power off")),
        Ending::Died(test) => Some((test, "the machine died")),
        Ending::Hung(test) => Some((test, "the machine hangs")),
    };
    let log = vm.log().to_owned();
    drop(vm);
    let alarms = alarms(&log);
    if let Some((test, how)) = &broken {
        tally.fail(kernel, test, how);
    } else if tally.failed.len() == failed_before && !alarms.is_empty() {
        tally.fail(kernel, "kernel log", &alarms.join("\n"));
    }
    if broken.is_some() || !alarms.is_empty() {
        show_log(&log, alarms.first().map(String::as_str));
    }
    println!("{} took {:.0} s", kernel.name, began.elapsed().as_secs_f64());
    Ok(())
}

/// How a run ended, with the test that ran at the time.
enum Ending {
    Done,
    Died(String),
    Hung(String),
}

fn follow(
    vm: &mut Vm,
    kernel: &Kernel,
    grace: Duration,
    expected: &mut Expected,
    tally: &mut Tally,
) -> Ending {
    let mut current = "start".to_owned();
    let mut limit = grace;
    loop {
        match vm.next(limit) {
            Event::Record(Record::Plan(tests)) => {
                println!("running {tests} tests");
                expected.plan = Some(tests);
            }
            Event::Record(Record::Start { name, limit: own }) => {
                limit = own + grace;
                current = name;
            }
            Event::Record(Record::End { name, outcome, took, text }) => {
                tally.count(kernel, &name, outcome, took, &text);
                expected.ended(&name);
                limit = grace;
            }
            Event::Record(Record::Note(text)) => println!("{text}"),
            Event::Record(Record::Done) => return Ending::Done,
            Event::End => return Ending::Died(current),
            Event::Silence => return Ending::Hung(current),
        }
    }
}

impl Tally {
    fn count(&mut self, kernel: &Kernel, name: &str, outcome: Outcome, took: Duration, text: &str) {
        let took = took.as_secs_f64();
        match outcome {
            Outcome::Pass => {
                self.passed += 1;
                println!("test {} {name} ... ok ({took:.1} s)", kernel.name);
                if !text.is_empty() {
                    println!("    {text}");
                }
            }
            Outcome::Skip => {
                self.skipped += 1;
                println!("test {} {name} ... skipped: {text}", kernel.name);
            }
            Outcome::Fail => self.fail(kernel, name, text),
        }
    }

    fn fail(&mut self, kernel: &Kernel, name: &str, text: &str) {
        println!("test {} {name} ... FAILED", kernel.name);
        for line in text.lines() {
            println!("    {line}");
        }
        self.failed.push(format!("{} {name}", kernel.name));
    }
}

/// The part of the log that the tests wrote.
fn guest_part(log: &Path) -> Vec<String> {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let begin = text.find("starting script").unwrap_or(0);
    text[begin..].lines().map(str::to_owned).collect()
}

fn alarms(log: &Path) -> Vec<String> {
    guest_part(log).into_iter().filter(|line| kernel_log::is_alarm(line)).collect()
}

/// Print the kernel log, from the first alarm on if there was one, else its end.
fn show_log(log: &Path, alarm: Option<&str>) {
    const LINES: usize = 120;
    let lines = guest_part(log);
    let begin = match alarm {
        Some(alarm) => lines.iter().position(|line| line == alarm).unwrap_or(0).saturating_sub(5),
        None => lines.len().saturating_sub(LINES),
    };
    println!("---- kernel log ({}) ----", log.display());
    for line in lines.iter().skip(begin).take(LINES) {
        println!("{line}");
    }
    println!("---- end of the kernel log ----");
}

/// The test binaries of other packages, compiled.
fn external_tests(lab: &Lab, packages: &[String]) -> Result<Vec<PathBuf>, Error> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(lab.workspace());
        command
    };
    // What the end-to-end tests run: they cannot build it in the guest.
    let mut command = cargo();
    command.arg("build");
    for package in PRODUCT {
        command.args(["-p", package]);
    }
    check("build the product", &mut command)?;
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format=json"]);
    for package in packages {
        command.args(["-p", package]);
    }
    let messages = check(&format!("compile the tests of {}", packages.join(", ")), &mut command)?;
    Ok(messages.lines().filter_map(test_executable).collect())
}

/// The executable that a line of cargo's JSON tells of.
fn test_executable(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/debug/deps/e2e-12ab","fresh":true}"#;
        assert_eq!(test_executable(line), Some("/t/debug/deps/e2e-12ab".into()));
        assert_eq!(test_executable(r#"{"executable":null}"#), None);
    }

    fn options(filters: &[&str]) -> RunOptions {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        RunOptions { kernels: Vec::new(), cpus: None, packages: Vec::new(), filters, faults: false }
    }

    #[test]
    fn each_filter_chooses_a_test() {
        let names = chosen(&options(&["locks::flock", "cache::"]), &[]).expect("both choose tests");
        assert!(names.iter().any(|name| name.starts_with("cache::")) && names.len() > 2);
        let error = chosen(&options(&["locks::flock", "lokcs"]), &[]).expect_err("there is no such test");
        assert_eq!(error.to_string(), "no test has \"lokcs\" in its name");
        chosen(&options(&["locks"]), &["/bin/false".into()]).expect_err("it cannot list its tests");
    }

    #[test]
    fn what_a_machine_did_not_report_is_missed() {
        let mut expected = Expected { names: vec!["a".into(), "b".into()], plan: Some(3), ended: 0 };
        for name in ["module::load", "a"] {
            expected.ended(name);
        }
        assert_eq!(expected.lacks().as_deref(), Some("it did not report b"));
        expected.ended("b");
        assert_eq!(expected.lacks(), None);
        expected.ended("c");
        assert!(expected.lacks().is_some());
    }
}
