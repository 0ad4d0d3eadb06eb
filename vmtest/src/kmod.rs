//! Compiling the module, from a copy of its sources for each kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::{Lab, check};
use crate::{tools, userland};

/// Compile it; warnings are errors. `sparse`: and have sparse look at it. Returns the module's file.
pub fn build(lab: &Lab, kernel: &Kernel, sparse: bool) -> Result<PathBuf, Error> {
    tools::require(&[kernel])?;
    if sparse {
        tools::require_sparse()?;
    }
    let headers = lab.headers(kernel)?;
    let build = lab.cache().join("build").join(kernel.name);
    fs::create_dir_all(&build).map_err(Error::io("create", &build))?;
    copy_sources(&lab.workspace().join("kmod"), &build)?;

    let mut command = match lab.userland(kernel.userland) {
        None => {
            let mut command = Command::new("make");
            command.arg("-C").arg(&build).arg(format!("KDIR={}/{headers}", lab.kernel(kernel).display()));
            command
        }
        Some(root) => {
            let mut command = userland::make(&root, &lab.kernel(kernel), &build)?;
            command.args(["-C", "/build", &format!("KDIR=/{headers}")]);
            command
        }
    };
    command.arg("KCFLAGS=-Werror");
    if sparse {
        // A checked file is checked when it is compiled.
        command.args(["C=2", "CF=-Wsparse-error"]);
    }
    check(&format!("compile the module for {}", kernel.name), &mut command)?;
    Ok(build.join("defuse.ko"))
}

/// Copy what changed, so that make compiles what changed.
fn copy_sources(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let source = entry.map_err(Error::io("list", from))?.path();
        let name = source.file_name().unwrap_or_default();
        let wanted = matches!(source.extension().and_then(|end| end.to_str()), Some("c" | "h"))
            || name == "Makefile"
            || name == "Kbuild";
        if !wanted || name.to_string_lossy().ends_with(".mod.c") {
            continue;
        }
        let text = fs::read(&source).map_err(Error::io("read", &source))?;
        let target = to.join(name);
        if fs::read(&target).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&target, text).map_err(Error::io("write", &target))?;
    }
    Ok(())
}
