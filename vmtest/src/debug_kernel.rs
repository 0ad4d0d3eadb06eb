//! A kernel with its checkers on, compiled from the distribution's sources.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::apt::Apt;
use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::{Lab, check, make_whole};
use crate::virtme;

/// On top of virtme-ng's configuration: checkers on, what the tests need in, what takes long to compile out.
const CONFIG: &str = include_str!("debug.config");

/// Compile it: from a quarter of an hour to more than one.
pub fn make(lab: &Lab, apt: &Apt, kernel: &Kernel, source: &str) -> Result<(), Error> {
    let root = lab.kernel(kernel);
    // A tree knows its own path, so it is made where it stays; `abi` is written when it is whole.
    make_whole(&root, |root| {
        println!("getting {source}");
        apt.unpack(&[source.to_owned()], root)?;
        let archive = root.join(format!("usr/src/{source}.tar.xz"));
        check("unpack the kernel's sources", Command::new("tar").arg("-xf").arg(&archive).current_dir(root))?;
        fs::remove_file(&archive).map_err(Error::io("remove", &archive))
    })?;
    let tree = root.join(source);
    let fragment = root.join("debug.config");
    fs::write(&fragment, CONFIG).map_err(Error::io("write", &fragment))?;
    let mut command = virtme::vng(lab);
    command.args(["--kconfig", "--config"]).arg(&fragment).current_dir(&tree);
    check("configure the debug kernel", &mut command)?;

    println!("compiling {source}");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("nice");
    command.args(["-n", "10", "make", "CC=gcc-12", "bzImage", "modules_prepare"]);
    check("compile the debug kernel", command.arg(format!("-j{jobs}")).current_dir(&tree))?;

    // Without modules of its own there is no Module.symvers: these are the kernel's exports.
    let exports = tree.join("Module.symvers");
    if !exports.exists() {
        let from = tree.join("vmlinux.symvers");
        fs::copy(&from, &exports).map_err(Error::io("copy", &from))?;
    }
    let boot = root.join("boot");
    fs::create_dir_all(&boot).map_err(Error::io("create", &boot))?;
    let image = boot.join(format!("vmlinuz-{}-amd64", kernel.abi));
    symlink(tree.join("arch/x86/boot/bzImage"), &image).map_err(Error::io("link", &image))?;
    fs::write(root.join("abi"), kernel.abi).map_err(Error::io("write in", &root))
}
