//! What a session must not leave behind: processes, its folder, files that slipped past the mount.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::place::Place;
use crate::process::{live_processes, slowed};

/// The variable that marks all processes of a case; its value is the case's folder.
pub const MARKER: &str = "DEFUSE_E2E_CASE";

/// How long a process that the session no longer needs may take to end.
const GRACE: Duration = Duration::from_secs(60);

/// Reports processes of the case that do not end within the grace time, and ends them.
pub fn processes(root: &Path) -> io::Result<String> {
    let mark = format!("{MARKER}={}\0", root.display());
    let mut report = String::new();
    for process in live_processes() {
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        if !contains(&environ, mark.as_bytes()) {
            continue;
        }
        let Some(pid) = Pid::from_raw(process.pid) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let grace = Timespec { tv_sec: slowed(GRACE).as_secs() as i64, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&grace))? == 0 {
            let command = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let _ = writeln!(report, "left behind: process {} {}", process.pid, command.replace('\0', " "));
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
    Ok(report)
}

/// Reports files of the session: in the runtime directory; at any path that the environment of the session's
/// processes named and that is younger than `since`; and in the directory under the mount point, where only
/// calls that were not intercepted can have put them.
pub fn files(place: &Place, environment: &str, since: SystemTime) -> io::Result<String> {
    let mut report = String::new();
    for (dir, what) in [(place.run_dir(), "session file"), (place.mnt(), "file that slipped under the mount")]
    {
        for entry in fs::read_dir(dir)? {
            let _ = writeln!(report, "left behind: {what} {}", entry?.path().display());
        }
    }
    for path in paths_in(environment) {
        if path.starts_with(place.root()) || path.starts_with(place.out()) {
            continue;
        }
        if fs::symlink_metadata(&path).and_then(|m| m.created()).is_ok_and(|born| born >= since) {
            let _ = writeln!(report, "left behind: {} of the environment", path.display());
        }
    }
    Ok(report)
}

fn paths_in(environment: &str) -> impl Iterator<Item = PathBuf> + '_ {
    environment
        .split(['"', '\n', ':', '=', ',', ';', ' '])
        .filter(|part| part.starts_with('/') && part.len() > 1)
        .map(PathBuf::from)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn file_under_the_mount_point_is_reported() {
        let place = Place::create().unwrap();
        assert_eq!(files(&place, "", SystemTime::now()).unwrap(), "");
        fs::write(place.mnt().join("slipped"), "").unwrap();
        fs::write(place.run_dir().join("session-1"), "").unwrap();
        let report = files(&place, "", SystemTime::now()).unwrap();
        assert!(report.contains("slipped") && report.contains("session-1"), "{report}");
    }

    #[test]
    fn young_path_named_in_the_environment_is_reported() {
        let place = Place::create().unwrap();
        let session = tempfile::tempdir().unwrap();
        let environment = format!("declare -x X=\"a:{}\"\n", session.path().display());
        assert!(files(&place, &environment, SystemTime::UNIX_EPOCH).unwrap().contains("left behind"));
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(files(&place, &environment, later).unwrap(), "");
    }

    #[test]
    fn marked_process_that_ends_by_itself_is_no_leftover() {
        let root = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh").args(["-c", "exit 0"]).env(MARKER, root.path()).spawn().unwrap();
        assert_eq!(processes(root.path()).unwrap(), "");
        child.wait().unwrap();
    }
}
