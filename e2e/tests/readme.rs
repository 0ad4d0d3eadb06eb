//! The examples in the README are the example files, which other tests compile and load.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The blocks of the README that are fenced as `language`.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while lines.any(|line| line == format!("```{language}")) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n") + "\n");
    }
    blocks
}

#[test]
fn the_plugin_in_rust_is_the_example() {
    let example = read("crates/plugin-abi/examples/upper.rs");
    let code = example.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
    let code: Vec<&str> = code.collect();
    assert_eq!(blocks("rust"), [code.join("\n") + "\n"]);
}

#[test]
fn the_plugin_in_c_is_the_example() {
    assert_eq!(blocks("c"), [read("crates/plugin-abi/examples/hello.c")]);
}
