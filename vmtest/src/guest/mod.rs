//! What runs inside the virtual machine: the same executable as on the host, as root.

pub mod abi;
pub mod host_files;
mod jobs;
mod kmsg;
mod module;
mod mount;
mod port;
mod process;
mod runner;
mod shadow;
mod tests;
mod uffd;
mod watch;

use std::path::Path;
use std::process::ExitCode;

pub use runner::SEED_VARIABLE;
pub use tests::{all, matches, some};

/// Run a guest command: `run MODULE [--faults] [--external FILE].. [FILTER]..`, `one NAME`, `hello`, `probe FD`,
/// `prepare MODULE POINT`, or `from FILE`, which has the words of another one, a line each.
pub fn main(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["from", file] => match std::fs::read_to_string(file) {
            Ok(words) => main(&words.lines().map(str::to_owned).collect::<Vec<_>>()),
            Err(error) => {
                eprintln!("vmtest guest: read {file}: {error}");
                ExitCode::FAILURE
            }
        },
        ["run", module, rest @ ..] => runner::run(Path::new(module), rest),
        ["one", name] => runner::one(name),
        ["hello"] => hello(),
        ["probe", fd] => tests::probe(fd),
        ["prepare", module, point] => prepare(Path::new(module), Path::new(point)),
        _ => {
            eprintln!("vmtest guest: unknown command {arguments:?}");
            ExitCode::FAILURE
        }
    }
}

/// Say that the machine is up.
fn hello() -> ExitCode {
    match port::Port::open() {
        Ok(mut port) => {
            port.send(&crate::report::Record::Done);
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Load the module and mount an example, for a person at the prompt.
fn prepare(module: &Path, point: &Path) -> ExitCode {
    let done = module::load(module)
        .and_then(|()| std::fs::create_dir_all(point))
        .and_then(|()| mount::mount2(point, 0, "backend=/tmp,library=/usr/lib/usfs.so"));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmtest guest: prepare {}: {error}", point.display());
            ExitCode::FAILURE
        }
    }
}
