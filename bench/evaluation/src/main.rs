//! The paper's single-machine evaluation, beside the paper's figures and the peers of today: `cargo evaluate`.
//!
//! Everything is measured in [`measure`], in a process that takes all it made with it ([`enclosure`]); results are lines of JSON
//! ([`record`]), and the report ([`report`]), the targets ([`targets`]) and comparisons ([`compare`]) are made of them alone.

#![allow(clippy::cast_precision_loss)] // Times and counts are far below 2^52.

mod compare;
mod enclosure;
mod interface;
mod machine;
mod measure;
mod mounted;
mod numbers;
mod options;
mod others;
mod paper;
mod peers;
mod plan;
mod programs;
mod progress;
mod record;
mod report;
mod rounds;
mod stash;
mod store;
mod targets;

use std::fs;
use std::io;
use std::process::ExitCode;

use numbers::Results;
use options::Options;
use record::Line;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(Ok(help)) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
        Err(Err(error)) => return fail(&error),
    };
    match evaluate(&options) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("defuse-evaluation: {error}");
    ExitCode::FAILURE
}

fn evaluate(options: &Options) -> io::Result<ExitCode> {
    // Before a long run, not after it.
    let old = options.compare.as_deref().map(record::read).transpose()?;
    let lines = match &options.from {
        Some(path) => record::read(path)?,
        None => match enclosure::enter(&options.scratch)? {
            // This is the process that waited.
            Err(code) => return Ok(code),
            Ok(enclosure) => measure::all(options, &enclosure)?,
        },
    };
    finish(options, &lines, old.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn finish(options: &Options, lines: &[Line], old: Option<&[Line]>) -> io::Result<()> {
    if let Some(folder) = options.output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    report::write(lines, &options.output)?;
    let verdicts = targets::judge(Results(lines));
    let of = |met| verdicts.iter().filter(|verdict| verdict.met == met).count();
    println!(
        "{}: {} figures meet their targets, {} miss them, {} were not measured",
        options.output.display(),
        of(Some(true)),
        of(Some(false)),
        of(None)
    );
    if let Some(old) = old {
        print!("{}", compare::describe(compare::moves(Results(old), Results(lines))));
    }
    Ok(())
}
