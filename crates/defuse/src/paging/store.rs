//! Where caches are: three files for each in the session's shared folder, `pages/` and the file's identity.
//!
//! | ending | what |
//! |---|---|
//! | none | the pages |
//! | `.ledger` | what is dirty |
//! | `.path` | where the file is below its mount point, for who writes back what killed processes left; gone when the file has no name any more |

use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;
use uffd_pager::{Cache, DEFAULT_CAPACITY, View};

use super::{Key, source};
use crate::file::OpenFile;
use crate::process::Process;
use crate::{native, private_fd, trace};

const PAGES: &str = "";
const LEDGER: &str = ".ledger";
const PATH: &str = ".path";

/// Opens the cache of a file, if there is one.
pub fn open(process: &Process, key: Key) -> Result<Option<Cache>, Errno> {
    let pages = match open_file(&name(process, key, PAGES), 0) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    Ok(Some(Cache::from_fds(pages, open_file(&name(process, key, LEDGER), 0)?)))
}

/// Makes the cache of a file of `length` bytes that lies at `path` below its mount point, if it has a name. By who holds the inode's lock, and found none.
pub fn create(process: &Process, key: Key, path: Option<&[u8]>, length: u64) -> Result<Cache, Errno> {
    let made = sys::O_CREAT | sys::O_EXCL;
    // A process may have been killed as it made or removed one.
    unlink_all(process, key);
    let result = (|| {
        if let Some(path) = path {
            record(process, key, path)?;
        }
        let ledger = open_file(&name(process, key, LEDGER), made)?;
        // The pages last: they say that there is a cache.
        let new = name(process, key, "~");
        let pages = open_file(&new, made)?;
        let cache =
            Cache::create_in(pages, ledger, length, DEFAULT_CAPACITY).map_err(|error| error.errno())?;
        let ready = name(process, key, PAGES);
        native::checked(sys::__NR_rename, [address(&new), address(&ready), 0, 0, 0, 0])?;
        Ok(cache)
    })();
    match &result {
        Ok(_) => changed(process),
        Err(_) => unlink_all(process, key),
    }
    result
}

/// Notes where the file is, of which nothing was known.
pub fn record(process: &Process, key: Key, path: &[u8]) -> Result<(), Errno> {
    let record = open_file(&name(process, key, PATH), sys::O_CREAT | sys::O_EXCL)?;
    if rustix::io::write(&record, path)? == path.len() { Ok(()) } else { Err(Errno::IO) }
}

/// Writes back what killed processes left in a cache that nobody uses, by `file` or however the file can be opened, and removes it. Returns whether
/// it is gone; it stays when it cannot be written back. By who holds the inode's lock.
pub fn clean_up(process: &'static Process, file: Option<&OpenFile>, key: Key, view: &View) -> bool {
    if view.is_dirty()
        && let Err(error) = write_back(process, file, key, view)
    {
        trace::debug(format_args!("mapped pages cannot be written back now: {error}"));
        return false;
    }
    if view.is_used() {
        return false;
    }
    remove(process, key);
    true
}

fn write_back(process: &Process, file: Option<&OpenFile>, key: Key, view: &View) -> Result<(), Errno> {
    if !has_a_name(process, key) {
        // A file that has one is another one with the same number.
        let same = match file {
            Some(file) => file.with_handle(Instance::fgetattr)?.st_nlink == 0,
            None => false,
        };
        if !same {
            return Ok(());
        }
    }
    let file = file.ok_or(Errno::BADF)?;
    source::with_writer(file, |write| view.write_back(write).map_err(|error| error.errno()))
}

/// Names on a mount have changed: who writes back later finds the file by the path that `follow` gives.
pub fn renamed(process: &Process, mount: u32, follow: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let prefix = format!("{mount:x}-");
    let _ = each_record(&process.shared_folder, |name, path| {
        if name.starts_with(prefix.as_bytes())
            && let Some(now) = follow(path)
        {
            let mut file = [process.shared_folder.as_slice(), b"/pages/", name, b"\0"].concat();
            let new = [&file[..file.len() - 1], b"~\0"].concat();
            file.shrink_to_fit();
            if let Ok(record) = open_file(&new, sys::O_CREAT | sys::O_TRUNC)
                && rustix::io::write(&record, &now) == Ok(now.len())
            {
                native::raw_call(sys::__NR_rename, [address(&new), address(&file), 0, 0, 0, 0]);
            }
        }
    });
}

