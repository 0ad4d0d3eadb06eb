//! Mounts that stand for all sessions where there is no kernel module: a list in the run directory that `defuse mount` keeps and
//! `defuse run` reads. Used by the command only.
//!
//! ```text
//! defuse-mounts 1
//! mount /mnt/fs /usr/lib/defuse/libpassthrough.so /srv/data backing-fd
//! end
//! ```
//!
//! Each user has one, `defuse-mounts-UID`; root's counts for everybody. Words are written as [`escape`](super::escape) says. A new list
//! takes the place of the old one by a rename, while the old one is locked.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::SessionError;
use super::escape::{escape, unescape};
use super::mount_spec::{MountSpec, PluginSpec};
use super::open::check_regular;
use super::run_directory::choose_run_directory;

const FIRST_LINE: &str = "defuse-mounts 1";

/// One user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingTable {
    path: PathBuf,
}

impl StandingTable {
    /// The caller's own: root's is the system's. The arguments are as for [`choose_run_directory`].
    pub fn own(wanted: Option<&OsStr>, runtime: Option<&OsStr>) -> Self {
        Self::of(&choose_run_directory(wanted, runtime).path, geteuid().as_raw())
    }

    /// Those that count for the caller: the system's, and its own.
    pub fn all(wanted: Option<&OsStr>, runtime: Option<&OsStr>) -> Vec<Self> {
        // Root does not keep it in a directory of one user's.
        let mut tables = vec![Self::of(&choose_run_directory(wanted, None).path, 0)];
        let own = Self::own(wanted, runtime);
        if !tables.contains(&own) {
            tables.push(own);
        }
        tables
    }

