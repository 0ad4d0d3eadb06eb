//! Which tests a binary that `cargo test` built has, asked of the binary itself: on the host, before a machine boots, and again in the guest.

use std::path::Path;
use std::process::{Command, Stdio};

/// What its tests' names begin with: the file's name without cargo's hash.
pub fn stem(program: &Path) -> String {
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-').map_or(&*stem, |(stem, _hash)| stem).to_owned()
}

/// The names of its tests, without the stem.
///
/// # Errors
///
/// When it cannot be run or fails, with what it printed: a binary that cannot say which tests it has is not one without tests.
pub fn list(program: &Path) -> Result<Vec<String>, String> {
    let mut command = Command::new(program);
    let output = command.args(["--list", "--format", "terse"]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("list the tests of {}: {}\n{text}{errors}", program.display(), output.status));
    }
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn a_test_binary_names_its_tests() {
        let me = std::env::current_exe().expect("own executable");
        let tests = super::list(&me).expect("list this binary's tests");
        assert!(tests.iter().any(|name| name.ends_with("a_test_binary_names_its_tests")), "{tests:?}");
        assert_eq!(super::stem(Path::new("/t/debug/deps/e2e-12ab")), "e2e");
    }

    #[rstest::rstest]
    #[case("/bin/false", "exit status: 1")]
    #[case("/no/such/program", "No such file")]
    fn one_that_cannot_is_an_error(#[case] program: &str, #[case] message: &str) {
        let error = super::list(Path::new(program)).expect_err("it has no list");
        assert!(error.contains(message) && error.contains(program), "{error}");
    }
}
