//! Whom a process believes: root and its own effective user, as far as nobody else can write.

use std::path::Path;

use rustix::fs::Stat;
use rustix::process::geteuid;

use super::error::SessionError;

/// Permission to write for the group or for others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Refuses what somebody else than root or the effective user owns, or may write.
///
/// # Errors
///
/// [`SessionError::Untrusted`] names `path` and says why.
pub fn check(path: &Path, stat: &Stat) -> Result<(), SessionError> {
    check_for(geteuid().as_raw(), path, stat.st_uid, stat.st_mode)
}

fn check_for(euid: u32, path: &Path, owner: u32, mode: u32) -> Result<(), SessionError> {
    let untrusted = |why| Err(SessionError::Untrusted { path: path.into(), why });
    if owner != 0 && owner != euid {
        return untrusted(format!("user {owner} owns it, who is neither root nor the effective user {euid}"));
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        let mode = mode & 0o7777;
        return untrusted(format!("its mode {mode:04o} lets others write it (chmod go-w would mend that)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_for;
    use rstest::rstest;
    use std::path::Path;

    #[rstest]
    #[case(1000, 1000, 0o100_600, true)]
    #[case(1000, 0, 0o100_755, true)]
    #[case(0, 0, 0o40_711, true)]
    #[case(0, 1000, 0o100_600, false)]
    #[case(1000, 1001, 0o100_600, false)]
    #[case(1000, 1000, 0o100_620, false)]
    #[case(1000, 0, 0o41_777, false)]
    fn only_root_and_ourselves_are_believed(
        #[case] euid: u32,
        #[case] owner: u32,
        #[case] mode: u32,
        #[case] trusted: bool,
    ) {
        assert_eq!(check_for(euid, Path::new("/x"), owner, mode).is_ok(), trusted);
    }
}
