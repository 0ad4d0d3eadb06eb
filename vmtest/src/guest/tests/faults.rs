//! What a run must not pass over: each of these goes wrong in its way. `vmtest selftest` runs them, `vmtest run` does not.

use std::fs;

use rustix::mount::UnmountFlags;
use rustix::process::{Signal, getpid, getppid, kill_process, setsid};

use super::super::mount::Mount;
use super::super::process::{Gate, fork};
use super::super::shadow::Request;

super::tests![
    passes,
    skips,
    panics,
    dies_by_a_signal,
    makes_the_kernel_warn,
    taints_the_kernel,
    never_ends: 2,
    leaves_a_mount,
    leaves_a_shadow,
    crashes_the_kernel,
    stops_the_runner: 2,
];

fn passes() {}

fn skips() {
    println!("skipped: as it should be");
}

fn panics() {
    panic!("as it should be");
}

fn dies_by_a_signal() {
    kill_process(getpid(), Signal::KILL).expect("kill");
}

fn makes_the_kernel_warn() {
    // Without its end a line could be continued, and would not be readable yet.
    fs::write("/dev/kmsg", "BUG defuse_desc (Tainted: none): a test of the lab\n").expect("write as root");
}

/// As a report without words would.
fn taints_the_kernel() {
    const BAD_PAGE: u64 = 1 << 5;
    fs::write("/proc/sys/kernel/tainted", BAD_PAGE.to_string()).expect("write as root");
}

fn never_ends() {
    Gate::new().pass();
}

fn leaves_a_mount() {
    std::mem::forget(Mount::new());
}

/// In a process that the runner does not know, on a mount that is in no list.
fn leaves_a_shadow() {
    let held = Gate::new();
    let child = fork(|| {
        setsid().expect("leave the test's process group");
        let mount = Mount::new();
        let _file = mount.shadow(&Request::file(1, "f"));
        mount.unmount(UnmountFlags::DETACH).expect("detach");
        held.open();
        Gate::new().pass();
    });
    held.pass();
    std::mem::forget(child);
}

fn crashes_the_kernel() {
    fs::write("/proc/sysrq-trigger", "c").expect("write as root");
}

/// What a machine that hangs looks like from outside: nothing is reported any more.
fn stops_the_runner() {
    kill_process(getppid().expect("a parent"), Signal::STOP).expect("stop the runner");
    Gate::new().pass();
}
