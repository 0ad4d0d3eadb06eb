//! Pieces of work, done by several workers in turn, and the ratios between them.

use std::io;

use crate::report::{Line, Report, Target};
use defuse_bench::statistics::{Spread, spread};
use defuse_bench::worker::{Sample, Worker};

/// Which way a ratio is taken.
#[derive(Clone, Copy)]
pub enum Ratio {
    /// Time of the mode over that of the plain file system: what it costs.
    Cost,
    /// Time of the plain file system over that of the mode: how much of its speed is reached.
    Speed,
}

/// A worker and what it has to reach.
pub struct Contender<'a> {
    /// What it is called.
    pub mode: &'a str,
    /// Does the work.
    pub worker: &'a mut Worker,
    /// What its ratio has to be.
    pub target: Target,
}

/// Has `direct` and the contenders do each of `works` in `rounds` rounds, a work of all before the next, and reports.
pub fn compare(
    report: &mut Report,
    works: &[&str],
    rounds: usize,
    ratio: Ratio,
    direct: &mut Worker,
    contenders: &mut [Contender],
) -> io::Result<()> {
    let mut samples = vec![vec![Vec::new(); contenders.len() + 1]; works.len()];
    for round in 0..=rounds {
        for (work, samples) in works.iter().zip(&mut samples) {
            let mut done = vec![direct.work(work)?];
            for contender in &mut *contenders {
                done.push(contender.worker.work(work)?);
            }
            // The first round warms up.
            if round > 0 {
                samples.iter_mut().zip(done).for_each(|(all, sample)| all.push(sample));
            }
        }
    }
    for (work, samples) in works.iter().zip(&samples) {
        let direct = &samples[0];
        let line = |mode, all: &[Sample], target| {
            let ratios = |time: fn(&Sample) -> f64| {
                spread(all.iter().zip(direct).map(|(one, direct)| match ratio {
                    Ratio::Cost => time(one) / time(direct),
                    Ratio::Speed => time(direct) / time(one),
                }))
            };
            Line {
                work,
                mode,
                value: per_call(all),
                unit: "ns",
                // Processor time: the work waits for nothing (its waits are counted), and on a busy machine the wall clock tells of the others.
                judged: ratios(|sample| sample.cpu),
                judged_wall: Some(ratios(|sample| sample.wall).median),
                target,
            }
        };
        report.line(&line("direct", direct, Target::None))?;
        for (contender, all) in contenders.iter().zip(&samples[1..]) {
            report.line(&line(contender.mode, all, contender.target))?;
            let waits = |all: &[Sample]| spread(all.iter().map(|sample| sample.waits as f64));
            let (own, directs) = (waits(all), waits(direct));
            if own.median > directs.median {
                let mode = format!("{} waits", contender.mode);
                let target = Target::AtMost(directs.median);
                let (value, judged) = (own, own);
                report.line(&Line {
                    work,
                    mode: &mode,
                    value,
                    unit: "",
                    judged,
                    judged_wall: None,
                    target,
                })?;
            }
        }
    }
    Ok(())
}

fn per_call(samples: &[Sample]) -> Spread {
    spread(samples.iter().map(|sample| sample.cpu / sample.calls as f64))
}
