//! `defuse doctor`: what this machine offers, and the line that mends what it lacks.

mod limits;
mod mechanisms;
mod system;

use std::fmt;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// `defuse run` works, but something is missing or slower.
    Note,
    /// `defuse run` cannot work.
    Lack,
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    verdict: Verdict,
    subject: &'static str,
    detail: String,
    mend: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, detail: detail.into(), mend: None }
    }

    fn note(subject: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, subject, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn lack(subject: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Lack, subject, detail: detail.into(), mend: Some(mend.into()) }
    }
}

/// All that was found.
#[derive(Debug)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Whether `defuse run` can work here.
    pub fn can_run(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Lack)
    }
}

/// Looks at everything. Changes nothing.
pub fn examine() -> Report {
    let findings = vec![
        system::kernel(),
        system::libc(),
        system::library(),
        system::plugins(),
        system::run_directory(),
        limits::open_files(),
        limits::file_size(),
        limits::address_space(),
        limits::overcommit(),
        mechanisms::text_rewriting(),
        mechanisms::dispatch(),
        mechanisms::seccomp(),
        mechanisms::userfaultfd(),
        mechanisms::ptrace(),
        mechanisms::module(),
        mechanisms::fuse(),
    ];
    Report { findings }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { verdict, subject, detail, mend } in &self.findings {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Lack => "lack",
            };
            writeln!(out, "{verdict:4}  {subject}: {detail}")?;
            if let Some(mend) = mend {
                writeln!(out, "      -> {mend}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Report};

    #[test]
    fn a_lack_means_that_nothing_runs() {
        let report = |finding| Report { findings: vec![Finding::ok("a", "b"), finding] };
        assert!(report(Finding::note("c", "d", "e")).can_run());
        assert!(!report(Finding::lack("c", "d", "e")).can_run());
        assert_eq!(report(Finding::lack("c", "d", "e")).to_string(), "ok    a: b\nlack  c: d\n      -> e\n");
    }
}
