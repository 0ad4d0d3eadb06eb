//! `defuse mount`, `umount` and `list`: mounts that stand for all sessions.
//!
//! With the kernel module they are mounts of the kernel. Without it they are lines of a table that `defuse run` reads.

use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use defuse::errno::describe;
use defuse::log::{self, Level};
use defuse::session::{
    Mount, MountSpec, OpenedSession, PluginSpec, SessionError, StandingTable, escape_option, kernel_mounts,
    resolve_mounts,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::arguments::{MountRequest, UmountRequest};
use super::failure::{FAILED, Failure};
use super::plugin::Tried;
use super::{join_standing, library, plugin, run, run_directory, write_back};

/// The type of the kernel's mounts.
const TYPE: &str = "defuse";

/// Mounts, and returns what is to be told of it: nothing when the kernel has it.
///
/// # Errors
///
/// Says what is wrong with the mount, or why neither the kernel nor the table takes it.
pub fn mount(request: &MountRequest) -> Result<String, Failure> {
    let run_directory = run_directory();
    let resolved =
        resolve_mounts(std::slice::from_ref(&request.mount), &run::plugin_search(), &run_directory)
            .map_err(|error| fail(&error))?;
    for mount in &resolved {
        if let Some(line) = standing_at(&mount.point)? {
            return Err(failure(format!("{} is mounted already: {line}", mount.point.display())));
        }
        plugin::try_mount(mount).map_err(|error| Failure::new(FAILED, error.to_string()))?;
    }
    let mut told = String::new();
    for mount in resolved {
        let why = match mount_in_kernel(&mount) {
            Ok(()) => continue,
            Err(Errno::NODEV) => "the kernel module is not loaded",
            Err(Errno::PERM) => "only root may mount with the kernel module",
            Err(errno) => {
                return Err(failure(format!("cannot mount {}: {}", mount.point.display(), describe(errno))));
            }
        };
        let table = own_table();
        let point = mount.point.clone();
        table.change(|mounts| mounts.push(spec_of(mount))).map_err(|error| fail(&error))?;
        let _ = writeln!(
            told,
            "defuse: {why}: {} is served to programs under 'defuse run' only (by {})",
            point.display(),
            table.path().display()
        );
    }
    Ok(told)
}

/// Undoes a mount of [`mount`], or of mount(8).
///
/// # Errors
///
/// When nothing is mounted there, or it is in use.
pub fn umount(request: &UmountRequest) -> Result<(), Failure> {
    let point = fs::canonicalize(&request.point).unwrap_or_else(|_| request.point.clone());
    let mounts = kernel_mounts().map_err(|error| fail(&error))?;
    if let Some(mount) = mounts.iter().find(|mount| mount.point == point) {
        let library = library::find();
        // What killed processes stored to mapped files is the mount's as long as that stands. Who lives writes back himself.
        if let (Some(folder), Ok(library)) = (join_standing::folder_of(mount), &library) {
            write_back::write_back(&folder, library);
        }
        let flags = if request.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        rustix::mount::unmount(&point, flags)
            .map_err(|errno| failure(format!("cannot unmount {}: {}", point.display(), describe(errno))))?;
        if let Ok(library) = library {
            run::sweep(&run_directory::of_standing_sessions(), &library);
        }
        return Ok(());
    }
    // A point that is gone has the name that it had.
    let named = |mount: &MountSpec| mount.point == point || mount.point == request.point;
    let table = own_table();
    if !table.read().map_err(|error| fail(&error))?.iter().any(named) {
        let hint = match standing_at(&point)? {
            Some(_) => ": it is root's to unmount",
            None => "",
        };
        return Err(failure(format!("nothing is mounted on {}{hint}", point.display())));
    }
    table.change(|mounts| mounts.retain(|mount| !named(mount))).map_err(|error| fail(&error))
}

/// What stands, a line each: by whom, and what as `-m` would have it.
///
/// # Errors
///
/// When it cannot be found out.
pub fn list() -> Result<String, Failure> {
    let mut text = String::new();
    for mount in kernel_mounts().map_err(|error| fail(&error))? {
        let _ = writeln!(text, "module\t{}", argument(&spec_of(mount)).display());
    }
    for mount in listed() {
        let _ = writeln!(text, "table\t{}", argument(&mount).display());
    }
    Ok(text)
}

/// Adds to the mounts of a session what stands for all. What does not work is told of and passed over: who asked for other mounts can do
/// without. `tried` gets what is known of the plugin of each.
pub fn add_to(mounts: &mut Vec<Mount>, tried: &mut Vec<Tried>, run_directory: &Path) {
    let mut standing = kernel_mounts().unwrap_or_else(|error| {
        warn_left_out(Path::new("what is mounted with the kernel module"), &error);
        Vec::new()
    });
    for spec in listed() {
        match resolve_mounts(std::slice::from_ref(&spec), &run::plugin_search(), run_directory) {
            Ok(resolved) => standing.extend(resolved),
            Err(error) => warn_left_out(&spec.point, &error),
        }
    }
    for mount in standing {
        if mounts.iter().any(|other| other.point == mount.point) {
            continue;
        }
        match plugin::try_mount(&mount) {
            Ok(known) => {
                tried.push(known);
                mounts.push(mount);
            }
            // The plugin's own process has said what is wrong.
            Err(failure) if failure.is_told() => warn_left_out(&mount.point, &"its plugin does not work"),
            Err(failure) => warn_left_out(&mount.point, &failure),
        }
    }
}

/// What stands by the tables. One that cannot be read is told of and passed over: anybody may have put it there, and the others count all the same.
fn listed() -> Vec<MountSpec> {
    let mut listed = Vec::new();
    for table in tables() {
        match table.read() {
            Ok(mounts) => listed.extend(mounts),
            Err(error) => warn_left_out(table.path(), &error),
        }
    }
    listed
}

fn warn_left_out(what: &Path, why: &dyn std::fmt::Display) {
    log::line(Level::Warn, format_args!("{} is left out: {why}", what.display()));
}

/// Whether the standing session whose folder is at `path` has a mount that stands, so that processes may look for it.
///
/// # Errors
///
/// When the session or the kernel's mounts cannot be read.
pub fn is_wanted(path: &Path) -> Result<bool, SessionError> {
    let known = OpenedSession::open(path)?.config.mounts;
    Ok(kernel_mounts()?.iter().any(|mount| known.contains(mount)))
}

fn mount_in_kernel(mount: &Mount) -> Result<(), Errno> {
    let mut options = OsString::from("library=");
    options.push(escape_option(mount.library.as_os_str()));
    options.push(",backend=");
    options.push(escape_option(&mount.backend));
    options.push(",options=");
    options.push(escape_option(&mount.options));
    mount_as(&mount.point, MountFlags::empty(), options)
}

/// mount(2) of type `defuse` with the module's own options.
pub fn mount_as(point: &Path, flags: MountFlags, options: OsString) -> Result<(), Errno> {
    let options = CString::new(options.into_vec()).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(TYPE, point, TYPE, flags, Some(options.as_c_str()))
}

/// What stands at `point`, if anything does.
fn standing_at(point: &Path) -> Result<Option<String>, Failure> {
    let in_kernel = kernel_mounts().map_err(|error| fail(&error))?.into_iter().map(spec_of);
    let found = in_kernel.chain(listed()).find(|mount| mount.point == point);
    Ok(found.map(|mount| argument(&mount).display().to_string()))
}

fn spec_of(mount: Mount) -> MountSpec {
    let plugin = PluginSpec { library: mount.library.into(), options: mount.options, backend: mount.backend };
    MountSpec { point: mount.point, plugin }
}

/// The argument of `-m` that `mount` would be read from.
fn argument(mount: &MountSpec) -> OsString {
    let mut text = Vec::new();
    let mut put = |word: &OsStr, special: &[u8]| {
        for &byte in word.as_bytes() {
            if special.contains(&byte) {
                text.push(b'\\');
            }
            text.push(byte);
        }
    };
    put(mount.point.as_os_str(), b"=\\");
    put("=".as_ref(), b"");
    put(&mount.plugin.library, b",:\\");
    if !mount.plugin.options.is_empty() {
        put(",".as_ref(), b"");
        put(&mount.plugin.options, b":");
    }
    put(":".as_ref(), b"");
    put(&mount.plugin.backend, b"");
    OsString::from_vec(text)
}

fn run_directory() -> PathBuf {
    run_directory::of_runs().path
}

fn own_table() -> StandingTable {
    StandingTable::own(run_directory::wanted().as_deref(), run_directory::runtime().as_deref())
}

fn tables() -> Vec<StandingTable> {
    StandingTable::all(run_directory::wanted().as_deref(), run_directory::runtime().as_deref())
}

fn fail(error: &SessionError) -> Failure {
    failure(error.to_string())
}

fn failure(message: String) -> Failure {
    Failure::new(FAILED, message)
}

#[cfg(test)]
mod tests {
    use super::{MountSpec, PluginSpec, argument};
    use proptest::prelude::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    fn word() -> impl Strategy<Value = OsString> {
        proptest::collection::vec(1_u8.., 1..12).prop_map(OsString::from_vec)
    }

    proptest! {
        /// But for options that end in a backslash, which `-m` has no way to write.
        #[test]
        fn what_is_listed_can_be_given_to_m(point in word(), library in word(), options in "[a-z=:,]{0,9}", backend in word()) {
            let plugin = PluginSpec { library, options: options.into(), backend };
            let mount = MountSpec { point: point.into(), plugin };
            prop_assert_eq!(MountSpec::parse(&argument(&mount)), Ok(mount));
        }
    }
}
