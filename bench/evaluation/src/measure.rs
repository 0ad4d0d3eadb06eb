//! All parts, one after the other.

use std::fs;
use std::io;
use std::path::PathBuf;

use defuse_bench::product::Product;

use crate::enclosure::Enclosure;
use crate::interface::Store;
use crate::machine;
use crate::mounted::Place;
use crate::options::{Extent, Options};
use crate::others;
use crate::peers::Peers;
use crate::plan::{SECTIONS, Section};
use crate::programs::{self, Size, Sources};
use crate::progress::Progress;
use crate::record::{Line, Records, Run};
use crate::rounds::{self, Amount};
use crate::stash;
use crate::store::InUse;

/// Roughly, for the time left: seconds of a round of programs, and of the other parts.
const PROGRAMS_ROUND: f64 = 85.0;
const PREPARING_SOURCES: f64 = 40.0;
/// Of either in a quick run.
const QUICK: f64 = 3.0;
const STARTS: f64 = 3.0;
const STASH: f64 = 8.0;
const PAGER: f64 = 30.0;

/// Measures what is wanted.
pub fn all(options: &Options, enclosure: &Enclosure) -> io::Result<Vec<Line>> {
    if let Some(folder) = options.results.parent() {
        fs::create_dir_all(folder)?;
    }
    let product = Product::build()?;
    let peers = Peers::build(&enclosure.folder.join("peers"))?;
    // No mount is below it: relative paths in it are nobody's either.
    let foreign = enclosure.folder.join("outside").join("foreign");
    fs::create_dir(enclosure.folder.join("outside"))?;
    fs::write(&foreign, b"not on a mount")?;
    let mut all = All {
        options,
        enclosure,
        product,
        peers,
        foreign,
        records: Records::new(Some(&options.results))?,
        progress: Progress::new(expected(options)),
    };
    let run = all.describe();
    all.records.add(run)?;
    for section in SECTIONS.iter().filter(|section| options.wants(section.id)) {
        for &store in section.stores {
            all.section(section, store)?;
        }
    }
    all.others()?;
    Ok(all.records.lines().to_vec())
}

struct All<'a> {
    options: &'a Options,
    enclosure: &'a Enclosure,
    product: Product,
    peers: Peers,
    foreign: PathBuf,
    records: Records,
    progress: Progress,
}

/// Of a section.
fn amount(options: &Options, section: &Section) -> Amount {
    match options.extent {
        Extent::Full | Extent::Long => Amount { rounds: section.rounds[0], divisor: 1, cold: true },
        Extent::Quick => Amount { rounds: section.rounds[1], divisor: section.quick_divisor, cold: true },
        Extent::Smoke => Amount { rounds: 1, divisor: 500, cold: false },
    }
}

fn program_rounds(options: &Options) -> usize {
    match options.extent {
        Extent::Smoke | Extent::Quick => 1,
        Extent::Full => 3,
        Extent::Long => 5,
    }
}

/// Seconds of getting the sources, and of a round with them, roughly.
fn programs_seconds(options: &Options) -> (f64, f64) {
    match options.extent {
        Extent::Smoke | Extent::Quick => (QUICK, QUICK),
        Extent::Full => (PREPARING_SOURCES, PROGRAMS_ROUND),
        Extent::Long => (PREPARING_SOURCES, 10.0 * PROGRAMS_ROUND),
    }
}

/// Seconds of a round, roughly.
fn seconds(section: &Section, amount: Amount) -> f64 {
    section.seconds / amount.divisor as f64
}

fn expected(options: &Options) -> f64 {
    let sections: f64 = SECTIONS
        .iter()
        .filter(|section| options.wants(section.id))
        .map(|section| {
            let amount = amount(options, section);
            seconds(section, amount) * ((amount.rounds + 1) * section.stores.len()) as f64
        })
        .sum();
    let full = matches!(options.extent, Extent::Full | Extent::Long);
    let part = |name: &str, seconds: f64| if options.wants(name) && full { seconds } else { 0.0 };
    let (preparing, round) = programs_seconds(options);
    let programs = preparing + round * program_rounds(options) as f64;
    let programs = if options.wants("programs") { programs } else { 0.0 };
    sections + programs + part("start", STARTS) + part("stash", STASH) + part("pager", PAGER)
}

