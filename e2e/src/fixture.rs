//! C programs that the scripts run, compiled once from `fixtures/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `fixtures/NAME.c` into `dir/NAME` with `cc`. `extra` are options such as `-static`.
///
/// Each case has its own copy, so tests need not agree on when a shared one is complete.
///
/// # Panics
///
/// When the compiler refuses the source.
pub fn compile(name: &str, dir: &Path, extra: &[&str]) -> PathBuf {
    compile_by("cc", name, dir, extra)
}

/// As [`compile`], with another compiler.
///
/// # Panics
///
/// When there is no such compiler, or it refuses the source.
pub fn compile_by(compiler: &str, name: &str, dir: &Path, extra: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.c"));
    let program = dir.join(name);
    let output = Command::new(compiler)
        // Wrong buffers are passed on purpose: the warnings about them are not wanted.
        .args(["-std=gnu11", "-O1", "-w", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .args(extra)
        .output()
        .expect("start the compiler");
    assert!(
        output.status.success(),
        "{compiler} {}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    program
}
