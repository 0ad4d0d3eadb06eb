//! Mapped files whose pages nobody has written back: those that killed processes stored to last.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use uffd_pager::{Cache, View};

use super::error::SessionError;
use super::{OpenedSession, names};

/// What stands for a file in `pages/`: its pages, a ledger, and where it is below its mount point. See `crate::paging::store`.
const RECORD: &str = ".path";
const LEDGER: &str = ".ledger";

/// The paths of the files in the session at `folder` that were stored to by mappings and not written back since. Only their owner, when no process of
/// the session lives, can say so.
///
/// # Errors
///
/// When the session's configuration cannot be read.
pub fn unwritten(folder: &Path) -> Result<Vec<PathBuf>, SessionError> {
    let Some(pages) = pages_of(folder) else { return Ok(Vec::new()) };
    let Ok(entries) = fs::read_dir(pages) else { return Ok(Vec::new()) };
    let records: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.as_os_str().as_bytes().ends_with(RECORD.as_bytes()))
        .filter(|record| is_dirty(&record.with_extension("")))
        .collect();
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let mounts = OpenedSession::open(folder)?.config.mounts;
    Ok(records.iter().filter_map(|record| path_of(record, &mounts)).collect())
}

/// The directory of the caches: in the shared folder, the only one that has such a directory.
fn pages_of(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries.filter_map(|entry| Some(entry.ok()?.path().join(names::PAGES))).find(|pages| pages.is_dir())
}

/// Whether the cache with these pages has any that are dirty; when that cannot be told, it has.
fn is_dirty(pages: &Path) -> bool {
    let open = |path: &Path| fs::OpenOptions::new().read(true).write(true).open(path);
    let mut ledger = pages.as_os_str().to_os_string();
    ledger.push(LEDGER);
    let (Ok(pages), Ok(ledger)) = (open(pages), open(Path::new(&ledger))) else { return false };
    View::open(Cache::from_fds(pages.into(), ledger.into())).map_or(true, |view| view.is_dirty())
}

/// The absolute path in a record, whose name begins with the number of its mount.
fn path_of(record: &Path, mounts: &[super::Mount]) -> Option<PathBuf> {
    let name = record.file_name()?.to_str()?;
    let mount = mounts.get(usize::from_str_radix(name.split('-').next()?, 16).ok()?)?;
    let below = fs::read(record).ok()?;
    let mut path = mount.point.clone().into_os_string().into_vec();
    path.extend_from_slice(&below);
    Some(std::ffi::OsString::from_vec(path).into())
}
