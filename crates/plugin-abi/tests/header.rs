//! The committed C header: current, and laid out as Rust is.

mod common;

use common::source;
use std::process::Command;

#[test]
fn the_committed_header_is_current() {
    let committed = std::fs::read_to_string(source("include/defuse_plugin.h")).unwrap();
    assert!(
        committed == plugin_abi::header::text(),
        "run: cargo run -p plugin-abi --example header > crates/plugin-abi/include/defuse_plugin.h"
    );
}

#[rstest::rstest]
#[case::c11("c", "c11")]
#[case::gnu17("c", "gnu17")]
#[case::cxx("c++", "c++17")]
fn compilers_lay_it_out_as_rust_does(#[case] language: &str, #[case] standard: &str) {
    let dir = tempfile::tempdir().unwrap();
    let check = dir.path().join("check.c");
    let mut text = plugin_abi::header::layout_check();
    if language == "c++" {
        text = text.replace("_Static_assert", "static_assert");
    }
    std::fs::write(&check, text).unwrap();
    let output = Command::new("cc")
        .args([
            "-D_GNU_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            &format!("-std={standard}"),
            "-x",
            language,
        ])
        .arg("-I")
        .arg(source("include"))
        .arg(&check)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    if language == "c++" && message.contains("cc1plus") {
        println!("skipped: no C++ compiler");
        return;
    }
    assert!(output.status.success(), "{message}");
}
