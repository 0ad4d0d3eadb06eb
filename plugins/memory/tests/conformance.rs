//! The conformance kit on the plugin as a shared library.

use plugin_abi::conformance::{Config, check};
use plugin_abi::{Host, Plugin};

#[test]
fn it_behaves_like_the_model() {
    let deps = std::env::current_exe().unwrap();
    let plugin = Plugin::load(&deps.with_file_name("libmemory.so")).unwrap();
    let fs = plugin.instantiate(c"/mnt", c"", c"", Host::STDERR).unwrap();
    for seed in 1..=4 {
        let passed =
            check(&fs, &Config { seed, ..Config::default() }).unwrap_or_else(|failed| panic!("{failed}"));
        assert_eq!(passed.unsupported, ["save"]);
    }
}
