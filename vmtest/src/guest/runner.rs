//! Runs the tests one after another, each in a process of its own, and reports them by name.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use super::jobs::{self, Job, Jobs};
use super::kmsg;
use super::port::Port;
use super::tests;
use super::watch::Watch;
use super::{host_files, module, port};
use crate::report::{Outcome, Record};

/// Output of the test that runs, on the guest's tmpfs.
const OUTPUT: &str = "/run/vmtest-output";
/// Names the module's file to the tests.
pub const MODULE_VARIABLE: &str = "VMTEST_MODULE";
/// A number that random tests begin with.
pub const SEED_VARIABLE: &str = "VMTEST_SEED";
/// Tells the end-to-end tests how many times slower than a machine this is.
const SLOWNESS_VARIABLE: &str = "DEFUSE_E2E_SLOWNESS";

/// Load the module, run what matches, unload; then the machine powers off.
pub fn run(ko: &Path, rest: &[&str]) -> ExitCode {
    keep_inherited_descriptors();
    let mut port = match Port::open() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("vmtest guest: open the report port: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Jobs { all: jobs, unlisted, seed } = jobs::from_words(rest);
    let steps = 2 + usize::from(kmsg::has_leak_checker());
    port.send(&Record::Plan(jobs.len() + unlisted.len() + steps));

    if let Err(error) = cache_programs(&jobs) {
        port.send(&Record::Note(format!("programs are read from the host each time: {error}")));
    }

    // As on a machine: the kernel's own limit is so low that a hidden descriptor of the interposer would lie among those that programs look at.
    let nofile = Rlimit { current: Some(20_000), maximum: Some(1 << 20) };
    rustix::process::setrlimit(Resource::Nofile, nofile).expect("root raises the limit of open files");
    let mut watch = Watch::from_now().expect("open /dev/kmsg as root");
    step(&mut port, &mut watch, "module::load", || module::load(ko).map_err(|error| error.to_string()));
    for (name, reason) in unlisted {
        step(&mut port, &mut watch, &name, || Err(reason));
    }
    for job in &jobs {
        let name = job.name.clone();
        port.send(&Record::Start { name: name.clone(), limit: job.limit });
        let began = Instant::now();
        let (mut outcome, mut text) = run_job(job, ko, seed, &port);
        // What is left is looked for first, as the slab allocator then checks what was freed.
        let left = leftovers();
        for fault in left.into_iter().chain(watch.complaints()) {
            outcome = Outcome::Fail;
            text = format!("{text}\n{fault}");
        }
        port.send(&Record::End { name, outcome, took: began.elapsed(), text });
    }
    if kmsg::has_leak_checker() {
        step(&mut port, &mut watch, "module::leaks", || kmsg::leaks().map_or(Ok(()), Err));
    }
    step(&mut port, &mut watch, "module::unload", || module::unload().map_err(|error| error.to_string()));
    port.send(&Record::Done);
    ExitCode::SUCCESS
}

/// Run one of this crate's tests in this process.
pub fn one(name: &str) -> ExitCode {
    let Some(test) = tests::all().chain(tests::faults()).find(|test| test.name == name) else {
        eprintln!("no test is named {name}");
        return ExitCode::FAILURE;
    };
    (test.run)();
    ExitCode::SUCCESS
}

/// Has the programs that tests of other packages run cached. Tests of the module start few.
fn cache_programs(jobs: &[Job]) -> std::io::Result<()> {
    // <target>/<profile>/deps/<test>: what is tested lies in <target>/<profile>.
    let folder = |job: &Job| job.program.ancestors().nth(2).map(Path::to_path_buf);
    let own = std::env::current_exe()?;
    let mut folders: Vec<_> = jobs.iter().filter(|job| job.program != own).filter_map(folder).collect();
    folders.sort();
    folders.dedup();
    if folders.is_empty() { Ok(()) } else { host_files::cache(&folders) }
}

/// Part of the run itself, reported like a test.
fn step(port: &mut Port, watch: &mut Watch, name: &str, action: impl FnOnce() -> Result<(), String>) {
    port.send(&Record::Start { name: name.to_owned(), limit: Duration::from_secs(30) });
    let began = Instant::now();
    let mut result = action();
    if let Some(complaints) = watch.complaints() {
        result = Err(format!("{}\n{complaints}", result.err().unwrap_or_default()));
    }
    let (outcome, text) = match result {
        Ok(()) => (Outcome::Pass, String::new()),
        Err(text) => (Outcome::Fail, text),
    };
    port.send(&Record::End { name: name.to_owned(), outcome, took: began.elapsed(), text });
}

/// What virtme-ng left open (a terminal, at the number that a test takes for its second file) is no test's business.
fn keep_inherited_descriptors() {
    // SAFETY: the flag alone changes, so nobody's descriptor is closed under them.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    assert_eq!(result, 0, "close_range: {}", std::io::Error::last_os_error());
}

fn run_job(job: &Job, ko: &Path, seed: u64, port: &Port) -> (Outcome, String) {
    let output = File::create(OUTPUT).expect("create the output file on tmpfs");
    let spawned = Command::new(&job.program)
        .args(&job.arguments)
        .env("RUST_BACKTRACE", "0")
        .env(MODULE_VARIABLE, ko)
        // For the end-to-end tests: mount with the module, build nothing.
        .env("DEFUSE_E2E_MOUNT", "module")
        .env("DEFUSE_E2E_BUILT", "1")
        .env(SEED_VARIABLE, seed.to_string())
        .env(SLOWNESS_VARIABLE, job.slowness.to_string())
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("dup"))
        .stderr(output)
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return (Outcome::Fail, format!("start {}: {error}", job.program.display())),
    };
    let pid = Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
    let in_time = wait(&pidfd, port, job.limit);
    if !in_time {
        // The kernel log tells the host where every blocked task hangs.
        let _ = fs::write("/proc/sysrq-trigger", "w");
    }
    // Children that the test left, or all of it when it ran out of time.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let status = child.wait().expect("wait for the test");
    let text = fs::read_to_string(OUTPUT).unwrap_or_default();
    judge(in_time, status, text)
}

