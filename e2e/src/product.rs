//! Builds and finds what is tested: the `defuse` command, its library and the plugins.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the built product is.
#[derive(Debug)]
pub struct Product {
    dir: PathBuf,
}

impl Product {
    /// The product of this workspace, in the profile and target directory of the running test.
    ///
    /// `cargo test` builds no shared library for another package, so the first call runs
    /// `cargo build`. Cargo has let go of its lock on the target directory when tests run; when several test processes
    /// come here at once, that lock makes them wait for each other. `DEFUSE_E2E_BUILT` says that all is built: in a virtual machine, which
    /// cannot write to the target directory.
    ///
    /// # Panics
    ///
    /// When the product cannot be built.
    pub fn get() -> &'static Self {
        static PRODUCT: OnceLock<Product> = OnceLock::new();
        PRODUCT.get_or_init(build)
    }

    /// The `defuse` command.
    pub fn defuse(&self) -> PathBuf {
        self.dir.join("defuse")
    }

    /// The library of one plugin of the workspace, `passthrough` or `memory`.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.dir.join(format!("lib{name}.so"))
    }

    /// The library that `defuse run` preloads.
    pub fn interposer(&self) -> PathBuf {
        self.dir.join("libdefuse.so")
    }
}

fn build() -> Product {
    // <target>/<profile>/deps/<test>
    let test = env::current_exe().expect("path of the running test");
    let dir = test.ancestors().nth(2).expect("tests lie in <target>/<profile>/deps").to_path_buf();
    let target = dir.parent().expect("the profile's folder lies in the target directory");
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    if env::var_os("DEFUSE_E2E_BUILT").is_none() {
        cargo_build(profile, workspace, target);
    }
    let product = Product { dir };
    for file in
        [product.defuse(), product.interposer(), product.plugin("passthrough"), product.plugin("memory")]
    {
        assert!(file.is_file(), "cargo build made no {}", file.display());
    }
    product
}

fn cargo_build(profile: &str, workspace: &Path, target: &Path) {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", profile])
        .args(["-p", "defuse", "-p", "defuse-plugin-passthrough", "-p", "defuse-plugin-memory"])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .expect("start cargo");
    assert!(output.status.success(), "cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
}
