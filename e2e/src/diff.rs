//! Tells in readable text how two runs differ.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use similar::TextDiff;

use crate::process::Outcome;
use crate::tree::{Content, Entry, Tree};

/// Differences of output and exit status; empty when there are none.
pub fn outcomes(plain: &Outcome, mount: &Outcome) -> String {
    let mut report = String::new();
    if plain.end != mount.end {
        let _ = writeln!(report, "end: {:?} on the plain directory, {:?} on the mount", plain.end, mount.end);
    }
    report += &text("stdout", &plain.stdout, &mount.stdout);
    report += &text("stderr", &plain.stderr, &mount.stderr);
    report
}

/// Differences of two trees; empty when there are none.
pub fn trees(what: &str, plain: &Tree, mount: &Tree) -> String {
    let mut report = String::new();
    let paths: BTreeSet<_> = plain.keys().chain(mount.keys()).collect();
    for path in paths {
        match (plain.get(path), mount.get(path)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => report += &entries(what, path, a, b),
            (Some(_), None) => {
                let _ = writeln!(report, "{what}: {} is missing on the mount", path.display());
            }
            (None, _) => {
                let _ = writeln!(report, "{what}: {} is on the mount only", path.display());
            }
        }
    }
    report
}

fn entries(what: &str, path: &Path, plain: &Entry, mount: &Entry) -> String {
    let mut report = String::new();
    let mut field = |name: &str, a: String, b: String| {
        if a != b {
            let _ = writeln!(
                report,
                "{what}: {}: {name} {a} on the plain directory, {b} on the mount",
                path.display()
            );
        }
    };
    field("kind", plain.kind.into(), mount.kind.into());
    field("mode", format!("{:04o}", plain.mode), format!("{:04o}", mount.mode));
    field("uid", plain.uid.to_string(), mount.uid.to_string());
    field("gid", plain.gid.to_string(), mount.gid.to_string());
    field("nlink", plain.nlink.to_string(), mount.nlink.to_string());
    field("size", plain.size.to_string(), mount.size.to_string());
    field("mtime", format!("{:?}", plain.set_mtime), format!("{:?}", mount.set_mtime));
    field("same inode as", format!("{:?}", plain.same_inode_as), format!("{:?}", mount.same_inode_as));
    field("xattrs", format!("{:?}", plain.xattrs), format!("{:?}", mount.xattrs));
    if plain.content != mount.content {
        match (&plain.content, &mount.content) {
            (Content::Short(a), Content::Short(b)) => {
                report += &text(&format!("{what}: {}", path.display()), a, b);
            }
            _ => {
                let _ = writeln!(report, "{what}: {}: content differs", path.display());
            }
        }
    }
    report
}

/// How many characters of a difference are shown.
const LIMIT: usize = 8000;

fn text(what: &str, plain: &[u8], mount: &[u8]) -> String {
    if plain == mount {
        return String::new();
    }
    let (plain, mount) = (plain.escape_lines(), mount.escape_lines());
    let diff = TextDiff::configure().timeout(Duration::from_secs(5)).diff_lines(&plain, &mount);
    let hunks = diff.unified_diff().context_radius(2).header("plain directory", "mount").to_string();
    let shown: String = hunks.chars().take(LIMIT).collect();
    let rest = if shown.len() < hunks.len() { "[...]\n" } else { "" };
    format!("{what}:\n{shown}{rest}")
}

trait EscapeLines {
    /// Printable text with the line ends kept.
    fn escape_lines(&self) -> String;
}

impl EscapeLines for [u8] {
    fn escape_lines(&self) -> String {
        self.split_inclusive(|&byte| byte == b'\n')
            .map(|line| match line.strip_suffix(b"\n") {
                Some(line) => format!("{}\n", escape(line)),
                None => format!("{}\\ no newline\n", escape(line)),
            })
            .collect()
    }
}

fn escape(line: &[u8]) -> String {
    match std::str::from_utf8(line) {
        Ok(line) if !line.contains('\0') => line.to_owned(),
        _ => line.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::End;

    fn outcome(stdout: &str, code: i32) -> Outcome {
        Outcome { stdout: stdout.into(), stderr: vec![], end: End::Exit(code) }
    }

    #[test]
    fn equal_outcomes_give_no_report() {
        assert_eq!(outcomes(&outcome("a\n", 0), &outcome("a\n", 0)), "");
    }

    #[test]
    fn exit_code_and_changed_line_are_told() {
        let report = outcomes(&outcome("a\nb\n", 0), &outcome("a\nc\n", 1));
        assert!(report.contains("Exit(0) on the plain directory, Exit(1) on the mount"), "{report}");
        assert!(report.contains("\n-b\n+c\n"), "{report}");
    }

    #[test]
    fn missing_final_newline_is_a_difference() {
        assert!(outcomes(&outcome("a\n", 0), &outcome("a", 0)).contains("no newline"));
    }

    #[test]
    fn each_differing_attribute_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "one\n").unwrap();
        let plain = crate::tree::read(dir.path()).unwrap();
        assert_eq!(trees("tree", &plain, &plain), "");

        let mut mount = plain.clone();
        let file = mount.get_mut(Path::new("f")).unwrap();
        file.mode = 0o600;
        file.content = Content::Short(b"two\n".to_vec());
        file.xattrs.insert(b"user.a".to_vec(), vec![1]);
        let report = trees("tree", &plain, &mount);
        for part in ["mode", "xattrs", "-one\n+two"] {
            assert!(report.contains(part), "{part}: {report}");
        }

        let (_, file) = mount.pop_last().unwrap();
        assert!(trees("tree", &plain, &mount).contains("f is missing on the mount"));
        mount.insert("f".into(), plain[Path::new("f")].clone());
        mount.insert("g".into(), file);
        assert!(trees("tree", &plain, &mount).contains("g is on the mount only"));
    }
}
