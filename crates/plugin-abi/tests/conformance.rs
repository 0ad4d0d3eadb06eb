//! The kit itself: a right plugin passes, and each planted bug is found and shrunk.

#[path = "common/simple.rs"]
mod simple;

use plugin_abi::conformance::{Config, Failed, check};
use plugin_abi::{Host, Instance, Plugin};
use rstest::rstest;
use simple::Simple;
use std::ffi::CString;

fn instance(bug: &str) -> Instance {
    let backend = CString::new(bug).unwrap();
    Plugin::built_in::<Simple>().instantiate(c"/mnt", &backend, c"", Host::STDERR).unwrap()
}

#[test]
fn a_right_plugin_passes_and_what_it_lacks_is_named() {
    let passed = check(&instance(""), &Config::default()).unwrap_or_else(|failed| panic!("{failed}"));
    let text = passed.to_string();
    for lacking in ["fallocate", "xattr", "copy_range", "rename with RENAME_EXCHANGE", "save"] {
        assert!(text.contains(lacking), "{text}");
    }
    assert!(!passed.unsupported.contains(&"write") && passed.steps > 5_000);
}

/// The number is how many steps the shortest sequence needs.
#[rstest]
#[case("extending does not zero", 2)]
#[case("every write truncates", 3)]
#[case("reads stop at 4096", 2)]
#[case("append goes to the offset", 3)]
#[case("O_EXCL is ignored", 2)]
#[case("O_TRUNC is ignored", 3)]
#[case("mtime is not kept", 2)]
#[case("mkdir over a name succeeds", 2)]
#[case("rmdir takes full directories", 3)]
#[case("unlink empties open files", 3)]
#[case("rename leaves children behind", 3)]
#[case("rename keeps the old name", 2)]
#[case("link does not count", 2)]
#[case("all inodes are one", 2)]
#[case("a cookie is one too far", 2)]
#[case("symlink in the middle is ENOENT", 2)]
#[case("readlink does not cut", 2)]
fn a_planted_bug_is_found_and_shrunk(#[case] bug: &str, #[case] steps: usize) {
    let fs = instance(bug);
    for seed in [1, 99] {
        let failed = check(&fs, &Config { seed, ..Config::default() }).expect_err(bug);
        let Failed::Differs(example) = &failed else { panic!("{bug}: {failed}") };
        assert!(example.steps.len() <= steps, "{bug}: {failed}");
        // The same seed finds the same, on a fresh instance too.
        let again = check(&instance(bug), &Config { seed, ..Config::default() });
        assert_eq!(again.unwrap_err().to_string(), failed.to_string());
        let text = failed.to_string();
        assert!(text.contains("  1. ") && text.contains("expected ") && text.contains("got "), "{text}");
    }
}

#[test]
fn a_plugin_that_makes_no_directory_cannot_be_checked() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("empty.c");
    let library = dir.path().join("empty.so");
    let text = "#include \"defuse_plugin.h\"\n\
                static int getattr(void *fs, const char *path, struct stat *out)\n\
                { (void)fs, (void)path, (void)out; return 2; }\n\
                const struct defuse_plugin defuse_plugin = { DEFUSE_PLUGIN_HEADER, .getattr = getattr };\n";
    std::fs::write(&source, text).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-D_GNU_SOURCE", "-I", include, "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(status.success());
    let fs = Plugin::load(&library).unwrap().instantiate(c"/mnt", c"", c"", Host::STDERR).unwrap();
    let failed = check(&fs, &Config::default()).unwrap_err();
    assert!(matches!(failed, Failed::CannotStart { .. }), "{failed}");
    assert_eq!(failed.to_string(), "cannot check: mkdir of a directory to work in: ENOSYS");
}
