//! The conformance kit on the plugin as a shared library.

use plugin_abi::conformance::{Config, check};
use plugin_abi::{Host, Plugin};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

#[test]
fn it_behaves_like_the_model() {
    let deps = std::env::current_exe().unwrap();
    let plugin = Plugin::load(&deps.with_file_name("libpassthrough.so")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
    let fs = plugin.instantiate(c"/mnt", &backend, c"", Host::STDERR).unwrap();
    let config = Config { sequences: 150, ..Config::default() };
    let passed = check(&fs, &config).unwrap_or_else(|failed| panic!("{failed}"));
    // What the file system below cannot do is not the plugin's fault; the rest is there.
    let below =
        |name: &str| name.starts_with("fallocate") || name.starts_with("rename with") || name == "xattr";
    let missing: Vec<_> = passed.unsupported.into_iter().filter(|name| !below(name)).collect();
    assert!(missing.is_empty(), "not supported: {missing:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
