//! Measures what DEFUSE costs and gains, as ratios within one run, on tmpfs.
//!
//! ```text
//! cargo run --release -p defuse-bench [-- [--quick] [--json FILE] [foreign|files|memory|startup|exec]...]
//! ```
//!
//! A workload process that runs plainly and others in sessions do the same work in turn; what is judged is the median of the ratios
//! of the rounds, of processor time: the column `by wall` has the same by the wall clock, which on a busy machine tells of the others.
//! Where a session waits more often (voluntary context switches) than the plain process, that has a line of its own. Everything is made below one folder in `/dev/shm`, which is gone afterwards.

#![allow(clippy::cast_precision_loss)] // Times and counts are far below 2^52.

mod exec;
mod report;
mod startup;
mod syscalls;
mod work;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use defuse_bench::product::Product;
use defuse_bench::worker::Worker;
use report::{Report, Target};
use work::{Contender, Ratio, compare};

struct Options {
    quick: bool,
    json: Option<PathBuf>,
    sections: Vec<String>,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self { quick: false, json: None, sections: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(arguments.next().ok_or("--json needs a file")?.into()),
                "foreign" | "files" | "memory" | "startup" | "exec" => options.sections.push(argument),
                _ => {
                    return Err(format!(
                        "there is no option {argument:?}; see the head of bench/src/main.rs"
                    ));
                }
            }
        }
        Ok(options)
    }

    fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|wanted| wanted == section)
    }

    /// Rounds, in a quick run fewer.
    fn rounds(&self, rounds: usize) -> usize {
        if self.quick { rounds.div_ceil(5) } else { rounds }
    }
}

fn main() -> ExitCode {
    let run = Options::read().map_err(io::Error::other).and_then(|options| measure(&options));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("defuse-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> io::Result<()> {
    let product = Product::build()?;
    let folder = tempfile::Builder::new().prefix("defuse-bench-").tempdir_in("/dev/shm")?;
    let base = folder.path();
    // No mount is below it: relative paths in it are nobody's either.
    let foreign = base.join("outside").join("foreign");
    std::fs::create_dir(base.join("outside"))?;
    std::fs::write(&foreign, b"not on a mount")?;
    let mut report = Report::new(options.json.as_deref())?;
    let mut direct = Worker::direct(&product, base, &foreign)?;
    let session = |name: &str, plugin: &str, flags: &str| {
        Worker::in_session(&product, base, &foreign, name, plugin, flags)
    };
    if options.wants("foreign") {
        Report::section("Calls that are not ours: time with the interposer / without");
        let mut beside = session("beside", "passthrough", "")?;
        let mut contenders =
            [Contender { mode: "interposed", worker: &mut beside, target: Target::AtMost(1.03) }];
        compare(
            &mut report,
            &defuse_bench::FOREIGN,
            options.rounds(25),
            Ratio::Cost,
            &mut direct,
            &mut contenders,
        )?;
    }
    if options.wants("files") {
        files(&mut report, options, &mut direct, session)?;
    }
    if options.wants("memory") {
        Report::section("Data that a plugin holds in memory: time on tmpfs / on the mount");
        let mut memory = session("memory", "memory", "")?;
        let works = ["read-128", "read-4096", "write-128", "write-4096"];
        let mut contenders =
            [Contender { mode: "memory", worker: &mut memory, target: Target::AtLeast(2.5) }];
        compare(&mut report, &works, options.rounds(25), Ratio::Speed, &mut direct, &mut contenders)?;
        syscalls::count(&mut report, &product, base)?;
    }
    if options.wants("startup") {
        Report::section("Start of a process: processor time, added to that of the plain process");
        let holder = session("startup", "passthrough", "")?;
        startup::measure(&mut report, &product, &holder.session()?, options.rounds(400))?;
        startup::parts(&mut report, &product, base, options.rounds(200))?;
    }
    if options.wants("exec") {
        Report::section("Exec with open files: processor time, added to that with plain files");
        exec::measure(&mut report, &product, base, options.rounds(200))?;
    }
    report.end();
    drop(direct);
    folder.close()
}

/// Files of the passthrough plugin, read and written by the plugin and by way of its descriptors.
fn files(
    report: &mut Report,
    options: &Options,
    direct: &mut Worker,
    session: impl Fn(&str, &str, &str) -> io::Result<Worker>,
) -> io::Result<()> {
    Report::section("Passthrough: time of plain files / time on the mount");
    let mut plugin = session("plugin", "passthrough", "")?;
    let mut backing = session("backing", "passthrough", ",backing-fd")?;
    let parts: [(&[&str], usize, f64); 3] = [
        (&["small-write", "small-read"], 25, 0.85),
        (&["mixed-write", "mixed-read"], 15, 0.95),
        (&["large-write", "large-read"], 9, 0.95),
    ];
    for (works, rounds, least) in parts {
        let mut contenders = [
            Contender { mode: "plugin", worker: &mut plugin, target: Target::AtLeast(least) },
            Contender { mode: "backing FD", worker: &mut backing, target: Target::AtLeast(0.97) },
        ];
        compare(report, works, options.rounds(rounds), Ratio::Speed, direct, &mut contenders)?;
    }
    Ok(())
}