    fn of(directory: &Path, uid: u32) -> Self {
        Self { path: directory.join(format!("defuse-mounts-{uid}")) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mounts in it, none if there is no list.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not to be trusted, or is not valid.
    pub fn read(&self) -> Result<Vec<MountSpec>, SessionError> {
        match self.open(OFlags::empty()) {
            Ok(file) => self.read_from(file),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Changes the list. Nobody else changes it meanwhile.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and when it cannot be written; it is then as it was.
    pub fn change<R>(&self, change: impl FnOnce(&mut Vec<MountSpec>) -> R) -> Result<R, SessionError> {
        let failed = |verb: &str| {
            let verb = verb.to_owned();
            move |error: io::Error| {
                SessionError::system(&verb, &self.path, Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
        };
        loop {
            let locked = match self.open(OFlags::CREATE) {
                // The name can be guessed, and anybody can take it first where the run directory is everybody's: by a file, a link, a directory. The
                // kernel may also refuse to open what somebody has put there (`fs.protected_regular`).
                Err(_) if geteuid().is_root() && self.is_anothers() => {
                    self.put_aside().map_err(failed("remove"))?;
                    continue;
                }
                opened => opened?,
            };
            flock(&locked, FlockOperation::LockExclusive)
                .map_err(|errno| SessionError::system("lock", &self.path, errno))?;
            let stat = fstat(&locked).map_err(|errno| SessionError::system("look at", &self.path, errno))?;
            if stat.st_nlink == 0 {
                continue; // Another one took its place while we waited.
            }
            let mut mounts = self.read_from(
                rustix::io::dup(&locked).map_err(|errno| SessionError::system("read", &self.path, errno))?,
            )?;
            let answer = change(&mut mounts);
            if mounts.is_empty() {
                fs::remove_file(&self.path).map_err(failed("remove"))?;
                return Ok(answer);
            }
            self.remove_unfinished();
            let new = self.unfinished_name()?;
            let written = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&new)
                .and_then(|mut file| {
                    // Whatever the umask is: root's is for all to read.
                    file.set_permissions(fs::Permissions::from_mode(0o644))?;
                    file.write_all(to_text(&mounts).as_bytes())
                })
                .and_then(|()| fs::rename(&new, &self.path));
            if written.is_err() {
                let _ = fs::remove_file(&new);
            }
            return written.map(|()| answer).map_err(failed("write"));
        }
    }

    fn is_anothers(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.uid() != geteuid().as_raw())
    }

    /// Makes room for a list of ours where somebody else has put something.
    fn put_aside(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                let aside = self.unfinished_name().map_err(io::Error::other)?;
                fs::rename(&self.path, aside)
            }
            done => done,
        }
    }

    /// Removes what is left of commands that were killed while they wrote a new list. The caller has the lock, so that none is at it.
    fn remove_unfinished(&self) {
        let (Some(directory), Some(prefix)) = (self.path.parent(), self.unfinished_prefix()) else { return };
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(&prefix)) {
            // In a directory that is everybody's, another one's cannot be removed.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// A name for a new list that nobody else can have taken.
    fn unfinished_name(&self) -> Result<PathBuf, SessionError> {
        let failed = |errno| SessionError::system("get random bytes for", &self.path, errno);
        let mut random = [0; 16];
        let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        if got.map_err(failed)? < random.len() {
            return Err(failed(Errno::IO));
        }
        let mut name = self.unfinished_prefix().unwrap_or_default();
        name.extend_from_slice(format!("{:032x}", u128::from_ne_bytes(random)).as_bytes());
        Ok(self.path.with_file_name(OsString::from_vec(name)))
    }

    fn unfinished_prefix(&self) -> Option<Vec<u8>> {
        Some([self.path.file_name()?.as_bytes(), b".new-"].concat())
    }

    fn open(&self, more: OFlags) -> Result<OwnedFd, SessionError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
        let file = openat(CWD, &self.path, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| SessionError::system("open", &self.path, errno))?;
        let stat = fstat(&file).map_err(|errno| SessionError::system("look at", &self.path, errno))?;
        check_regular(&self.path, &stat)?;
        Ok(file)
    }

    fn read_from(&self, file: OwnedFd) -> Result<Vec<MountSpec>, SessionError> {
        let text = io::read_to_string(fs::File::from(file)).map_err(|error| {
            SessionError::system("read", &self.path, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        parse(&text).ok_or_else(|| SessionError::Untrusted {
            path: self.path.clone(),
            why: "it is not a list of mounts as this version writes it".into(),
        })
    }
}

fn to_text(mounts: &[MountSpec]) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for MountSpec { point, plugin: PluginSpec { library, options, backend } } in mounts {
        let words = [point.as_os_str(), library, backend, options].map(|word| escape(word.as_bytes()));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "mount {}", words.join(" "));
    }
    text.push_str("end\n");
    text
}

/// The mounts in `text`, which is empty or has all that [`to_text`] writes.
fn parse(text: &str) -> Option<Vec<MountSpec>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let lines = text.strip_prefix(FIRST_LINE)?.strip_prefix('\n')?.strip_suffix("end\n")?;
    lines.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountSpec> {
    let words: Vec<&str> = line.split(' ').collect();
    let &["mount", point, library, backend, options] = words.as_slice() else { return None };
    let word = |text: &str| unescape(text.as_bytes()).map(OsString::from_vec);
    let plugin = PluginSpec { library: word(library)?, options: word(options)?, backend: word(backend)? };
    Some(MountSpec { point: word(point)?.into(), plugin })
}

#[cfg(test)]
mod tests {
    use super::{MountSpec, PluginSpec, StandingTable, parse, to_text};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::{PermissionsExt, chown};

    fn spec(point: &str) -> MountSpec {
        let plugin = PluginSpec { library: "/l.so".into(), options: "".into(), backend: "b c".into() };
        MountSpec { point: point.into(), plugin }
    }

    #[test]
    fn a_mount_stands_until_it_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let table = StandingTable::own(Some(directory.path().as_os_str()), None);
        assert_eq!(table.read().unwrap(), []);
        table.change(|mounts| mounts.push(spec("/a"))).unwrap();
        table.change(|mounts| mounts.push(spec("/b"))).unwrap();
        assert_eq!(table.read().unwrap(), [spec("/a"), spec("/b")]);
        table.change(|mounts| mounts.retain(|mount| mount.point.ends_with("b"))).unwrap();
        assert_eq!(table.read().unwrap(), [spec("/b")]);
        table.change(Vec::clear).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn changes_at_once_are_all_made() {
        let directory = tempfile::tempdir().unwrap();
        let table = StandingTable::own(Some(directory.path().as_os_str()), None);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..8 {
                        table.change(|mounts| mounts.push(spec(&format!("/{thread}/{round}")))).unwrap();
                    }
                });
            }
        });
        assert_eq!(table.read().unwrap().len(), 32);
    }

    #[test]
    fn a_list_that_others_may_write_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let table = StandingTable::own(Some(directory.path().as_os_str()), None);
        table.change(|mounts| mounts.push(spec("/a"))).unwrap();
        fs::set_permissions(table.path(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(table.read().unwrap_err().to_string().contains("lets others write it"));
        assert!(table.change(Vec::clear).is_err());
    }

    #[test]
    fn what_somebody_else_put_there_is_not_in_roots_way() {
        let directory = tempfile::tempdir().unwrap();
        let table = StandingTable::own(Some(directory.path().as_os_str()), None);
        fs::write(table.path(), "").unwrap();
        if chown(table.path(), Some(12345), None).is_err() {
            println!("skipped: needs root to make another user's file");
            return;
        }
        assert!(table.read().is_err());
        table.change(|mounts| mounts.push(spec("/a"))).unwrap();
        assert_eq!(table.read().unwrap(), [spec("/a")]);
    }

    #[test]
    fn what_is_left_of_a_killed_command_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let table = StandingTable::own(Some(directory.path().as_os_str()), None);
        let left = table
            .path()
            .with_file_name(format!("{}.new-0123", table.path().file_name().unwrap().to_str().unwrap()));
        fs::write(&left, "half").unwrap();
        // As another user's that cannot be removed.
        fs::create_dir(table.path().with_extension("new")).unwrap();
        table.change(|mounts| mounts.push(spec("/a"))).unwrap();
        assert_eq!(table.read().unwrap(), [spec("/a")]);
        assert!(!left.exists());
    }

    #[rstest]
    #[case("mount /a /l b -\n")]
    #[case("defuse-mounts 1\nmount /a /l b -\n")]
    #[case("defuse-mounts 1\nmount /a /l b\nend\n")]
    #[case("defuse-mounts 1\numount /a /l b -\nend\n")]
    #[case("defuse-mounts 1\nmount /a%2 /l b -\nend\n")]
    #[case("defuse-mounts 2\nend\n")]
    fn nonsense_is_not_read(#[case] text: &str) {
        assert_eq!(parse(text), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(words in proptest::collection::vec(proptest::collection::vec(1_u8.., 0..12), 4)) {
            let [point, library, backend, options]: [OsString; 4] =
                words.into_iter().map(OsString::from_vec).collect::<Vec<_>>().try_into().unwrap();
            let mounts = [MountSpec { point: point.into(), plugin: PluginSpec { library, options, backend } }];
            prop_assert_eq!(parse(&to_text(&mounts)), Some(mounts.to_vec()));
        }
    }
}
