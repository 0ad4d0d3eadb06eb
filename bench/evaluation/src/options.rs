//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use defuse_bench::product::Product;

use crate::plan::SECTIONS;

/// What is wanted.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// How much.
    pub extent: Extent,
    /// The report.
    pub output: PathBuf,
    /// Where the results go.
    pub results: PathBuf,
    /// Results to be compared with.
    pub compare: Option<PathBuf>,
    /// Results to make the report of, instead of measuring.
    pub from: Option<PathBuf>,
    /// Parts; all if empty.
    pub sections: Vec<String>,
    /// Where the run's own folder is made.
    pub scratch: PathBuf,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// Next to nothing: does it work?
    Smoke,
    /// Under two minutes.
    Quick,
    /// The evaluation.
    Full,
    /// With a whole kernel built.
    Long,
}

/// Parts that are not done by the workload program.
pub const OTHERS: [&str; 5] = ["stash", "programs", "start", "iozone", "pager"];

const HELP: &str = "\
cargo evaluate [OPTION...] [PART...]

Runs the paper's evaluation on this machine and writes a report.

  --quick           under two minutes: one round of a part of the work (figures are hints)
  --long            with a whole kernel built, in five rounds
  --smoke           seconds: only to see that it works
  --output FILE     the report (target/evaluation/evaluation.md); plots go into a folder beside it, results
                    into a file of the same name that ends in .jsonl
  --publish         puts the report into docs/evaluation.md of the sources, the results stay in target/
  --compare OLD     tells which figures moved beyond noise since the results OLD
  --from RESULTS    measures nothing: makes the report of RESULTS (and compares them)
  --scratch FOLDER  where to work (/dev/shm)
";

impl Options {
    /// `Err(Ok(text))`: only that is to be said.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, Result<String, lexopt::Error>> {
        Self::read(lexopt::Parser::from_args(words)).map_err(Err)?.ok_or_else(|| {
            let sections: Vec<&str> = SECTIONS.iter().map(|section| section.id).chain(OTHERS).collect();
            Ok(format!("{HELP}\nParts: {}\n", sections.join(", ")))
        })
    }

    fn read(mut parser: lexopt::Parser) -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::{Long, Short, Value, ValueExt};
        let root = Product::sources();
        let root = root.canonicalize().unwrap_or(root);
        let mut options = Self {
            extent: Extent::Full,
            output: root.join("target/evaluation/evaluation.md"),
            results: root.join("target/evaluation/evaluation.jsonl"),
            compare: None,
            from: None,
            sections: Vec::new(),
            scratch: "/dev/shm".into(),
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("quick") => options.extent = Extent::Quick,
                Long("long") => options.extent = Extent::Long,
                Long("smoke") => options.extent = Extent::Smoke,
                Long("output") => {
                    options.output = parser.value()?.into();
                    options.results = options.output.with_extension("jsonl");
                }
                Long("publish") => options.output = root.join("docs/evaluation.md"),
                Long("compare") => options.compare = Some(parser.value()?.into()),
                Long("from") => options.from = Some(parser.value()?.into()),
                Long("scratch") => options.scratch = parser.value()?.into(),
                Long("help") | Short('h') => return Ok(None),
                Value(word) => {
                    let word = word.string()?;
                    if !SECTIONS.iter().any(|section| section.id == word) && !OTHERS.contains(&word.as_str())
                    {
                        return Err(format!("there is no part {word:?} (see --help)").into());
                    }
                    options.sections.push(word);
                }
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(options))
    }

    /// Whether a part is to be measured.
    pub fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|wanted| wanted == section)
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Options};

    fn parse(words: &[&str]) -> Result<Options, Result<String, lexopt::Error>> {
        Options::parse(words.iter().map(Into::into))
    }

    #[test]
    fn parts_are_chosen_by_name() {
        let options = parse(&["--quick", "mapped", "programs"]).unwrap();
        assert_eq!(options.extent, Extent::Quick);
        assert!(options.wants("mapped") && options.wants("programs") && !options.wants("latency"));
        assert!(parse(&[]).unwrap().wants("latency"));
    }

    #[test]
    fn results_are_not_published() {
        let options = parse(&["--publish"]).unwrap();
        assert!(options.output.ends_with("docs/evaluation.md"));
        assert!(options.results.ends_with("target/evaluation/evaluation.jsonl"));
        assert_eq!(parse(&["--output", "a/b.md"]).unwrap().results, std::path::Path::new("a/b.jsonl"));
    }

    #[test]
    fn a_wrong_word_is_named() {
        let error = parse(&["maped"]).unwrap_err().unwrap_err().to_string();
        assert!(error.contains("maped"), "{error}");
        assert!(parse(&["--fast"]).unwrap_err().is_err());
        assert!(parse(&["--help"]).unwrap_err().unwrap().contains("mapped"));
    }
}