/// Calls `each` with the name of each record in a session's shared folder, and the path below its mount that it holds. For the folder's owner: others
/// may not list it.
pub fn each_record(folder: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; stash::PATH_MAX_LEN];
    for name in list(folder)?.into_iter().filter(|name| name.ends_with(PATH.as_bytes())) {
        let path = [folder, b"/pages/", &name, b"\0"].concat();
        let Ok(record) = open_file(&path, 0) else { continue };
        let Ok(length) = rustix::io::read(&record, &mut buffer) else { continue };
        each(&name, &buffer[..length]);
    }
    Ok(())
}

/// Calls `each` with each cache in a session's shared folder until it says that it has had enough. As [`each_record`], for the folder's owner.
pub fn each_cache(folder: &[u8], mut each: impl FnMut(Cache) -> bool) -> Result<(), Errno> {
    for ledger in list(folder)?.into_iter().filter(|name| name.ends_with(LEDGER.as_bytes())) {
        let pages = &ledger[..ledger.len() - LEDGER.len()];
        let open = |name: &[u8]| open_file(&[folder, b"/pages/", name, b"\0"].concat(), 0);
        // One that is being made or removed has not both.
        if let (Ok(pages), Ok(ledger)) = (open(pages), open(&ledger))
            && each(Cache::from_fds(pages, ledger))
        {
            break;
        }
    }
    Ok(())
}

/// The names in a session's folder of caches. Also on the small stack of a fault's handler: no call goes through libc, where it would be looked at.
fn list(folder: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let pages = [folder, b"/pages\0"].concat();
    let flags = sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC | sys::O_NOFOLLOW;
    let fd = native::new_fd(sys::__NR_open, [address(&pages), flags.into(), 0, 0, 0, 0])?;
    // SAFETY: just opened, and closed below.
    let directory = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    let listed = loop {
        match entries.next() {
            None => break Ok(()),
            Some(Ok(entry)) => names.push(entry.file_name().to_bytes().to_vec()),
            Some(Err(error)) => break Err(error),
        }
    };
    native::close(fd);
    listed.map(|()| names)
}

/// Removes the cache. By who holds the inode's lock.
pub fn remove(process: &Process, key: Key) {
    unlink_all(process, key);
    changed(process);
}

/// The file has lost its last name: what is left in its cache when nobody has it any more is nobody's.
pub fn forget_name(process: &Process, key: Key) {
    unlink(&name(process, key, PATH));
}

/// Whether the file had a name when that was last known.
pub fn has_a_name(process: &Process, key: Key) -> bool {
    native::checked(sys::__NR_access, [address(&name(process, key, PATH)), 0, 0, 0, 0, 0]).is_ok()
}

fn changed(process: &Process) {
    process.arena.host_word().fetch_add(1, Ordering::SeqCst);
}

fn unlink_all(process: &Process, key: Key) {
    for ending in [PAGES, "~", LEDGER, PATH] {
        unlink(&name(process, key, ending));
    }
}

fn unlink(name: &[u8]) {
    native::raw_call(sys::__NR_unlink, [address(name), 0, 0, 0, 0, 0]);
}

/// Opens a file of a cache at a private number.
fn open_file(name: &[u8], flags: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | sys::O_RDWR | sys::O_CLOEXEC | sys::O_NOFOLLOW;
    let fd = native::new_fd(sys::__NR_open, [address(name), flags.into(), 0o600, 0, 0, 0])?;
    if flags & sys::O_CREAT != 0 {
        // Processes that have dropped their privileges use it, too. Not by the mode above, which the umask changes.
        native::raw_call(sys::__NR_fchmod, [fd as u64, 0o666, 0, 0, 0, 0]);
    }
    match private_fd::take(fd) {
        // SAFETY: just opened, and known to nobody else.
        Ok(private) => Ok(unsafe { OwnedFd::from_raw_fd(private) }),
        Err(error) => {
            native::close(fd);
            Err(error)
        }
    }
}

fn address(name: &[u8]) -> u64 {
    name.as_ptr() as u64
}

/// `<shared folder>/pages/<mount>-<device>-<inode><ending>` with its NUL.
fn name(process: &Process, key: Key, ending: &str) -> Vec<u8> {
    let mut text = String::new();
    let _ = write!(text, "/pages/{:x}-{:x}-{:x}{ending}\0", key.mount, key.device, key.inode);
    [process.shared_folder.as_slice(), text.as_bytes()].concat()
}
