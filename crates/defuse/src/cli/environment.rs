//! The environment of the program that is started.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// `inherited` with the variables of `changes` put in the place of their namesakes, or at the end, as `execve` wants it. Names and values
/// must have no NUL byte; those that do are left out, as no program could have received them.
pub fn with<'v>(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    changes: &[(&'v str, &'v OsStr)],
) -> Vec<CString> {
    let kept = inherited.filter(|(name, _)| changes.iter().all(|(changed, _)| name != changed));
    let added = changes.iter().map(|&(name, value)| (name.into(), value.into()));
    kept.chain(added).filter_map(|(name, value)| assignment(name, &value)).collect()
}

fn assignment(name: OsString, value: &OsStr) -> Option<CString> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    CString::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::with;
    use std::ffi::OsStr;

    #[test]
    fn changes_replace_and_add() {
        let inherited = [("A", "1"), ("LD_PRELOAD", "old"), ("B", "2")];
        let inherited = inherited.map(|(name, value)| (name.into(), value.into())).into_iter();
        let environment = with(inherited, &[("LD_PRELOAD", OsStr::new("new")), ("S", OsStr::new("x=y"))]);
        let text: Vec<_> = environment.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(text, ["A=1", "B=2", "LD_PRELOAD=new", "S=x=y"]);
    }
}
