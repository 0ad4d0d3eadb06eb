//! A program that has 100,000 files open, and forks with them. The limit is raised for the whole test process, so this is alone here.

use defuse_e2e::{Serving, requirement, script};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the program opens, as many again for the plugin, and some more.
const NEEDED: u64 = 210_000;
const FILES: u32 = 100_000;

#[test]
fn a_hundred_thousand_open_files() {
    let limits = getrlimit(Resource::Nofile);
    if limits.maximum.is_some_and(|maximum| maximum < NEEDED) {
        let raised = Rlimit { maximum: Some(NEEDED), ..limits };
        if setrlimit(Resource::Nofile, raised).is_err() {
            requirement::skip(
                "the hard limit of open files is too low, and may not be raised (CAP_SYS_RESOURCE)",
            );
            return;
        }
    }
    let soft = Rlimit { current: Some(u64::from(FILES) + 100), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, soft).expect("set the soft limit");
    for serving in [Serving::Plugin, Serving::BackingFd] {
        script(format!("cd \"$MNT\"; \"$FIX/limits\" {FILES}")).fixture("limits").compare(serving);
    }
}
