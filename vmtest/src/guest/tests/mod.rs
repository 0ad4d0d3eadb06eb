//! What the kernel module promises, one test a promise.

mod cache;
mod directories;
mod faults;
mod fuzz;
mod identity;
mod killed;
mod lifetime;
mod listeners;
mod load;
mod locks;
mod measure;
mod options;
mod races;
mod refusals;
mod remount;
mod root;
mod sharing;
mod starved;
mod user_namespaces;

use std::time::Duration;

pub use sharing::probe;

/// A test in the guest. It runs in a process of its own, with one thread, as root.
pub struct Test {
    /// `file::promise`.
    pub name: &'static str,
    /// How long it may take under emulation.
    pub limit: Duration,
    /// Panics when the promise is broken; prints `skipped: <reason>` when it cannot be tested.
    pub run: fn(),
}

/// Makes the table of a file's tests: `tests![name, slow_name: 300]`, the number being its limit in seconds.
macro_rules! tests {
    ($($name:ident $(: $seconds:literal)?),* $(,)?) => {
        pub const TESTS: &[super::Test] = &[$(super::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            limit: super::limit(&[$($seconds)?]),
            run: $name,
        }),*];
    };
}
use tests;

/// The seconds that a table gives, else a minute.
const fn limit(seconds: &[u64]) -> Duration {
    Duration::from_secs(if let [seconds] = seconds { *seconds } else { 60 })
}

/// All of them.
pub fn all() -> impl Iterator<Item = Test> {
    let files = [
        options::TESTS,
        races::TESTS,
        remount::TESTS,
        root::TESTS,
        identity::TESTS,
        sharing::TESTS,
        user_namespaces::TESTS,
        locks::TESTS,
        directories::TESTS,
        refusals::TESTS,
        cache::TESTS,
        lifetime::TESTS,
        listeners::TESTS,
        killed::TESTS,
        fuzz::TESTS,
        starved::TESTS,
        load::TESTS,
        measure::TESTS,
    ];
    files.into_iter().flatten().map(short)
}

/// Those that go wrong, to test the lab itself.
pub fn faults() -> impl Iterator<Item = Test> {
    faults::TESTS.iter().map(short)
}

/// One of the two.
pub fn some(of_faults: bool) -> Box<dyn Iterator<Item = Test>> {
    if of_faults { Box::new(faults()) } else { Box::new(all()) }
}

/// Whether the filters choose the test: all of it that one of them says, and without one everything.
pub fn matches(name: &str, filters: &[impl AsRef<str>]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_ref()))
}

fn short(test: &Test) -> Test {
    Test { name: test.name.rsplit_once("tests::").map_or(test.name, |(_, name)| name), ..*test }
}

/// The error number of a call that must have failed.
fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("succeeded, but should have been refused"),
        Err(error) => error.raw_os_error().expect("an error of the kernel"),
    }
}

/// What an unintercepted process gets.
const REFUSED: i32 = libc::EREMOTEIO;
