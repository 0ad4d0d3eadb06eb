//! Debian packages of other suites, without touching the machine's own package configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::lab::check;

/// Suites that the lab's kernels and userlands come from.
const SUITES: &[&str] = &["bookworm", "bookworm-backports", "trixie", "trixie-backports"];
const SECURITY_SUITES: &[&str] = &["bookworm-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a configuration and state of its own in the cache folder.
pub struct Apt {
    folder: PathBuf,
    mirror: String,
}

impl Apt {
    /// Set it up; the mirrors are those that the machine's own apt uses.
    pub fn open(cache: &Path) -> Result<Apt, Error> {
        let folder = cache.join("apt");
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part)).map_err(Error::io("create", &folder))?;
        }
        if !Path::new(KEYRING).exists() {
            return Err(Error::Missing(format!("{KEYRING} is missing: install debian-archive-keyring")));
        }
        let (mirror, security) = mirrors()?;
        let line = |uri: &str, suite: &&str| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n");
        let sources: String = SUITES
            .iter()
            .map(|suite| line(&mirror, suite))
            .chain(SECURITY_SUITES.iter().map(|suite| line(&security, suite)))
            .collect();
        let list = folder.join("sources.list");
        fs::write(&list, sources).map_err(Error::io("write", &list))?;
        Ok(Apt { folder, mirror })
    }

    /// The mirror of the main archive.
    pub fn mirror(&self) -> &str {
        &self.mirror
    }

    fn options(&self) -> Vec<String> {
        let folder = self.folder.display();
        let mut options = vec![
            format!("-oDir::Etc::sourcelist={folder}/sources.list"),
            "-oDir::Etc::sourceparts=/dev/null".to_owned(),
            "-oDir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("-oDir::State::lists={folder}/lists"),
            format!("-oDir::Cache={folder}"),
            "-oAcquire::Retries=5".to_owned(),
        ];
        if rustix::process::geteuid().is_root() {
            // Else apt warns that its own user may not write here.
            options.push("-oAPT::Sandbox::User=root".to_owned());
        }
        options
    }

    /// Fetch the indexes.
    pub fn update(&self) -> Result<(), Error> {
        check("update the package lists", Command::new("apt-get").args(self.options()).arg("update"))
            .map(drop)
    }

    /// Names of packages that begin so.
    pub fn package_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let names = check(
            "list package names",
            Command::new("apt-cache").args(self.options()).args(["pkgnames", prefix]),
        )?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Download packages and unpack them below `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<(), Error> {
        let folder = self.folder.join("debs");
        crate::lab::make_whole(&folder, |folder| {
            let attempt = format!("download {}", packages.join(" "));
            let mut command = Command::new("apt-get");
            check(&attempt, command.args(self.options()).arg("download").args(packages).current_dir(folder))?;
            for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
                let package = entry.map_err(Error::io("list", folder))?.path();
                let attempt = format!("unpack {}", package.display());
                check(&attempt, Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
            }
            Ok(())
        })?;
        // They are large, and unpacked now.
        fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))
    }
}

/// The mirrors of Debian and of Debian's security updates in the machine's own configuration.
fn mirrors() -> Result<(String, String), Error> {
    let format = "$(REPO_URI) $(CODENAME) $(COMPONENT)";
    let targets = check(
        "ask apt for its mirrors",
        Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]),
    )?;
    let variable = |name: &str| std::env::var(name).ok();
    let (mirror, security) = pick_mirrors(&targets);
    let mirror = variable("VMTEST_MIRROR").or(mirror);
    let security = variable("VMTEST_SECURITY_MIRROR").or(security);
    match (mirror, security) {
        (Some(mirror), Some(security)) => Ok((mirror, security)),
        _ => Err(Error::Missing(
            "this machine's apt knows no mirror of Debian: name them in VMTEST_MIRROR and VMTEST_SECURITY_MIRROR"
                .into(),
        )),
    }
}

fn pick_mirrors(targets: &str) -> (Option<String>, Option<String>) {
    let (mut main, mut security) = (None, None);
    for line in targets.lines() {
        let mut fields = line.split(' ');
        let (Some(uri), Some(suite), Some("main")) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if !["bookworm", "trixie"].iter().any(|name| suite.starts_with(name)) {
            continue;
        }
        let slot = if suite.ends_with("-security") { &mut security } else { &mut main };
        slot.get_or_insert_with(|| uri.to_owned());
    }
    (main, security)
}

#[cfg(test)]
mod tests {
    use super::pick_mirrors;

    #[test]
    fn mirrors_are_told_apart() {
        let targets = "http://m.invalid/other jammy main\n\
                       http://m.invalid/debian/ bookworm contrib\n\
                       http://m.invalid/debian/ bookworm main\n\
                       http://n.invalid/debian/ bookworm-updates main\n\
                       http://s.invalid/sec/ bookworm-security main\n";
        let expected =
            (Some("http://m.invalid/debian/".to_owned()), Some("http://s.invalid/sec/".to_owned()));
        assert_eq!(pick_mirrors(targets), expected);
        assert_eq!(pick_mirrors("http://m.invalid/u jammy main\n"), (None, None));
    }
}
