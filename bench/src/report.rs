//! A line for each result, as text and as JSON.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use defuse_bench::statistics::Spread;

/// What a value has to be.
#[derive(Clone, Copy)]
pub enum Target {
    /// That or more.
    AtLeast(f64),
    /// That or less.
    AtMost(f64),
    /// For information.
    None,
}

impl Target {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::None => None,
        }
    }
}

/// One result.
pub struct Line<'a> {
    /// What was done.
    pub work: &'a str,
    /// With what.
    pub mode: &'a str,
    /// What it took, in `unit`.
    pub value: Spread,
    /// Unit of the value.
    pub unit: &'a str,
    /// What is compared with the target: the ratio in each round, or the value.
    pub judged: Spread,
    /// The same by the wall clock, where that is measured.
    pub judged_wall: Option<f64>,
    /// What it has to be.
    pub target: Target,
}

/// Where results go.
pub struct Report {
    json: Option<File>,
    missed: Vec<String>,
}

impl Report {
    /// Also into the file `json`, as lines of JSON.
    pub fn new(json: Option<&Path>) -> io::Result<Self> {
        Ok(Self { json: json.map(File::create).transpose()?, missed: Vec::new() })
    }

    /// A heading.
    pub fn section(title: &str) {
        println!("\n{title}");
        println!(
            "  {:<16} {:<14} {:>12} {:>24} {:>8}  target",
            "", "", "median", "judged (quartiles)", "by wall"
        );
    }

    /// One result.
    pub fn line(&mut self, line: &Line) -> io::Result<()> {
        let Line { work, mode, value, unit, judged, judged_wall, target } = line;
        let met = target.met(judged.median);
        let mut text = format!(
            "  {work:<16} {mode:<14} {:>9.1} {unit:<2} {:>8.3} ({:.3}-{:.3})",
            value.median, judged.median, judged.low, judged.high
        );
        match judged_wall {
            Some(wall) => write!(text, " {wall:>8.3}"),
            None => write!(text, " {:>8}", ""),
        }
        .map_err(io::Error::other)?;
        let wanted = match target {
            Target::AtLeast(least) => format!(">= {least}"),
            Target::AtMost(most) => format!("<= {most}"),
            Target::None => String::new(),
        };
        let verdict = met.map_or("", |met| if met { "met" } else { "MISSED" });
        println!("{text}  {wanted} {verdict}");
        if met == Some(false) {
            self.missed.push(format!("{work} {mode}: {:.3}, wanted {wanted}", judged.median));
        }
        let Some(json) = &mut self.json else { return Ok(()) };
        let optional = |value: Option<String>| value.unwrap_or_else(|| "null".into());
        writeln!(
            json,
            r#"{{"work":"{work}","mode":"{mode}","unit":"{unit}","median":{:.2},"low":{:.2},"high":{:.2},"judged":{:.4},"judged_low":{:.4},"judged_high":{:.4},"judged_wall":{},"target":"{wanted}","met":{}}}"#,
            value.median,
            value.low,
            value.high,
            judged.median,
            judged.low,
            judged.high,
            optional(judged_wall.map(|wall| format!("{wall:.4}"))),
            optional(met.map(|met| met.to_string())),
        )
    }

    /// What did not reach its target.
    pub fn end(&self) {
        if self.missed.is_empty() {
            println!("\nall targets are met");
        } else {
            println!("\nmissed:");
            self.missed.iter().for_each(|missed| println!("  {missed}"));
        }
    }
}
