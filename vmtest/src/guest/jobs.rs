//! What the runner is to run, from its words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tests::{self, Test};
use crate::test_binary;

/// A test from another test binary has this long.
const EXTERNAL_LIMIT: Duration = Duration::from_secs(120);

/// One thing to run: a test of this crate, or of another test binary.
pub struct Job {
    pub name: String,
    pub limit: Duration,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// How many times longer than on a machine it takes.
    pub slowness: u32,
}

/// The jobs, and what keeps there from being more.
#[derive(Default)]
pub struct Jobs {
    pub all: Vec<Job>,
    /// Test binaries that could not say which tests they have: a name and the reason.
    pub unlisted: Vec<(String, String)>,
    /// What random tests begin with.
    pub seed: u64,
}

/// Make sense of `[--faults] [--external FILE].. [--seed N] [--slowness N] [--external-slowness N] [FILTER]..`.
pub fn from_words(words: &[&str]) -> Jobs {
    let mut filters = Vec::new();
    let mut external: Vec<&str> = Vec::new();
    let (mut slowness, mut external_slowness) = (1, 1);
    let (mut faults, mut seed) = (false, 0);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--faults" => faults = true,
            "--external" => external.extend(words.next()),
            "--seed" => seed = words.next().and_then(|word| word.parse().ok()).unwrap_or(0),
            "--slowness" => slowness = number(words.next()),
            "--external-slowness" => external_slowness = number(words.next()),
            filter => filters.push(filter),
        }
    }
    let mut jobs = Jobs { seed, ..Jobs::default() };
    jobs.all.extend(own(slowness, faults));
    for file in external {
        jobs.add_external(Path::new(file), external_slowness);
    }
    jobs.all.retain(|job| tests::matches(&job.name, &filters));
    for job in &mut jobs.all {
        job.limit *= job.slowness;
    }
    jobs
}

fn number(word: Option<&&str>) -> u32 {
    word.and_then(|word| word.parse().ok()).unwrap_or(1)
}

fn own(slowness: u32, faults: bool) -> impl Iterator<Item = Job> {
    let me = std::env::current_exe().expect("the guest sees its own executable");
    tests::some(faults).map(move |Test { name, limit, .. }| Job {
        name: name.to_owned(),
        limit,
        program: me.clone(),
        arguments: vec!["guest".into(), "one".into(), name.to_owned()],
        slowness,
    })
}

impl Jobs {
    /// The tests of a binary that `cargo test` built.
    fn add_external(&mut self, program: &Path, slowness: u32) {
        let stem = test_binary::stem(program);
        let tests = match test_binary::list(program) {
            Ok(tests) => tests,
            Err(reason) => return self.unlisted.push((format!("{stem}::list"), reason)),
        };
        self.all.extend(tests.into_iter().map(|test| Job {
            name: format!("{stem}::{test}"),
            limit: EXTERNAL_LIMIT,
            program: program.to_owned(),
            // Not "pretty", which puts what a test says of being skipped behind its name.
            arguments: ["--exact", &test, "--nocapture", "--format", "terse"].map(str::to_owned).into(),
            slowness,
        }));
    }
}

#[cfg(test)]
mod tests_of_jobs {
    use super::*;

    #[test]
    fn a_binary_that_cannot_list_its_tests_is_told_of() {
        let jobs = from_words(&["--external", "/bin/false", "locks::flock"]);
        assert_eq!(jobs.unlisted[0].0, "false::list");
        assert!(jobs.all.iter().all(|job| job.name.contains("locks::flock")) && !jobs.all.is_empty());
    }

    #[test]
    fn faults_are_no_tests() {
        assert!(!from_words(&[]).all.iter().any(|job| job.name.starts_with("faults::")));
        assert!(from_words(&["--faults"]).all.iter().all(|job| job.name.starts_with("faults::")));
    }
}
