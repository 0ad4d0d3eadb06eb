//! Builds and finds what is measured.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the built product is.
pub struct Product {
    directory: PathBuf,
}

impl Product {
    /// Builds it in the profile of this program.
    pub fn build() -> io::Result<Self> {
        let directory = env::current_exe()?.parent().unwrap_or(Path::new("/")).to_path_buf();
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--profile", profile])
            .args(["-p", "defuse", "-p", "defuse-plugin-passthrough", "-p", "defuse-plugin-memory"])
            .args(["-p", "defuse-bench", "-p", "defuse-bench-fuse", "--manifest-path"])
            .arg(Self::sources().join("Cargo.toml"))
            .arg("--target-dir")
            .arg(directory.parent().unwrap_or(Path::new("/")))
            .status()?;
        if status.success() { Ok(Self { directory }) } else { Err(io::Error::other("cargo build failed")) }
    }

    /// The workspace.
    pub fn sources() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    /// The command.
    pub fn defuse(&self) -> PathBuf {
        self.directory.join("defuse")
    }

    /// What it loads into each process.
    pub fn library(&self) -> PathBuf {
        self.directory.join("libdefuse.so")
    }

    /// A plugin of this workspace.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.directory.join(format!("lib{name}.so"))
    }

    /// Serves a plugin through FUSE.
    pub fn fuse_server(&self) -> PathBuf {
        self.directory.join("defuse-bench-fuse")
    }

    /// The program that executes itself.
    pub fn chain(&self) -> PathBuf {
        self.directory.join("defuse-bench-chain")
    }

    /// The program that is measured.
    pub fn workload(&self) -> PathBuf {
        self.directory.join("defuse-bench-workload")
    }
}
