//! A kernel with its checkers on, compiled from the distribution's sources.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::apt::Apt;
use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::{Lab, check, make_whole};

/// On top of `allnoconfig`: what the tests need, and the checkers.
pub const CONFIG: &str = include_str!("debug.config");

/// Compile it: minutes on an idle machine, as there is nothing in it that the tests do not need.
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
    let mut command = Command::new("make");
    command.args(["CC=gcc-12", "allnoconfig"]).env("KCONFIG_ALLCONFIG", &fragment).current_dir(&tree);
    check("configure the debug kernel", &mut command)?;
    let path = tree.join(".config");
    let made = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let refused = refused(CONFIG, &made);
    if !refused.is_empty() {
        return Err(Error::Missing(format!("{source} does not take {}", refused.join(", "))));
    }

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

/// Lines of a configuration that did not come into the one that was made of it: make drops them without a word.
fn refused<'a>(wanted: &'a str, made: &str) -> Vec<&'a str> {
    let options = wanted.lines().filter(|line| line.starts_with("CONFIG_"));
    options.filter(|option| !made.lines().any(|line| line == *option)).collect()
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn an_option_that_was_dropped_is_found() {
        let made = "CONFIG_SMP=y\n# CONFIG_KASAN is not set\n";
        assert_eq!(refused("# why\nCONFIG_SMP=y\nCONFIG_KASAN=y\n", made), ["CONFIG_KASAN=y"]);
    }
}
