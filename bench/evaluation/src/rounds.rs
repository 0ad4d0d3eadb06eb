//! Runs a section: every interface in turn, again and again.

use std::io;

use defuse_bench::worker::{Sample, Worker};

use crate::interface::{Interface, Store};
use crate::mounted::{Mounted, Place};
use crate::plan::{Section, is_cold};
use crate::record::{Line, Measured, Records};
use crate::store::clear_caches;

/// One interface under test.
struct Contender {
    interface: Interface,
    /// Ends before what it works on.
    worker: Worker,
    /// Kept for as long as the worker.
    _mounted: Mounted,
    /// By work, by round.
    samples: Vec<Vec<Sample>>,
    /// Works that it said it cannot do.
    cannot: Vec<bool>,
}

/// How much of it.
#[derive(Clone, Copy)]
pub struct Amount {
    /// Rounds that count; one more warms up.
    pub rounds: usize,
    /// Of the full work.
    pub divisor: usize,
    /// Whether caches are cleared where the paper does so, which the whole machine feels.
    pub cold: bool,
}

/// `tick` is called after each round.
pub fn run(
    records: &mut Records,
    place: &Place,
    section: &Section,
    store: Store,
    amount: Amount,
    mut tick: impl FnMut(),
) -> io::Result<()> {
    let mut contenders = Vec::new();
    for &interface in section.interfaces {
        match start(place, section, interface, amount.divisor) {
            Ok(contender) => contenders.push(contender),
            Err(error) => records.missing(interface.id(), "", &error.to_string())?,
        }
    }
    for round in 0..=amount.rounds {
        for (at, work) in section.works.iter().enumerate() {
            let cold = amount.cold && is_cold(work) && section.id != "warm";
            if cold && !clear_caches() {
                records.missing("cold caches", "", "only root may clear the kernel's caches")?;
            }
            let mut fallen = Vec::new();
            // Not always the same one first.
            let count = contenders.len();
            for turn in 0..count {
                let who = (turn + round) % count;
                let contender = &mut contenders[who];
                if contender.cannot[at] {
                    continue;
                }
                let sample = match contender.worker.work(work) {
                    Ok(sample) => sample,
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        contender.cannot[at] = true;
                        records.missing(contender.interface.id(), work, &error.to_string())?;
                        continue;
                    }
                    Err(error) => {
                        let reason = format!("{error} (round {round}, {})", store.id());
                        records.missing(contender.interface.id(), work, &reason)?;
                        fallen.push(who);
                        continue;
                    }
                };
                // The first round warms up.
                if round > 0 {
                    contender.samples[at].push(sample);
                }
            }
            fallen.sort_unstable();
            for who in fallen.into_iter().rev() {
                let contender = contenders.remove(who);
                if contender.interface == Interface::Direct {
                    return Err(io::Error::other(format!("{work} failed on the plain file system")));
                }
                keep(records, section, store, &contender)?;
            }
        }
        tick();
    }
    contenders.iter().try_for_each(|contender| keep(records, section, store, contender))
}

fn start(place: &Place, section: &Section, interface: Interface, divisor: usize) -> io::Result<Contender> {
    let mounted = Mounted::new(place, interface)?;
    let worker = mounted.worker(divisor)?;
    let cannot = section.works.iter().map(|work| interface.cannot(work).is_some()).collect();
    let samples = vec![Vec::new(); section.works.len()];
    Ok(Contender { interface, worker, _mounted: mounted, samples, cannot })
}

fn keep(records: &mut Records, section: &Section, store: Store, contender: &Contender) -> io::Result<()> {
    for (work, samples) in section.works.iter().zip(&contender.samples) {
        if let Some(reason) = contender.interface.cannot(work) {
            records.missing(contender.interface.id(), work, reason)?;
        }
        if samples.is_empty() {
            continue;
        }
        let mut add = |measure: &str, value: &dyn Fn(&Sample) -> f64| {
            records.add(Line::Result(Measured {
                section: section.id.into(),
                store: store.id().into(),
                work: (*work).into(),
                interface: contender.interface.id().into(),
                measure: measure.into(),
                values: samples.iter().map(value).collect(),
            }))
        };
        add("wall", &|sample| sample.wall / sample.calls as f64)?;
        add("cpu", &|sample| sample.cpu / sample.calls as f64)?;
        add("waits", &|sample| sample.waits as f64)?;
        if samples.iter().all(|sample| sample.percentiles.is_some()) {
            for (at, measure) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
                add(measure, &|sample| sample.percentiles.map_or(0.0, |times| times[at]))?;
            }
        }
    }
    Ok(())
}
