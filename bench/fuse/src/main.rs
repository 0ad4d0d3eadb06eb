//! Serves a plugin through FUSE: the same file system as on a mount of DEFUSE, behind the interface that it competes with.
//!
//! ```text
//! defuse-bench-fuse [--cache kept|written-back|none|passthrough] [--threads N] LIBRARY BACKEND POINT
//! ```
//!
//! Mounts at POINT, says `mounted` on standard output, and serves until the mount is taken away or standard input ends.
//! Needs the right to mount. `--cache` says what the kernel keeps: `kept` its page cache, `written-back` that and stores
//! not yet written, `none` nothing (FOPEN_DIRECT_IO), `passthrough` hands it the plugin's own descriptors.

mod attributes;
mod nodes;
mod passthrough;
mod requests;
mod served;

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use fuser::{Config, MountOption, Session};
use plugin_abi::{Host, Plugin};

use served::{Cache, Served};

struct Arguments {
    cache: Cache,
    threads: usize,
    library: PathBuf,
    backend: CString,
    point: PathBuf,
}

fn main() -> ExitCode {
    match arguments().map_err(|error| io::Error::other(error.to_string())).and_then(|found| serve(&found)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("defuse-bench-fuse: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::{Long, Value, ValueExt};
    let (mut cache, mut threads, mut words) = (Cache::Kept, 2, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("cache") => cache = parser.value()?.parse()?,
            Long("threads") => threads = parser.value()?.parse()?,
            Value(word) => words.push(word),
            _ => return Err(argument.unexpected()),
        }
    }
    let [library, backend, point] =
        words.try_into().map_err(|_| "usage: defuse-bench-fuse [OPTION...] LIBRARY BACKEND POINT")?;
    let backend = CString::new(backend.into_vec()).map_err(|error| lexopt::Error::Custom(error.into()))?;
    Ok(Arguments { cache, threads, library: library.into(), backend, point: point.into() })
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let plugin = Plugin::load(&arguments.library).map_err(|error| io::Error::other(error.to_string()))?;
    let fs = plugin
        .instantiate(c"/", &arguments.backend, c"", Host::STDERR)
        .map_err(|error| io::Error::other(error.to_string()))?;
    // The kernel has taken the program's mask off already.
    // SAFETY: no preconditions.
    unsafe { libc::umask(0) };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("defuse-bench".into()), MountOption::DefaultPermissions];
    config.n_threads = Some(arguments.threads);
    config.clone_fd = arguments.threads > 1;
    let session = Session::new(Served::new(fs, arguments.cache), &arguments.point, &config)?;
    println!("mounted");
    io::stdout().flush()?;
    let serving = session.spawn()?;
    // Until whoever started this wants it no more.
    io::copy(&mut io::stdin().take(u64::MAX), &mut io::sink())?;
    drop(serving);
    Ok(())
}
