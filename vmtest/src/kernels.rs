//! The pinned kernels. apt verifies what it downloads against its signed index.

/// One kernel of the lab, from Debian's archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `-k` calls it.
    pub name: &'static str,
    /// The part of the package names that tells the version, as `uname -r` shows it without `-amd64`.
    pub abi: &'static str,
    /// Where that part ends in digits that grow: other builds of this series begin so and end so.
    pub series: (&'static str, &'static str),
    /// The suite that has it.
    pub suite: &'static str,
    /// How it comes to be.
    pub origin: Origin,
    /// Whose compiler and C library build modules for it.
    pub userland: Userland,
}

/// How a kernel comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From linux-image, linux-headers and these packages; `{}` stands for the abi.
    Packages(&'static [&'static str]),
    /// Compiled, with its checkers on, from this package of sources.
    Source(&'static str),
}

/// Where a module is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Userland {
    /// On this machine.
    Host,
    /// In a root of Debian trixie, that is changed into.
    Trixie,
}

/// All of them, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "6.1",
        abi: "6.1.0-56",
        series: ("6.1.0-", ""),
        suite: "bookworm-security",
        origin: Origin::Packages(&["linux-kbuild-6.1"]),
        userland: Userland::Host,
    },
    Kernel {
        name: "6.12",
        abi: "6.12.117+deb12",
        series: ("6.12.", "+deb12"),
        suite: "bookworm-backports",
        origin: Origin::Packages(&["linux-kbuild-{}"]),
        userland: Userland::Host,
    },
    Kernel {
        name: "7.3",
        abi: "7.3.4+deb13",
        series: ("7.3.", "+deb13"),
        suite: "trixie-backports",
        origin: Origin::Packages(&[
            "linux-kbuild-{}",
            "linux-binary-{}-amd64",
            "linux-modules-{}-amd64",
            "linux-base-{}-amd64",
        ]),
        userland: Userland::Trixie,
    },
    // KASAN, lockdep, kmemleak: up to an hour of compiling, so only when it is named.
    Kernel {
        name: "debug",
        abi: "6.12",
        series: ("6.12", ""),
        suite: "bookworm-backports",
        origin: Origin::Source("linux-source-6.12"),
        userland: Userland::Host,
    },
];

/// Kernels that `run` boots when none is named.
pub const DEFAULT: &[&str] = &["6.1", "6.12"];

/// Those that a distribution compiled.
pub fn distributed() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| matches!(kernel.origin, Origin::Packages(_)))
}

/// The kernel of this name.
pub fn named(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

impl Kernel {
    /// The packages to unpack, for the build `abi`.
    pub fn package_names(&self, abi: &str) -> Vec<String> {
        let more = match self.origin {
            Origin::Packages(more) => more,
            Origin::Source(source) => return vec![source.to_owned()],
        };
        let own = [
            format!("linux-image-{abi}-amd64"),
            format!("linux-headers-{abi}-amd64"),
            format!("linux-headers-{abi}-common"),
        ];
        own.into_iter().chain(more.iter().map(|name| name.replace("{}", abi))).collect()
    }

    /// How much longer a test may take than on a distribution's kernel.
    pub fn slowness(&self) -> u32 {
        match self.origin {
            Origin::Packages(_) => 1,
            Origin::Source(_) => 10,
        }
    }

    /// How many CPUs its machine has unless it is said: the debug kernel's checkers watch several, and the tests leave nobody to wait for.
    pub fn cpus(&self) -> u32 {
        match self.origin {
            Origin::Packages(_) => 1,
            Origin::Source(_) => 2,
        }
    }

    /// The newest build of this series among package names, for when the pinned one has left the archive.
    pub fn newest_abi<'a>(&self, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let number = |abi: &str| -> Option<u32> {
            abi.strip_prefix(self.series.0)?.strip_suffix(self.series.1)?.parse().ok()
        };
        packages
            .filter_map(|name| name.strip_prefix("linux-image-")?.strip_suffix("-amd64"))
            .filter(|abi| number(abi).is_some())
            .max_by_key(|abi| number(abi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_defaults_are_in_the_table() {
        assert!(DEFAULT.iter().all(|name| named(name).is_some()));
        for kernel in KERNELS {
            assert_eq!(named(kernel.name), Some(kernel));
            assert!(kernel.abi.starts_with(kernel.series.0) && kernel.abi.ends_with(kernel.series.1));
        }
    }

    #[test]
    fn the_newest_build_of_a_series_is_found_by_number() {
        let packages = [
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.117+deb13-amd64",
            "linux-image-6.12.200+deb12-rt-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-headers-6.1.0-57-amd64",
            "linux-image-6.12-amd64",
        ];
        let newest = |name| named(name).expect("a kernel").newest_abi(packages.into_iter());
        assert_eq!(newest("6.12"), Some("6.12.117+deb12"));
        assert_eq!(newest("6.1"), Some("6.1.0-56"));
        assert_eq!(newest("7.3"), None);
    }

    #[test]
    fn package_names_follow_the_build() {
        let kernel = named("6.12").expect("6.12");
        let names = kernel.package_names("6.12.9+deb12");
        assert!(names.contains(&"linux-kbuild-6.12.9+deb12".to_owned()));
        assert!(names.contains(&"linux-headers-6.12.9+deb12-common".to_owned()));
    }
}
