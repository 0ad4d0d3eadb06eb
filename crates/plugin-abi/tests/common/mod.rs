//! Compiles the C fixtures.

#![allow(dead_code, reason = "each test file uses its part")]

use plugin_abi::{Errno, Handle, Host, Instance, MountPath, Open, Plugin, abi};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A shared library in a directory of its own.
pub struct Library {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compiles sources (paths in this crate) to a shared library.
pub fn compile(sources: &[&str], arguments: &[&str]) -> Library {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plugin.so");
    let output = Command::new("cc")
        .args([
            "-std=c11",
            "-D_GNU_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-builtin-declaration-mismatch",
            "-O1",
            "-fPIC",
            "-shared",
            "-I",
        ])
        .arg(source("include"))
        .args(arguments)
        .args(sources.iter().map(|name| source(name)))
        .arg("-o")
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Library { dir, path }
}

/// As `compile`, loaded.
pub fn load(sources: &[&str], arguments: &[&str]) -> Plugin {
    Plugin::load(&compile(sources, arguments).path).unwrap()
}

pub fn path(name: &CStr) -> &MountPath {
    MountPath::new(name).unwrap()
}

pub fn open(fs: &Instance, name: &CStr, flags: c_int) -> Result<Handle, Errno> {
    match fs.open(path(name), flags, 0o644)? {
        Open::Served { handle, .. } => Ok(handle),
        Open::Native { .. } => panic!("{name:?} was handed over"),
    }
}

pub fn names(fs: &Instance, name: &CStr) -> Result<Vec<String>, Errno> {
    let dir = open(fs, name, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut names = Vec::new();
    let answer = fs.readdir(&dir, 0, &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        false
    });
    fs.close(dir)?;
    names.sort();
    answer.map(|()| names)
}

/// A host that keeps its log.
pub struct Log {
    pub lines: &'static Mutex<Vec<String>>,
    pub host: Host,
}

impl Log {
    pub fn new() -> Self {
        let lines: &'static Mutex<Vec<String>> = Box::leak(Box::default());
        let raw = Box::leak(Box::new(abi::Host {
            size: size_of::<abi::Host>() as u32,
            reserved: 0,
            ctx: std::ptr::from_ref(lines).cast_mut().cast(),
            log: Some(keep_line),
            brief: None,
            transient: None,
            openat2: None,
        }));
        Self { lines, host: Host::new(raw) }
    }

    pub fn contains(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

unsafe extern "C" fn keep_line(ctx: *mut c_void, level: u32, text: *const c_char, len: usize) -> c_int {
    // SAFETY: `ctx` is the leaked mutex of `Log::new`, the text has `len` bytes.
    let (lines, text) =
        unsafe { (&*ctx.cast::<Mutex<Vec<String>>>(), std::slice::from_raw_parts(text.cast::<u8>(), len)) };
    lines.lock().unwrap().push(format!("{level} {}", String::from_utf8_lossy(text)));
    0
}