/// Whether the process ended within the limit. A host that hangs up ends the machine.
fn wait(pidfd: &OwnedFd, port: &Port, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.try_into().expect("a limit of seconds fits");
        let mut fds = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(port, PollFlags::empty())];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => return true,
            Ok(_) if fds[1].revents().contains(PollFlags::HUP) => port::power_off(),
            Ok(_) | Err(_) => {}
        }
    }
}

fn judge(in_time: bool, status: ExitStatus, text: String) -> (Outcome, String) {
    if !in_time {
        return (Outcome::Fail, format!("{text}\nran out of time"));
    }
    if !status.success() {
        let signal = status.signal().map(|signal| format!("\nkilled by signal {signal}"));
        return (Outcome::Fail, text + &signal.unwrap_or_default());
    }
    if let Some(line) = text.lines().find(|line| line.starts_with("skipped: ")) {
        return (Outcome::Skip, line["skipped: ".len()..].to_owned());
    }
    let measured: Vec<_> = text.lines().filter(|line| line.starts_with("measured: ")).collect();
    (Outcome::Pass, measured.join("\n"))
}

/// What a test must not leave behind: mounts, a missing module, shadow inodes.
fn leftovers() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(" - defuse ")).collect();
    if !left.is_empty() {
        // The next test is judged by what it leaves itself. A path with escapes in it stays, and is told of again.
        for point in left.iter().filter_map(|line| line.split(' ').nth(4)) {
            let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
        }
        return Some(format!("mounts were left: {left:?}"));
    }
    if !module::is_loaded() {
        return Some("the module is not loaded any more".to_owned());
    }
    // Inodes are freed after a grace period.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match module::slab_objects("defuse_inode") {
            0 => break,
            left if Instant::now() > deadline => return Some(format!("{left} shadow inodes were left")),
            _ => settle(),
        }
    }
    // Has SLUB look at all objects, also at the freed ones, now rather than when one is used again.
    for cache in module::SLAB_CACHES {
        let _ = fs::write(format!("/sys/kernel/slab/{cache}/validate"), "1");
    }
    None
}

/// Let a grace period pass, and let the slab allocator count anew.
pub fn settle() {
    // SAFETY: membarrier takes no pointers; GLOBAL waits for a grace period.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    // Drop per-CPU partial slabs, whose free objects count as used.
    for cache in module::SLAB_CACHES {
        let _ = fs::write(format!("/sys/kernel/slab/{cache}/shrink"), "1");
    }
}
