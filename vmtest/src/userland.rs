//! Roots of other Debian releases, to compile modules whose tools need a newer C library.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::apt::Apt;
use crate::error::Error;
use crate::kernels::Userland;
use crate::lab::{Lab, check, make_whole};

const PACKAGES: &str = "gcc-14,make,pahole,sparse,libelf1t64,libssl3t64,zlib1g";

/// Whether the root is complete.
pub fn is_there(lab: &Lab, userland: Userland) -> bool {
    lab.userland(userland)
        .is_none_or(|root| ["make", "sparse"].iter().all(|tool| root.join("usr/bin").join(tool).exists()))
}

/// Make the root, if it is not there.
pub fn install(lab: &Lab, apt: &Apt, userland: Userland) -> Result<(), Error> {
    let Some(root) = lab.userland(userland).filter(|_| !is_there(lab, userland)) else { return Ok(()) };
    println!("making a root of trixie, with a compiler");
    make_whole(&root, |root| {
        let tar = root.with_extension("tar");
        let include = format!("--include={PACKAGES}");
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=apt", &include, "trixie"]).arg(&tar).arg(apt.mirror());
        check("make a root of trixie", &mut command)?;
        let mut command = Command::new("tar");
        command.args(["--extract", "--no-same-owner", "--exclude=./dev/*", "--directory"]).arg(root);
        check("unpack the root of trixie", command.arg("--file").arg(&tar))?;
        fs::remove_file(&tar).map_err(Error::io("remove", &tar))
    })
}

/// A `make` inside the root, where `kernel` appears as /kernel, `build` as /build, and /usr/src is the kernel's.
pub fn make(root: &Path, kernel: &Path, build: &Path) -> Result<Command, Error> {
    for point in ["kernel", "build", "proc"] {
        let point = root.join(point);
        fs::create_dir_all(&point).map_err(Error::io("create", &point))?;
    }
    // objtool reads /proc. The mounts are in a namespace that ends with the command.
    let script = "set -e
        mount --bind \"$2\" \"$1/kernel\"
        mount --bind \"$3\" \"$1/build\"
        mount --rbind /proc \"$1/proc\"
        mount --bind \"$2/usr/src\" \"$1/usr/src\"
        for kbuild in \"$2\"/usr/lib/linux-kbuild-*; do ln -sfn \"/kernel/usr/lib/${kbuild##*/}\" \"$1/usr/lib/${kbuild##*/}\"; done
        root=$1; shift 3
        exec chroot \"$root\" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin make \"$@\"";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "make"]);
    command.arg(root).arg(kernel).arg(build);
    Ok(command)
}
