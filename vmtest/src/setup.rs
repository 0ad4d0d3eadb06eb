//! `vmtest setup`: fill the cache folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::apt::Apt;
use crate::error::Error;
use crate::kernels::{Kernel, Origin, Userland};
use crate::lab::{Lab, STANDS_FOR, check, make_whole};
use crate::{debug_kernel, tools, userland, virtme};

/// Get everything that these kernels need. What is there already is kept.
pub fn setup(lab: &Lab, kernels: &[&Kernel], install: bool) -> Result<(), Error> {
    if install {
        let mut packages = tools::missing_packages(kernels);
        packages.extend(tools::missing_extras());
        install_packages(&packages)?;
    }
    tools::require(kernels)?;
    virtme::install(lab)?;
    let wanted: Vec<_> = kernels.iter().filter(|kernel| !lab.has_kernel(kernel)).collect();
    let needs_trixie = kernels.iter().any(|kernel| kernel.userland == Userland::Trixie);
    if !wanted.is_empty() || needs_trixie && !userland::is_there(lab, Userland::Trixie) {
        let apt = Apt::open(lab.cache())?;
        println!("updating package lists");
        apt.update()?;
        if needs_trixie {
            userland::install(lab, &apt, Userland::Trixie)?;
        }
        for kernel in wanted {
            get_kernel(lab, &apt, kernel)?;
        }
    }
    for kernel in kernels {
        println!("{}: {} is ready", kernel.name, lab.abi(kernel)?);
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    check("update the machine's package lists", Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    check("install packages", command.env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}

fn get_kernel(lab: &Lab, apt: &Apt, kernel: &Kernel) -> Result<(), Error> {
    if let Origin::Source(source) = kernel.origin {
        return debug_kernel::make(lab, apt, kernel, source);
    }
    let abi = available_abi(apt, kernel)?;
    println!("getting kernel {abi}");
    make_whole(&lab.kernel(kernel), |root| {
        apt.unpack(&kernel.package_names(&abi), root)?;
        bring_into_shape(root, &abi)?;
        redirect_headers(&root.join(format!("usr/src/linux-headers-{abi}-amd64")), lab, kernel)?;
        let version = format!("{abi}-amd64");
        check(
            "index the modules",
            Command::new("depmod")
                .arg("-b")
                .arg(root)
                .arg(version)
                .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"),
        )?;
        fs::write(root.join(STANDS_FOR), kernel.abi).map_err(Error::io("write in", root))?;
        fs::write(root.join("abi"), &abi).map_err(Error::io("write in", root))
    })
}

/// The pinned build, or the newest of its series when the archive has dropped it.
fn available_abi(apt: &Apt, kernel: &Kernel) -> Result<String, Error> {
    let names = apt.package_names("linux-image-")?;
    if names.contains(&format!("linux-image-{}-amd64", kernel.abi)) {
        return Ok(kernel.abi.to_owned());
    }
    let newest = kernel.newest_abi(names.iter().map(String::as_str));
    let newest = newest.ok_or_else(|| {
        Error::Missing(format!("{} has no kernel like {} any more", kernel.suite, kernel.abi))
    })?;
    println!("{} is gone from {}, taking {newest}", kernel.abi, kernel.suite);
    Ok(newest.to_owned())
}

/// Kernels of trixie have their image and modules below usr; virtme-ng looks for the older layout.
fn bring_into_shape(root: &Path, abi: &str) -> Result<(), Error> {
    let modules = root.join("usr/lib/modules");
    if modules.is_dir() {
        fs::create_dir_all(root.join("lib")).map_err(Error::io("create lib in", root))?;
        fs::rename(&modules, root.join("lib/modules")).map_err(Error::io("move", &modules))?;
    }
    let image = root.join("boot").join(format!("vmlinuz-{abi}-amd64"));
    if !image.exists() {
        fs::create_dir_all(root.join("boot")).map_err(Error::io("create boot in", root))?;
        symlink(format!("../lib/modules/{abi}-amd64/vmlinuz"), &image).map_err(Error::io("link", &image))?;
    }
    Ok(())
}

/// The headers' Makefile names /usr/src: true in a userland of its own, to be rewritten for the host.
fn redirect_headers(headers: &Path, lab: &Lab, kernel: &Kernel) -> Result<(), Error> {
    if kernel.userland != Userland::Host {
        return Ok(());
    }
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(Error::io("read", &makefile))?;
    let here = lab.kernel(kernel).join("usr/src");
    let text = text.replace("/usr/src", &here.to_string_lossy());
    fs::write(&makefile, text).map_err(Error::io("write", &makefile))
}
