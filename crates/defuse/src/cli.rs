//! The command line: what is asked for, and who does it.

mod arena;
mod arguments;
mod child;
mod doctor;
mod environment;
mod failure;
mod help;
mod library;
mod nofile;
mod plugin;
mod reaper;
mod run;
mod write_back;

use std::ffi::OsString;
use std::io::Write;

use arguments::Request;
use failure::Failure;

/// Does what `arguments` (without the program's name) ask for, and returns the exit status.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    match arguments::parse(arguments).and_then(perform) {
        Ok(status) => status,
        Err(failure) => report(&failure),
    }
}

/// Says why the command gives up, and returns the exit status.
fn report(failure: &Failure) -> i32 {
    if !failure.is_told() {
        // When standard error cannot be written there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "defuse: {failure}");
    }
    failure.status
}

fn perform(request: Request) -> Result<i32, Failure> {
    match request {
        Request::Help(text) => print(text),
        Request::Version => print(concat!("defuse ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Run(request) => run::run(&request),
        Request::ExecInside(command) => Ok(run::exec_inside(&command)),
        Request::WriteBackInside(paths) => Ok(write_back::inside(&paths)),
        Request::PluginList => print(&plugin::list()),
        Request::PluginCheck(request) => plugin::check(&request, print),
        Request::Doctor => {
            let report = doctor::examine();
            print(&report.to_string())?;
            Ok(i32::from(!report.can_run()))
        }
    }
}

/// Writes to standard output; the exit status is 0.
fn print(text: &str) -> Result<i32, Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map(|()| 0)
        .map_err(|error| Failure::new(failure::FAILED, format!("cannot write to standard output: {error}")))
}
