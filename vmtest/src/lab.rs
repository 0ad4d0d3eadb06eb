//! The cache folder, and running programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::debug_kernel;
use crate::error::Error;
use crate::kernels::{Kernel, Origin, Userland};

/// The file that tells which build of the table a kernel was taken for.
pub const STANDS_FOR: &str = "stands-for";

/// Where the lab keeps what it got and made. Nothing in there is committed; all of it can be deleted.
pub struct Lab {
    cache: PathBuf,
    workspace: PathBuf,
}

impl Lab {
    /// Find the cache folder and make it.
    pub fn open() -> Result<Lab, Error> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf);
        let workspace = workspace.ok_or_else(|| Error::Missing("the crate lies in no workspace".into()))?;
        let cache = match std::env::var_os("VMTEST_CACHE") {
            Some(path) => PathBuf::from(path),
            None => workspace.join("target/vmtest"),
        };
        fs::create_dir_all(&cache).map_err(Error::io("create the cache folder", &cache))?;
        let cache = fs::canonicalize(&cache).map_err(Error::io("resolve the cache folder", &cache))?;
        Ok(Lab { cache, workspace })
    }

    /// The cache folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The workspace this crate belongs to.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The folder that holds one kernel: `boot`, `lib/modules` and `usr/src`.
    pub fn kernel(&self, kernel: &Kernel) -> PathBuf {
        self.cache.join("kernels").join(kernel.name)
    }

    /// Whether that folder is complete, and of what the table and the configuration say now.
    pub fn has_kernel(&self, kernel: &Kernel) -> bool {
        self.abi(kernel).is_ok()
    }

    /// Which build of the kernel is there.
    pub fn abi(&self, kernel: &Kernel) -> Result<String, Error> {
        let lacks = |what: &str| {
            Error::Missing(format!("kernel {0} is {what}: run `cargo vmtest setup -k {0}`", kernel.name))
        };
        let folder = self.kernel(kernel);
        let read = |name: &str| fs::read_to_string(folder.join(name));
        let abi = read("abi").map_err(|_| lacks("not there"))?;
        let is_wanted = match kernel.origin {
            // Where the archive has dropped the pinned build, another one stands for it.
            Origin::Packages(_) => {
                abi == kernel.abi || read(STANDS_FOR).is_ok_and(|pinned| pinned == kernel.abi)
            }
            Origin::Source(_) => {
                abi == kernel.abi && read("debug.config").is_ok_and(|made_of| made_of == debug_kernel::CONFIG)
            }
        };
        if is_wanted { Ok(abi) } else { Err(lacks(&format!("an old one, {abi}"))) }
    }

    /// The image to boot.
    pub fn image(&self, kernel: &Kernel) -> Result<PathBuf, Error> {
        Ok(self.kernel(kernel).join("boot").join(format!("vmlinuz-{}-amd64", self.abi(kernel)?)))
    }

    /// The tree that modules are compiled against, as a path below the kernel's folder.
    pub fn headers(&self, kernel: &Kernel) -> Result<String, Error> {
        Ok(match kernel.origin {
            Origin::Packages(_) => format!("usr/src/linux-headers-{}-amd64", self.abi(kernel)?),
            Origin::Source(source) => source.to_owned(),
        })
    }

    /// The root of a userland that compiles modules.
    pub fn userland(&self, userland: Userland) -> Option<PathBuf> {
        match userland {
            Userland::Host => None,
            Userland::Trixie => Some(self.cache.join("userland/trixie")),
        }
    }

    /// virtme-ng's virtual environment.
    pub fn venv(&self) -> PathBuf {
        self.cache.join("venv")
    }
}

/// Run a program to its end, quietly; if it fails, its output is in the error.
pub fn check(attempt: &str, command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| Error::Io {
        attempt: format!("{attempt}: start {}", command.get_program().to_string_lossy()),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(text.into_owned());
    }
    let all = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = all.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n");
    Err(Error::Program { attempt: attempt.to_owned(), status: output.status, output: tail })
}

/// Make a folder that is complete or absent: `fill` a new one beside it, then rename.
pub fn make_whole(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let mut part = folder.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    remove(&part)?;
    fs::create_dir_all(&part).map_err(Error::io("create", &part))?;
    fill(&part)?;
    remove(folder)?;
    fs::rename(&part, folder).map_err(Error::io("rename to", folder))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_whole_or_absent() {
        let base = std::env::temp_dir().join(format!("vmtest-lab-{}", std::process::id()));
        let folder = base.join("thing");
        let failed = make_whole(&folder, |part| {
            fs::write(part.join("half"), "x").expect("write");
            Err(Error::Missing("gone".into()))
        });
        assert!(failed.is_err() && !folder.exists());
        make_whole(&folder, |part| fs::write(part.join("whole"), "x").map_err(Error::io("write", part)))
            .expect("make it");
        assert!(folder.join("whole").exists() && !folder.join("half").exists());
        fs::remove_dir_all(base).expect("clean up");
    }

    #[test]
    fn a_kernel_that_is_not_the_pinned_one_is_noticed() {
        let base = std::env::temp_dir().join(format!("vmtest-old-{}", std::process::id()));
        let lab = Lab { cache: base.clone(), workspace: base.clone() };
        let write = |kernel: &Kernel, name: &str, text: &str| {
            fs::create_dir_all(lab.kernel(kernel)).expect("create");
            fs::write(lab.kernel(kernel).join(name), text).expect("write");
        };
        let [packaged, debug] = ["6.12", "debug"].map(|name| crate::kernels::named(name).expect("a kernel"));
        assert!(!lab.has_kernel(packaged));
        write(packaged, "abi", "6.12.9+deb12");
        let error = lab.abi(packaged).expect_err("it is an old one").to_string();
        assert!(error.contains("an old one, 6.12.9+deb12") && error.contains("setup -k 6.12"), "{error}");
        write(packaged, STANDS_FOR, "6.12.8+deb12");
        assert!(!lab.has_kernel(packaged));
        write(packaged, STANDS_FOR, packaged.abi);
        assert_eq!(lab.abi(packaged).expect("it stands for the pinned one"), "6.12.9+deb12");
        write(packaged, "abi", packaged.abi);
        assert!(lab.has_kernel(packaged));

        write(debug, "abi", debug.abi);
        write(debug, "debug.config", "CONFIG_KASAN=y\n");
        assert!(!lab.has_kernel(debug));
        write(debug, "debug.config", debug_kernel::CONFIG);
        assert!(lab.has_kernel(debug));
        fs::remove_dir_all(base).expect("clean up");
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error =
            check("try it", Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("it fails");
        let text = error.to_string();
        assert!(text.starts_with("try it: ") && text.contains("why"), "{text}");
    }
}
