//! virtme-ng, in a Python environment of its own.

use std::process::Command;

use crate::error::Error;
use crate::lab::{Lab, check, make_whole};

/// The version that the lab was tried with.
const VERSION: &str = "1.42";

/// Install it, if this version is not there.
pub fn install(lab: &Lab) -> Result<(), Error> {
    if is_there(lab) {
        return Ok(());
    }
    println!("installing virtme-ng {VERSION}");
    // Environments know their own path, so this one is made where it stays.
    let venv = lab.venv();
    check("make a Python environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let requirement = format!("virtme-ng=={VERSION}");
    check(
        "install virtme-ng",
        Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "-q", &requirement]),
    )?;
    make_whole(&venv.join("complete"), |_| Ok(()))?;
    Ok(())
}

/// Whether this version is there, complete.
pub fn is_there(lab: &Lab) -> bool {
    let venv = lab.venv();
    venv.join("complete").is_dir()
        && check("ask for virtme-ng's version", Command::new(venv.join("bin/vng")).arg("--version"))
            .is_ok_and(|text| text.contains(VERSION))
}

/// A command that runs `vng`, at low priority.
pub fn vng(lab: &Lab) -> Command {
    let venv = lab.venv();
    let mut path = venv.join("bin").into_os_string();
    for more in [std::env::var_os("PATH").unwrap_or_default(), "/usr/sbin:/sbin".into()] {
        path.push(":");
        path.push(more);
    }
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).arg(venv.join("bin/vng")).env("PATH", path);
    command
}
