//! `defuse plugin`: what plugins there are, and whether they keep the rules.

use std::ffi::{CStr, CString, OsStr};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use defuse::log::{self, Level};
use defuse::session::{Mount, PluginSpec, absolute_backend, find_plugin};
use nix::sys::signal::Signal;
use plugin_abi::conformance::{self, Config, Failed};
use plugin_abi::{Capabilities, Form, Host, Instance, MountPath, Open, Plugin, Purpose};

use super::child::{self, End};
use super::failure::{FAILED, Failure, RUN_FAILED, USAGE};
use super::run::plugin_search;

/// Where a plugin that is tried believes to be mounted; nothing is there.
const POINT: &CStr = c"/defuse-check";

/// A table of the plugins that are found by name. Files that are no plugins are left out; those that should be one are listed with what is wrong.
pub fn list() -> String {
    let mut rows = Vec::new();
    for directory in plugin_search().directories {
        let mut files: Vec<_> = fs::read_dir(&directory)
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        for path in files {
            let Some(name) = plugin_name(&path) else { continue };
            // The first directory that has a name wins.
            if rows.iter().any(|(known, _, _)| *known == name) {
                continue;
            }
            if let Some(interface) = interface(&path) {
                rows.push((name, interface, path.display().to_string()));
            }
        }
    }
    let width =
        |column: fn(&(String, String, String)) -> &str| rows.iter().map(|row| column(row).len()).max();
    let names = width(|row| &row.0).unwrap_or(0);
    let interfaces = width(|row| &row.1).unwrap_or(0);
    let mut table = String::new();
    for (name, interface, path) in &rows {
        let _ = writeln!(table, "{name:names$}  {interface:interfaces$}  {path}");
    }
    table
}

/// `NAME` of a `libNAME.so`; the interposer itself is none.
fn plugin_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_prefix("lib")?.strip_suffix(".so")?;
    (!name.is_empty() && name != "defuse" && !is_compiler_plugin(name)).then(|| name.into())
}

/// Whether cargo gave the file its name: `-` and 16 hexadecimal digits end those of procedural macros, which lie in `deps`, too.
fn is_compiler_plugin(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(_, hash)| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What kind of plugin the file is; `None` if it is none.
fn interface(path: &Path) -> Option<String> {
    // Loading runs the file's code, so what is not to be trusted is not looked at any closer.
    if let Err(error) = plugin_abi::trust::check(path) {
        return Some(format!("refused: {error}"));
    }
    let failed = |why: &dyn std::fmt::Display| Some(format!("refused: {why}"));
    let (mut told, mut tell) = match pipe() {
        Ok(ends) => ends,
        Err(error) => return failed(&error),
    };
    // That code may be anything's.
    let ended = apart(path, "loaded", FAILED, || {
        let Ok(plugin) = Plugin::load(path) else { return Ok(0) };
        let (major, minor) = plugin.abi_version();
        // What cannot be written is missing in the table. It fits into the pipe, which nobody reads yet.
        let _ = match plugin.form() {
            Form::Table => write!(tell, "table {major}.{minor}"),
            Form::Listing1 => write!(tell, "listing 1"),
            Form::Listing1Prefixed => write!(tell, "listing 1 (usfs_)"),
        };
        Ok(0)
    });
    drop(tell);
    let mut text = String::new();
    match ended.map(|_| told.read_to_string(&mut text)) {
        Ok(_) => (!text.is_empty()).then_some(text),
        Err(failure) => failed(&failure),
    }
}

/// What `plugin check` is given.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckRequest {
    /// The plugin and what it is to serve.
    pub plugin: PluginSpec,
    /// Which sequences of operations are tried, if it is said.
    pub seed: Option<u64>,
    /// How many sequences, if it is said.
    pub sequences: Option<u32>,
}

/// Drives a plugin with generated sequences of operations and prints what was found. Returns the exit status.
///
/// # Errors
///
/// Why the plugin cannot be found, loaded, started or tried, or how it crashed.
pub fn check(request: &CheckRequest, print: Print) -> Result<i32, Failure> {
    let path = find_plugin(&request.plugin.library, &plugin_search())
        .map_err(|error| Failure::new(FAILED, error.to_string()))?;
    apart(&path, "checked", FAILED, || {
        check_here(request, &path).and_then(|(text, status)| print(&text).map(|_| status))
    })
}

/// Writes what was found.
pub type Print = fn(&str) -> Result<i32, Failure>;

