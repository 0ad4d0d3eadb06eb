//! Results, as lines of JSON.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// Where and how all this was measured.
    Run(Run),
    /// One figure of one piece of work through one interface.
    Result(Measured),
    /// What could not be measured.
    Missing(Missing),
    /// What another benchmark printed.
    Text {
        /// What it is.
        title: String,
        /// Its words.
        text: String,
    },
}

/// Where and how.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Run {
    /// Of the machine: name and value.
    pub machine: Vec<(String, String)>,
    /// The words of the command.
    pub command: String,
    /// What was built without optimisation, or on fewer files.
    pub remarks: Vec<String>,
}

/// The same measured in each round.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Measured {
    /// Which part of the evaluation.
    pub section: String,
    /// `tmpfs`, `ext4`.
    pub store: String,
    /// What was done.
    pub work: String,
    /// Through what (`Interface::id`).
    pub interface: String,
    /// `wall` and `cpu` (ns a call), `waits` (of the whole work), `p50`, `p99`, `p99.9` (ns a call), `speed` (KiB/s).
    pub measure: String,
    /// One a round, in the order of the rounds.
    pub values: Vec<f64>,
}

/// What could not be measured, and why.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Missing {
    /// `Interface::id`, or a part of the evaluation.
    pub what: String,
    /// Where: a store, a work; all if empty.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// Lines in memory, and in a file if wanted.
pub struct Records {
    lines: Vec<Line>,
    file: Option<File>,
}

impl Records {
    /// Each line is in the file at once, so that a run that was cut short leaves what it has.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self { lines: Vec::new(), file: path.map(File::create).transpose()? })
    }

    /// One more.
    pub fn add(&mut self, line: Line) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            serde_json::to_writer(&mut *file, &line)?;
            file.write_all(b"\n")?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// What is missing; said once.
    pub fn missing(&mut self, what: &str, at: &str, reason: &str) -> io::Result<()> {
        let line = Line::Missing(Missing { what: what.into(), at: at.into(), reason: reason.into() });
        if self.lines.contains(&line) { Ok(()) } else { self.add(line) }
    }

    /// All of them.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

/// The lines of a file.
pub fn read(path: &Path) -> io::Result<Vec<Line>> {
    let named = |error: String| io::Error::other(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| named(error.to_string()))?;
    BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line?).map_err(|error| named(error.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Line, Measured, Records, read};

    #[test]
    fn lines_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut records = Records::new(Some(&path)).unwrap();
        records
            .add(Line::Result(Measured {
                section: "s".into(),
                store: "tmpfs".into(),
                work: "w \"quoted\"".into(),
                interface: "fuse".into(),
                measure: "wall".into(),
                values: vec![1.5, 2.0],
            }))
            .unwrap();
        records.missing("fuse", "", "no device").unwrap();
        records.missing("fuse", "", "no device").unwrap();
        assert_eq!(records.lines().len(), 2);
        assert_eq!(read(&path).unwrap(), records.lines());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        std::fs::write(&path, "{\"kind\":\"result\"").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("results.jsonl"), "{error}");
    }
}
