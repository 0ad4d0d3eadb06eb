//! Lists of system call sites, kept in the session's folder, so that a library is scanned once in a session and not in each
//! process: a file for each text, `sites/` and its key in hexadecimal digits. Where there is one whose name ends in `-text`, it is the
//! object with its sites rewritten, to be mapped over the loaded one.

use std::io::{IoSlice, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use interpose::{Config, Interest, PlanStore};
use rustix::fs::{Mode, OFlags, fchmod, fstat, open, rename, unlink};
use rustix::io::{self, Errno};

use crate::session::{check_trusted_file, names};
use crate::{serve, table};

/// The longest list that is read, in bytes: some ten times that of libc.
const LONGEST: u64 = 1 << 18;
/// The longest key, in bytes: file names are twice as long.
const LONGEST_KEY: usize = 120;

/// How the names of rewritten objects end.
const TEXT: &str = "-text";

/// What every process of a session has the interposer look at, but for the memory that is its own. `pages`: files may be mapped by
/// the pager.
pub fn interests(pages: bool) -> Config {
    let mut config = Config::new();
    for (nr, call) in table::calls() {
        let never_asked = !pages && call.interest == Interest::WhileAlert;
        config.set_interest(nr, if never_asked { Interest::Never } else { call.interest });
        // Memory that is named by a call may be a mapped file.
        if pages && !call.memory().is_empty() {
            config.set_alert(nr);
        }
    }
    for &nr in serve::INNER {
        config.set_inner(nr);
    }
    config
}

/// The lists of one session.
#[derive(Debug)]
pub struct SessionLists {
    /// The directory that holds them.
    directory: PathBuf,
    pages: bool,
}

impl SessionLists {
    /// Those of the session whose folder is `session`: an absolute path that the caller trusts.
    pub fn new(session: &Path, pages: bool) -> Self {
        Self { directory: session.join(names::SITES), pages }
    }

    /// Makes the lists of the libraries that this process has loaded, libc and ld.so among them. To be called by the runner,
    /// which no interposer is installed in, while it has one thread.
    ///
    /// # Errors
    ///
    /// `/proc/self/maps` cannot be read. That a list cannot be written is no error: processes will scan.
    #[allow(unsafe_code)]
    pub fn make(&self) -> Result<usize, Errno> {
        // SAFETY: the caller has one thread, so nobody loads or unloads objects meanwhile.
        unsafe { interpose::store_plans(&interests(self.pages), self) }
    }

    fn path(&self, key: &[u8], ending: &str) -> Option<PathBuf> {
        if key.len() > LONGEST_KEY {
            return None;
        }
        let mut path = Vec::with_capacity(self.directory.as_os_str().len() + 2 * key.len() + 32);
        path.extend(self.directory.as_os_str().as_bytes());
        path.push(b'/');
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
        path.extend(key.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        path.extend(ending.as_bytes());
        Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
    }

    /// Makes a file. Without the right to do so, nothing is kept.
    fn keep(&self, key: &[u8], ending: &str, content: [&[u8]; 2]) {
        let mut unfinished = Vec::new();
        let _ = write!(unfinished, "{ending}-{}", std::process::id());
        let names = (self.path(key, ending), self.path(key, std::str::from_utf8(&unfinished).unwrap_or("-")));
        let (Some(path), Some(new)) = names else { return };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = open(&new, flags, Mode::RUSR | Mode::WUSR) else { return };
        if fill(&file, content).and_then(|()| rename(&new, &path)).is_err() {
            let _ = unlink(&new);
        }
    }
}

/// A file of the session's folder that may be believed, and its size.
fn trusted(path: &Path) -> Option<(OwnedFd, u64)> {
    // O_NONBLOCK: something else than a file in its place must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    check_trusted_file(path, &stat).ok()?;
    Some((file, u64::try_from(stat.st_size).ok()?))
}

impl PlanStore for SessionLists {
    fn load(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (file, size) = trusted(&self.path(key, "")?).filter(|&(_, size)| size <= LONGEST)?;
        let mut list = vec![0; size as usize];
        // What a signal or a damaged file cuts short is no list.
        let read = io::read(&file, &mut list[..]).ok()?;
        list.truncate(read);
        Some(list)
    }

    fn store(&self, key: &[u8], list: &[u8]) {
        self.keep(key, "", [list, &[]]);
    }

    fn open_text(&self, key: &[u8]) -> Option<(OwnedFd, u64)> {
        trusted(&self.path(key, TEXT)?)
    }

    fn store_text(&self, key: &[u8], content: [&[u8]; 2]) {
        self.keep(key, TEXT, content);
    }
}

fn fill(file: &OwnedFd, content: [&[u8]; 2]) -> Result<(), Errno> {
    if io::writev(file, &content.map(IoSlice::new))? != content.map(<[u8]>::len).iter().sum() {
        return Err(Errno::NOSPC);
    }
    // Also for a process that has dropped its privileges.
    fchmod(file.as_fd(), Mode::from_raw_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn lists() -> (tempfile::TempDir, SessionLists) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(names::SITES)).unwrap();
        let lists = SessionLists::new(folder.path(), false);
        (folder, lists)
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let (_folder, lists) = lists();
        assert_eq!(lists.load(b"key"), None);
        lists.store(b"key", b"list");
        lists.store(b"other", b"");
        lists.store(b"key", b"newer");
        assert_eq!(lists.load(b"key").as_deref(), Some(&b"newer"[..]));
        assert_eq!(lists.load(b"other").as_deref(), Some(&b""[..]));
        assert_eq!(fs::read_dir(&lists.directory).unwrap().count(), 2);
        assert_eq!(lists.load(&[0; LONGEST_KEY + 1]), None);
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let (_folder, lists) = lists();
        lists.store(b"key", b"list");
        let path = lists.path(b"key", "").unwrap();
        for mode in [0o664, 0o646] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(lists.load(b"key"), None, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(lists.load(b"key").is_some());
        fs::rename(&path, lists.directory.join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert_eq!(lists.load(b"key"), None);
    }

    #[test]
    fn a_folder_that_is_gone_keeps_nothing() {
        let (folder, lists) = lists();
        fs::remove_dir(folder.path().join(names::SITES)).unwrap();
        lists.store(b"key", b"list");
        assert_eq!(lists.load(b"key"), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_lists_of_this_process_are_those_of_its_libraries() {
        let (_folder, lists) = lists();
        let texts = lists.make().unwrap();
        let names = fs::read_dir(&lists.directory).unwrap().map(|entry| entry.unwrap().path());
        let (rewritten, kept): (Vec<_>, Vec<_>) =
            names.partition(|path| path.as_os_str().as_bytes().ends_with(TEXT.as_bytes()));
        // libc and ld.so at least; a text without functions has none.
        assert!(texts >= 2 && (2..=texts).contains(&kept.len()), "{texts} texts, {kept:?}");
        assert!(kept.iter().all(|path| fs::read(path).unwrap().starts_with(b"siteslt")));
        assert!(rewritten.len() >= 2, "of libc and ld.so: {rewritten:?}");
        assert!(rewritten.iter().all(|path| fs::read(path).unwrap().starts_with(b"\x7fELF")));
    }

    #[test]
    fn a_rewritten_text_is_believed_like_a_list() {
        let (_folder, lists) = lists();
        assert!(lists.open_text(b"key").is_none());
        lists.store_text(b"key", [b"te", b"xt"]);
        assert_eq!(lists.open_text(b"key").unwrap().1, 4);
        assert_eq!(lists.load(b"key"), None);
        let path = lists.path(b"key", TEXT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(lists.open_text(b"key").is_none());
    }
}
