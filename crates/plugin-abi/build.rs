//! With the feature `static-unwinder`: links the unwinder into the library that is made with this crate.
//!
//! Rust's standard library asks for `-lgcc_s`, so every process that loads a plugin would load `libgcc_s.so.1` with it: some 80 us, in part of its
//! constructor. A linker script of that name, found before the real one, gives the same code from the compiler's static library.

use std::path::Path;
use std::process::Command;

/// What stands for the shared library.
const SCRIPT: &str = "INPUT(-lgcc_eh -lgcc)\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_STATIC_UNWINDER").is_none() {
        return;
    }
    // Without the static library the shared one does as well, only slower.
    let found = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    let there =
        found.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute());
    let Some(directory) = std::env::var_os("OUT_DIR").filter(|_| there) else { return };
    let directory = Path::new(&directory);
    match std::fs::write(directory.join("libgcc_s.so"), SCRIPT) {
        Ok(()) => println!("cargo::rustc-link-search=native={}", directory.display()),
        Err(error) => println!("cargo::warning=libgcc_s will be loaded with every plugin: {error}"),
    }
}
