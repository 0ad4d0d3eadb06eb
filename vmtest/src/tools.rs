//! What the machine must have, and which packages have it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::kernels::{Kernel, Origin, Userland};

/// A program, or a file, that the lab needs.
struct Tool {
    /// A program's name, or an absolute path.
    name: &'static str,
    package: &'static str,
    /// What it is for.
    purpose: &'static str,
}

const ALWAYS: &[Tool] = &[
    Tool { name: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "the virtual machine" },
    Tool { name: "/usr/share/seabios/bios.bin", package: "seabios", purpose: "the machine's firmware" },
    Tool { name: "busybox", package: "busybox-static", purpose: "the initramfs" },
    Tool { name: "cpio", package: "cpio", purpose: "the initramfs" },
    Tool { name: "depmod", package: "kmod", purpose: "the modules' index" },
    Tool { name: "make", package: "make", purpose: "the module's build" },
    Tool { name: "apt-get", package: "apt", purpose: "the kernels" },
    Tool { name: "dpkg-deb", package: "dpkg", purpose: "the kernels" },
    Tool { name: "python3", package: "python3-venv", purpose: "virtme-ng" },
];

const FOR_HOST_BUILDS: &[Tool] = &[
    Tool { name: "gcc-12", package: "gcc-12", purpose: "modules for kernels of bookworm" },
    Tool { name: "pahole", package: "pahole", purpose: "modules with BTF" },
];

const FOR_TRIXIE_BUILDS: &[Tool] = &[
    Tool { name: "mmdebstrap", package: "mmdebstrap", purpose: "a root that compiles modules for 7.x" },
    Tool { name: "unshare", package: "util-linux", purpose: "/proc in that root" },
];

const FOR_SOURCES: &[Tool] = &[
    Tool { name: "flex", package: "flex", purpose: "the debug kernel" },
    Tool { name: "bison", package: "bison", purpose: "the debug kernel" },
    Tool { name: "bc", package: "bc", purpose: "the debug kernel" },
    Tool { name: "xz", package: "xz-utils", purpose: "the debug kernel" },
    Tool { name: "/usr/include/gelf.h", package: "libelf-dev", purpose: "the debug kernel" },
    Tool { name: "/usr/include/openssl/ssl.h", package: "libssl-dev", purpose: "the debug kernel" },
];

const FOR_CHECKS: &[Tool] = &[Tool { name: "sparse", package: "sparse", purpose: "vmtest build --check" }];

/// Packages to install before these kernels can be used: empty when all is there.
pub fn missing_packages(kernels: &[&Kernel]) -> Vec<&'static str> {
    let mut tools: Vec<_> = ALWAYS.iter().collect();
    let some = |wanted: fn(&Kernel) -> bool| kernels.iter().any(|kernel| wanted(kernel));
    if some(|kernel| kernel.userland == Userland::Host) {
        tools.extend(FOR_HOST_BUILDS);
    }
    if some(|kernel| kernel.userland == Userland::Trixie) {
        tools.extend(FOR_TRIXIE_BUILDS);
    }
    if some(|kernel| matches!(kernel.origin, Origin::Source(_))) {
        tools.extend(FOR_SOURCES);
    }
    let mut packages: Vec<_> =
        tools.into_iter().filter(|tool| !is_there(tool.name)).map(|tool| tool.package).collect();
    if is_there("python3") && !has_venv() {
        packages.push("python3-venv");
    }
    packages.dedup();
    packages
}

/// Packages that serve where they can be had: nothing but `build --check` needs them.
pub fn missing_extras() -> Vec<&'static str> {
    FOR_CHECKS.iter().filter(|tool| !is_there(tool.name)).map(|tool| tool.package).collect()
}

/// Fail, with what to type, when something is missing.
pub fn require(kernels: &[&Kernel]) -> Result<(), Error> {
    let packages = missing_packages(kernels);
    if packages.is_empty() {
        return Ok(());
    }
    let reasons: Vec<_> = [ALWAYS, FOR_HOST_BUILDS, FOR_TRIXIE_BUILDS, FOR_SOURCES]
        .into_iter()
        .flatten()
        .filter(|tool| packages.contains(&tool.package))
        .map(|tool| format!("  {} ({}), for {}", tool.name, tool.package, tool.purpose))
        .collect();
    Err(Error::Missing(format!(
        "the machine lacks\n{}\ninstall them with `cargo vmtest setup --install`, or as root\n  apt-get install {}",
        reasons.join("\n"),
        packages.join(" ")
    )))
}

/// Fail when sparse is missing.
pub fn require_sparse() -> Result<(), Error> {
    match FOR_CHECKS.iter().find(|tool| !is_there(tool.name)) {
        None => Ok(()),
        Some(tool) => {
            Err(Error::Missing(format!("{} needs {}: install {}", tool.purpose, tool.name, tool.package)))
        }
    }
}

fn is_there(name: &str) -> bool {
    if name.starts_with('/') {
        return Path::new(name).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's PATH may lack the folders of depmod.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

fn has_venv() -> bool {
    Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_files_are_looked_for() {
        assert!(is_there("sh") && is_there("/proc/self"));
        assert!(!is_there("no-such-program-at-all") && !is_there("/no/such/file"));
    }
}