/// Starts the plugin of `mount` and ends it again, so that a back end it cannot serve is known before there is a program.
///
/// # Errors
///
/// Why it cannot be loaded or started, or how it crashed.
pub fn try_mount(mount: &Mount) -> Result<Tried, Failure> {
    let failed = |message: String| Failure::new(RUN_FAILED, message);
    let status = apart(&mount.library, "started", RUN_FAILED, || {
        let plugin = Plugin::load(&mount.library).map_err(|error| failed(error.to_string()))?;
        let (name, path) = (plugin.name(), mount.library.display());
        log::line(Level::Info, format_args!("plugin {name} is {path}"));
        let point = c_string(mount.point.as_os_str(), RUN_FAILED)?;
        let (backend, options) =
            (c_string(&mount.backend, RUN_FAILED)?, c_string(&mount.options, RUN_FAILED)?);
        match plugin.instantiate(&point, &backend, &options, Host::STDERR) {
            Ok(instance) => {
                let one_state = plugin.form() != Form::Table;
                Ok(Tried { paged: may_be_paged(&instance), one_state }.to_status())
            }
            Err(error) => Err(failed(format!("cannot mount {}: {error}", mount.point.display()))),
        }
    })?;
    Tried::ALL.into_iter().find(|tried| tried.to_status() == status).ok_or_else(|| Failure::told(status))
}

/// What a session is to know of a plugin that works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// At least some of its files are mapped by the pager. Else the kernel maps what the plugin lends, or nobody but one process sees them.
    pub paged: bool,
    /// It has one state for all of a process.
    pub one_state: bool,
}

impl Tried {
    const ALL: [Self; 4] = [
        Self { paged: false, one_state: false },
        Self { paged: true, one_state: false },
        Self { paged: false, one_state: true },
        Self { paged: true, one_state: true },
    ];

    /// Exit status of the process that tries a mount: no other of ours is that small.
    fn to_status(self) -> i32 {
        i32::from(self.paged) * 4 + i32::from(self.one_state) * 8
    }
}

/// Whether the plugin keeps from lending what it has opened. Asked about its root: who lends, lends all.
fn may_be_paged(instance: &Instance) -> bool {
    if instance.capabilities().contains(Capabilities::PROCESS_LOCAL) {
        return false;
    }
    let Some(root) = MountPath::new(c"/") else { return true };
    let Ok(Open::Served { handle, .. }) = instance.open(root, libc::O_RDONLY | libc::O_DIRECTORY, 0) else {
        return true;
    };
    let lent = instance.backing_fd(&handle, Purpose::Map).is_ok();
    // The process ends after this, whatever comes of it.
    let _ = instance.close(handle);
    !lent
}

/// Does `work`, which runs code of the plugin at `path`, in a process of its own, which reports its failures itself. Returns its exit
/// status.
fn apart(
    path: &Path,
    what: &str,
    failure: i32,
    work: impl FnOnce() -> Result<i32, Failure>,
) -> Result<i32, Failure> {
    let failed = |message: String| Failure::new(failure, message);
    let ended = child::run_apart(work)
        .map_err(|errno| failed(format!("cannot start a process for the plugin: {}", errno.desc())))?;
    match ended {
        End::Exited(status) => Ok(status),
        End::Killed(signal) => Err(failed(format!(
            "the plugin {} crashed while it was {what}: killed by signal {signal} ({})",
            path.display(),
            Signal::try_from(signal).map_or("of the real-time signals", Signal::as_str),
        ))),
    }
}

fn c_string(text: &OsStr, failure: i32) -> Result<CString, Failure> {
    CString::new(text.as_bytes()).map_err(|error| Failure::new(failure, error.to_string()))
}

/// What there is to print, and the exit status.
fn check_here(request: &CheckRequest, path: &Path) -> Result<(String, i32), Failure> {
    let failed = |message: String| Failure::new(FAILED, message);
    let spec = &request.plugin;
    let plugin = Plugin::load(path).map_err(|error| failed(error.to_string()))?;
    let backend = c_string(&absolute_backend(&spec.backend), USAGE)?;
    let options = c_string(&spec.options, USAGE)?;
    let instance = plugin
        .instantiate(POINT, &backend, &options, Host::STDERR)
        .map_err(|error| failed(format!("plugin {} does not start: {error}", plugin.name())))?;
    let default = Config::default();
    let config = Config {
        seed: request.seed.unwrap_or(default.seed),
        sequences: request.sequences.unwrap_or(default.sequences),
        ..default
    };
    match conformance::check(&instance, &config) {
        Ok(passed) => Ok((format!("{passed}\n"), 0)),
        Err(Failed::Differs(example)) => Ok((format!("{example}\n"), FAILED)),
        Err(error @ Failed::CannotStart { .. }) => Err(failed(error.to_string())),
    }
}