impl All<'_> {
    fn describe(&self) -> Line {
        let mut remarks = Vec::new();
        if cfg!(debug_assertions) {
            remarks.push("Built without optimisation: the figures mean nothing.".to_owned());
        }
        match self.options.extent {
            Extent::Quick => {
                remarks.push("A quick run, on a part of the work: the figures are hints.".to_owned());
            }
            Extent::Smoke => remarks.push("Only to see that it works: the figures mean nothing.".to_owned()),
            Extent::Full | Extent::Long => {}
        }
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = ["cargo evaluate".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
        Line::Run(Run { machine: machine::describe(&self.peers), command, remarks })
    }

    /// Calls `work` with everything it needs on a store that is gone afterwards.
    fn at(
        &mut self,
        store: Store,
        work: impl FnOnce(&mut Records, &Place, &Progress) -> io::Result<()>,
    ) -> io::Result<()> {
        let used = match InUse::new(store, &self.enclosure.folder, &self.enclosure.mounts) {
            Ok(used) => used,
            Err(reason) => return self.records.missing(store.id(), "", &reason),
        };
        let scratch = self.enclosure.folder.join("mounts");
        fs::create_dir_all(&scratch)?;
        let place = Place {
            product: &self.product,
            peers: &self.peers,
            mounts: &self.enclosure.mounts,
            foreign: &self.foreign,
            scratch: &scratch,
            store: &used.folder,
        };
        let done = work(&mut self.records, &place, &self.progress);
        let _ = fs::remove_dir_all(&scratch);
        done
    }

    fn section(&mut self, section: &Section, store: Store) -> io::Result<()> {
        let amount = amount(self.options, section);
        self.progress.say(&format!("{} on {}", section.id, store.id()));
        self.at(store, |records, place, progress| {
            rounds::run(records, place, section, store, amount, || progress.done(seconds(section, amount)))
        })
    }

    fn others(&mut self) -> io::Result<()> {
        let extent = self.options.extent;
        let full = matches!(extent, Extent::Full | Extent::Long);
        if self.options.wants("start") {
            self.progress.say("start of a process");
            let rounds = if full { 400 } else { 20 };
            self.at(Store::Tmpfs, |records, place, _| others::starts(records, place, rounds))?;
            self.progress.done(if full { STARTS } else { 0.0 });
        }
        if self.options.wants("stash") {
            self.progress.say("files through exec");
            let rounds = if full { 100 } else { 2 };
            self.at(Store::Tmpfs, |records, place, _| stash::run(records, place, rounds))?;
            self.progress.done(if full { STASH } else { 0.0 });
        }
        if self.options.wants("programs") {
            self.programs(extent)?;
        }
        if self.options.wants("iozone") {
            self.progress.say("IOzone");
            let (rounds, megabytes) = if full { (5, 128) } else { (1, 8) };
            self.at(Store::Tmpfs, |records, place, _| others::iozone(records, place, rounds, megabytes))?;
        }
        if self.options.wants("pager") {
            if full {
                self.progress.say("the pager alone");
                others::pager(&mut self.records)?;
                self.progress.done(PAGER);
            } else {
                self.records.missing("uffd-pager alone", "", "left out of a quick run")?;
            }
        }
        Ok(())
    }

    fn programs(&mut self, extent: Extent) -> io::Result<()> {
        self.progress.say("sources for the programs");
        let size = match extent {
            Extent::Smoke => Size::MadeUp(2),
            Extent::Quick => Size::MadeUp(20),
            Extent::Full => Size::Part,
            Extent::Long => Size::Whole,
        };
        let (sources, real) = Sources::prepare(&self.enclosure.folder.join("sources"), size)?;
        if let Err(reason) = real {
            self.records.missing("the sources of a kernel", "programs", &reason)?;
        }
        self.records
            .add(Line::Text { title: "Sources of the programs".into(), text: sources.description.clone() })?;
        let (preparing, round) = programs_seconds(self.options);
        self.progress.done(preparing);
        let rounds = program_rounds(self.options);
        self.at(Store::Tmpfs, |records, place, progress| {
            programs::run(records, place, Store::Tmpfs, &sources, rounds, progress, round)
        })
    }
}
