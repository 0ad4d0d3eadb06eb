//! What a test needs from the machine, and the line it prints when that is missing.

use std::env;
use std::path::PathBuf;

/// Prints the line by which the project counts skipped tests. The caller returns afterwards.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// The first of `programs` that is not on `PATH`.
pub fn missing_program<'a>(programs: &[&'a str]) -> Option<&'a str> {
    programs.iter().copied().find(|name| find_program(name).is_none())
}

/// Looks `name` up in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a mount namespace can be made, as root may outside of most containers.
pub fn has_mount_namespaces() -> bool {
    let output =
        std::process::Command::new("unshare").args(["-m", "mount", "--bind", "/proc", "/proc"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether the C compiler finds a header.
pub fn has_header(name: &str) -> bool {
    let output = std::process::Command::new("cc")
        .args(["-fsyntax-only", "-include", name, "-x", "c", "/dev/null"])
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Returns from the test, with a `skipped:` line, unless all the programs are on `PATH`.
#[macro_export]
macro_rules! need_programs {
    ($($program:literal),+) => {
        if let Some(program) = $crate::requirement::missing_program(&[$($program),+]) {
            $crate::requirement::skip(&format!("{program} is not installed"));
            return;
        }
    };
}

/// Prints a remark about how a test runs here, without counting it as skipped.
pub fn note(remark: &str) {
    println!("note: {remark}");
}
