//! A place to run the command in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

/// A plugin in the paper's form: every call is answered with ENOSYS.
const PLUGIN: &str =
    "int usfs_open(const char *path, int flags, unsigned mode, unsigned long *handle) { return 38; }";

static EMPTY_LIBRARY: LazyLock<Vec<u8>> = LazyLock::new(|| compile(""));
static PLUGIN_LIBRARY: LazyLock<Vec<u8>> = LazyLock::new(|| compile(PLUGIN));

/// The shared library made of this C text.
fn compile(text: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("source.c"), folder.path().join("library.so"));
    fs::write(&source, text).unwrap();
    let mut cc = Command::new("cc");
    let status = cc
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler is needed");
    assert!(status.success());
    fs::read(library).unwrap()
}

/// An empty interposer, a plugin `tiny`, a mount point and a run directory; all gone when dropped.
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(lab.point()).unwrap();
        fs::create_dir(lab.run_directory()).unwrap();
        lab.install("libempty.so", &EMPTY_LIBRARY);
        lab.install("libtiny.so", &PLUGIN_LIBRARY);
        lab
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn point(&self) -> PathBuf {
        self.at("point")
    }

    pub fn run_directory(&self) -> PathBuf {
        self.at("run")
    }

    /// The session folders that there are.
    pub fn sessions(&self) -> Vec<PathBuf> {
        fs::read_dir(self.run_directory()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Compiles a plugin, to be found by `name`.
    pub fn add_plugin(&self, name: &str, text: &str) {
        self.install(&format!("lib{name}.so"), &compile(text));
    }

    fn install(&self, name: &str, library: &[u8]) {
        fs::write(self.at(name), library).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The command with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_defuse"));
        command
            .args(arguments)
            .env("DEFUSE_LIBRARY", self.at("libempty.so"))
            .env("DEFUSE_PLUGIN_PATH", self.folder.path())
            .env("DEFUSE_RUN_DIR", self.run_directory())
            .env_remove("DEFUSE_LOG")
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null());
        command
    }

    /// `-m` and its argument for the plugin `tiny`.
    pub fn mount(&self) -> String {
        format!("-m{}=tiny:", self.point().display())
    }

    /// `defuse run` of `program` with one mount.
    pub fn run(&self, program: &[&str]) -> Command {
        let mut command = self.command(&["run", &self.mount(), "--"]);
        command.args(program);
        command
    }

    /// `defuse run` of a shell script with one mount.
    pub fn run_script(&self, script: &str) -> Command {
        self.run(&["sh", "-c", script])
    }
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts that the command failed with `status`, saying `named` to standard error and nothing to standard output.
#[track_caller]
pub fn assert_refused(output: &Output, status: i32, named: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.starts_with("defuse: ") && said.contains(named), "{said}");
    assert_eq!(stdout(output), "");
}

/// Whether the file's directory has it.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
