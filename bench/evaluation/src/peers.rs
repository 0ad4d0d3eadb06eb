//! Builds what the distribution has only as source, and finds out what is lacking.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use defuse_bench::product::Product;

/// Programs and libraries, each or why not.
pub struct Peers {
    /// `bench/preload`.
    pub preload: Result<PathBuf, String>,
    /// The device of FUSE.
    pub device: Result<(), String>,
    /// libfuse's examples.
    pub passthrough_ll: Result<PathBuf, String>,
    /// By path.
    pub passthrough_fh: Result<PathBuf, String>,
    /// In C++.
    pub passthrough_hp: Result<PathBuf, String>,
    /// Why FUSE over io_uring is not measured.
    pub uring: String,
    /// The kernel module.
    pub module: Result<(), String>,
    /// The version of libfuse.
    pub libfuse: Option<String>,
}

impl Peers {
    /// Builds in `folder`.
    pub fn build(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let libfuse = version_of_libfuse();
        let example = |name: &str| match &libfuse {
            Some(_) => build_example(folder, name),
            None => Err("there is no libfuse3-dev (and pkg-config) to build it with".into()),
        };
        Ok(Self {
            preload: build_preload(folder),
            device: match fs::File::options().read(true).write(true).open("/dev/fuse") {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("/dev/fuse: {error}")),
            },
            passthrough_ll: example("passthrough_ll"),
            passthrough_fh: example("passthrough_fh"),
            passthrough_hp: example("passthrough_hp"),
            uring: uring(libfuse.as_deref()),
            module: match fs::read_to_string("/proc/filesystems") {
                Ok(known) if known.split_whitespace().any(|name| name == "defuse") => Ok(()),
                _ => Err("the module is not loaded (kmod/README.md)".into()),
            },
            libfuse,
        })
    }
}

fn build_preload(folder: &Path) -> Result<PathBuf, String> {
    let library = folder.join("naive.so");
    let sources = Product::sources();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-I"])
        .arg(sources.join("crates/plugin-abi/include"))
        .arg("-o")
        .arg(&library)
        .arg(sources.join("bench/preload/naive.c"))
        .arg("-ldl");
    said(cc.output(), "cc").map(|_| library)
}

fn version_of_libfuse() -> Option<String> {
    let output = Command::new("pkg-config").args(["--modversion", "fuse3"]).output();
    said(output, "pkg-config").ok().map(|version| version.trim().to_owned())
}

/// From `$DEFUSE_LIBFUSE_EXAMPLES`, or where Debian's libfuse3-dev has them.
fn build_example(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let from: PathBuf = env::var_os("DEFUSE_LIBFUSE_EXAMPLES")
        .unwrap_or_else(|| "/usr/share/doc/libfuse3-dev/examples".into())
        .into();
    let source = ["c", "cc"].map(|ending| from.join(format!("{name}.{ending}")));
    let Some(source) = source.iter().find(|source| source.exists()) else {
        return Err(format!(
            "{} has no {name} (DEFUSE_LIBFUSE_EXAMPLES may name another folder)",
            from.display()
        ));
    };
    let flags = Command::new("pkg-config").args(["--cflags", "--libs", "fuse3"]).output();
    let flags = said(flags, "pkg-config")?;
    let program = folder.join(name);
    let compiler = if source.extension().is_some_and(|ending| ending == "cc") { "c++" } else { "cc" };
    let mut build = Command::new(compiler);
    build.args(["-O2", "-w", "-o"]).arg(&program).arg(source).args(flags.split_whitespace());
    said(build.output(), compiler).map(|_| program)
}

fn uring(libfuse: Option<&str>) -> String {
    let kernel = match fs::read_to_string("/sys/module/fuse/parameters/enable_uring") {
        Ok(on) if on.trim() == "Y" => "the kernel has it",
        Ok(_) => "the kernel has it, switched off (fuse.enable_uring)",
        Err(_) => "the kernel does not have it",
    };
    let library =
        libfuse.map_or("no libfuse is installed".into(), |version| format!("libfuse here is {version}"));
    format!("{kernel}; of the libraries libfuse has it from 3.18 on ({library}), the fuser crate not")
}

/// What a program printed, or why it failed.
pub fn said(output: io::Result<Output>, program: &str) -> Result<String, String> {
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", errors.lines().next().unwrap_or("failed")))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}
