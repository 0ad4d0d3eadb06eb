//! Limits of a million open files that may not be raised, as containers have them. They are set for the whole test process, so this is alone here.

use defuse_e2e::{Serving, requirement, script};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The kernel's usual highest (`fs.nr_open`).
const MILLION: Option<u64> = Some(1 << 20);

/// Each new process copies the kernel's table of descriptors up to the last that is open, also those that plugins keep.
#[test]
fn the_table_that_processes_copy_stays_small() {
    if setrlimit(Resource::Nofile, Rlimit { current: MILLION, maximum: MILLION }).is_err() {
        requirement::skip(
            "the hard limit of open files is too low, and may not be raised (CAP_SYS_RESOURCE)",
        );
        return;
    }
    let table = r#"cd "$MNT"; echo x >f; exec 9<f; (:); read -r _ size < <(grep FDSize /proc/$$/status); [ $size -le 16384 ] && echo small || echo "$size entries""#;
    for serving in [Serving::Plugin, Serving::BackingFd] {
        script(table).compare(serving);
    }
}
