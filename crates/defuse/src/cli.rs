//! The command line: what is asked for, and who does it.

mod arena;
mod arguments;
mod child;
mod doctor;
mod environment;
mod failure;
mod help;
mod join_standing;
mod library;
mod mount_helper;
mod nofile;
mod outer;
mod plugin;
mod reaper;
mod run;
mod run_directory;
mod standing;
mod write_back;

use std::ffi::OsString;
use std::io::Write;

use arguments::{Request, UmountRequest};
use failure::Failure;

/// Does what `arguments` (the program's name first) ask for, and returns the exit status.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let name = arguments.next().unwrap_or_default();
    let done = if mount_helper::is_called(mount_helper::NAME, &name) {
        mount_helper::parse(arguments).and_then(|request| mount_helper::mount(&request))
    } else if mount_helper::is_called(mount_helper::UMOUNT, &name) {
        mount_helper::parse_umount(arguments).and_then(|request| umount(&request))
    } else {
        arguments::parse(arguments).and_then(perform)
    };
    match done {
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
        Request::Mount(request) => standing::mount(&request).map(|told| {
            // The mount stands; what cannot be told changes nothing.
            let _ = std::io::stderr().write_all(told.as_bytes());
            0
        }),
        Request::Umount(request) => umount(&request),
        Request::JoinStanding => join_standing::join().map(|()| 0),
        Request::List => print(&standing::list()?),
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

/// From outside of any session: it starts processes that are to be in another.
fn umount(request: &UmountRequest) -> Result<i32, Failure> {
    let _ = outer::leave()?;
    standing::umount(request).map(|()| 0)
}

/// Writes to standard output; the exit status is 0.
fn print(text: &str) -> Result<i32, Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map(|()| 0)
        .map_err(|error| Failure::new(failure::FAILED, format!("cannot write to standard output: {error}")))
}
