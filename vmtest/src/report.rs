//! What the guest tells the host, one line per record, over a virtio-serial port.

use std::fmt;
use std::time::Duration;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned.
    Pass,
    /// It panicked, died, ran out of time, or the kernel complained meanwhile.
    Fail,
    /// It printed `skipped: <reason>` and returned.
    Skip,
}

/// One line of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// How many tests will run; the first record.
    Plan(usize),
    /// A test begins and has this long.
    Start {
        /// The test's name.
        name: String,
        /// Its time-out.
        limit: Duration,
    },
    /// A test ended.
    End {
        /// The test's name.
        name: String,
        /// How.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
        /// Its output, the reason why it was skipped, or what it measured.
        text: String,
    },
    /// Something to show.
    Note(String),
    /// All tests ran; what follows is the power-off.
    Done,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Plan(tests) => write!(f, "plan\t{tests}"),
            Record::Start { name, limit } => write!(f, "start\t{name}\t{}", limit.as_millis()),
            Record::End { name, outcome, took, text } => {
                let outcome = match outcome {
                    Outcome::Pass => "pass",
                    Outcome::Fail => "fail",
                    Outcome::Skip => "skip",
                };
                write!(f, "end\t{name}\t{outcome}\t{}\t{}", took.as_millis(), escape(text))
            }
            Record::Note(text) => write!(f, "note\t{}", escape(text)),
            Record::Done => f.write_str("done"),
        }
    }
}

impl Record {
    /// The record that `line`, without its newline, spells; `None` if it spells none.
    pub fn parse(line: &str) -> Option<Record> {
        let mut fields = line.split('\t');
        let kind = fields.next()?;
        let mut next = || fields.next();
        let record = match kind {
            "plan" => Record::Plan(next()?.parse().ok()?),
            "start" => Record::Start { name: next()?.to_owned(), limit: millis(next()?)? },
            "end" => Record::End {
                name: next()?.to_owned(),
                outcome: match next()? {
                    "pass" => Outcome::Pass,
                    "fail" => Outcome::Fail,
                    "skip" => Outcome::Skip,
                    _ => return None,
                },
                took: millis(next()?)?,
                text: unescape(next()?),
            },
            "note" => Record::Note(unescape(next()?)),
            "done" => Record::Done,
            _ => return None,
        };
        fields.next().is_none().then_some(record)
    }
}

fn millis(field: &str) -> Option<Duration> {
    field.parse().ok().map(Duration::from_millis)
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "")
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let next = if c == '\\' { chars.next() } else { None };
        out.push(match next {
            Some('n') => '\n',
            Some('t') => '\t',
            Some(other) => other,
            None => c,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(Record::Plan(3))]
    #[case(Record::Start { name: "locks::flock".into(), limit: Duration::from_secs(5) })]
    #[case(Record::End { name: "a::b".into(), outcome: Outcome::Fail, took: Duration::from_millis(7), text: "l1\nl2\t\\n".into() })]
    #[case(Record::End { name: "a".into(), outcome: Outcome::Skip, took: Duration::ZERO, text: String::new() })]
    #[case(Record::Note("two\nlines".into()))]
    #[case(Record::Done)]
    fn a_record_survives_the_line(#[case] record: Record) {
        let line = record.to_string();
        assert!(!line.contains('\n'));
        assert_eq!(Record::parse(&line), Some(record));
    }

    #[rstest::rstest]
    #[case("")]
    #[case("plan\tmany")]
    #[case("end\tx\tmaybe\t1\t")]
    #[case("done\tmore")]
    #[case("[    1.0] some kernel text")]
    fn other_lines_are_no_records(#[case] line: &str) {
        assert_eq!(Record::parse(line), None);
    }
}
