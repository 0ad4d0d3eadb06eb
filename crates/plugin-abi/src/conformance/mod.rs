//! Checks any plugin against a model: generated operation sequences, and the shortest that differs.
//!
//! The kit works below one directory it makes in the mount, `defuse-check-N`, and removes it again. The same
//! seed gives the same sequences. What a plugin answers with `ENOSYS`, `EOPNOTSUPP` or `EROFS` counts as not
//! supported and is reported, not held against it; but an operation that worked once has to go on working.
//!
//! ```no_run
//! # use plugin_abi::{Host, Plugin, conformance};
//! let plugin = Plugin::load("plugin.so".as_ref()).unwrap();
//! let fs = plugin.instantiate(c"/mnt", c"/backend", c"", Host::STDERR).unwrap();
//! match conformance::check(&fs, &conformance::Config::default()) {
//!     Ok(passed) => println!("{passed}"),
//!     Err(failed) => println!("{failed}"),
//! }
//! ```

mod generate;
mod model;
mod run;
mod shrink;
mod step;

pub use step::{Access, Step};

use crate::errno::Errno;
use crate::instance::Instance;
use run::{Difference, Session};
use std::collections::BTreeSet;
use std::fmt;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Which sequences.
    pub seed: u64,
    /// How many sequences, short ones first.
    pub sequences: u32,
    /// Steps in the longest.
    pub steps: usize,
}

impl Default for Config {
    /// About a second for a file system in memory.
    fn default() -> Self {
        Self { seed: 1, sequences: 400, steps: 60 }
    }
}

/// Nothing differed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Sequences run.
    pub sequences: u32,
    /// Operations made by their steps.
    pub steps: u64,
    /// What the plugin does not support.
    pub unsupported: Vec<&'static str>,
}

/// Why a check did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// The plugin differs from the model.
    Differs(Counterexample),
    /// The directory to work in cannot be made or emptied.
    CannotStart {
        /// What was attempted.
        attempt: &'static str,
        /// The plugin's answer.
        errno: Errno,
    },
}

/// The shortest sequence found whose last step differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The steps, the last one being that which differs.
    pub steps: Vec<Step>,
    /// What the difference is about, when it only showed when everything was compared afterwards.
    pub afterwards: Option<String>,
    /// What the model says.
    pub expected: String,
    /// What the plugin did.
    pub got: String,
    /// The seed it was found with.
    pub seed: u64,
}

/// Runs generated sequences and returns the shortest that differs, if one does.
pub fn check(fs: &Instance, config: &Config) -> Result<Passed, Failed> {
    let mut kit = Kit { fs, runs: 0, unsupported: BTreeSet::new() };
    let mut steps = 0;
    for number in 0..config.sequences {
        let random = generate::Random::new(config.seed, number);
        // Short sequences come first: what they find needs little shrinking.
        let length =
            3 + (config.steps.saturating_sub(3)) * number as usize / config.sequences.max(1) as usize;
        let sequence = generate::sequence(random, length);
        steps += sequence.len() as u64;
        if kit.run(&sequence)?.is_some() {
            return Err(Failed::Differs(shrink::shortest(&mut kit, sequence, config.seed)?));
        }
    }
    Ok(Passed { sequences: config.sequences, steps, unsupported: kit.unsupported.into_iter().collect() })
}

/// Where a sequence first differs: how many steps it took, and how.
type Finding = (usize, Difference);

struct Kit<'a> {
    fs: &'a Instance,
    runs: u64,
    unsupported: BTreeSet<&'static str>,
}

impl Kit<'_> {
    /// Runs one sequence in a fresh directory.
    fn run(&mut self, sequence: &[Step]) -> Result<Option<Finding>, Failed> {
        let mut session = loop {
            self.runs += 1;
            if let Some(session) = Session::start(self.fs, self.runs)? {
                break session;
            }
        };
        let mut finding = None;
        for (at, step) in sequence.iter().enumerate() {
            if let Err(difference) = session.step(step) {
                finding = Some((at + 1, difference));
                break;
            }
        }
        if finding.is_none() {
            finding = session.compare_everything().err().map(|difference| (sequence.len(), difference));
        }
        let unsupported = session.finish();
        match unsupported {
            Ok(unsupported) => self.unsupported.extend(unsupported),
            // A plugin that differs may well fail to clean up; then the finding is what counts.
            Err(failed) if finding.is_none() => return Err(failed),
            Err(_) => {}
        }
        Ok(finding)
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "passed: {} sequences, {} steps", self.sequences, self.steps)?;
        if !self.unsupported.is_empty() {
            write!(f, "; not supported: {}", self.unsupported.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs(example) => example.fmt(f),
            Self::CannotStart { attempt, errno } => write!(f, "cannot check: {attempt}: {errno}"),
        }
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "differs after {} steps (seed {}):", self.steps.len(), self.seed)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {}. {step}", number + 1)?;
        }
        if let Some(afterwards) = &self.afterwards {
            writeln!(f, "  then {afterwards}")?;
        }
        writeln!(f, "    expected {}", self.expected)?;
        write!(f, "    got      {}", self.got)
    }
}

impl std::error::Error for Failed {}
