//! `defuse` run freely, for tests that have no plain directory to compare with.

use std::cell::RefCell;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::SystemTime;

use crate::case::{Serving, set_environment};
use crate::fixture;
use crate::leftover;
use crate::mounted::Mounted;
use crate::place::Place;
use crate::process::{self, LIMIT, Outcome};
use crate::product::Product;
use crate::requirement::skip;

/// The folders of a case, with `defuse` to run on them.
#[derive(Debug)]
pub struct Session {
    /// Where everything lies.
    pub place: Place,
    /// The mount of [`Session::script`].
    mounted: RefCell<Option<Mounted>>,
    since: SystemTime,
}

impl Session {
    /// Fresh folders; none, with a `skipped:` line, when `DEFUSE_E2E_RUNNER` says that `defuse` is not to be run.
    ///
    /// # Panics
    ///
    /// When the folders cannot be made or the product not built.
    pub fn new() -> Option<Self> {
        if env::var("DEFUSE_E2E_RUNNER").as_deref() == Ok("plain") {
            skip("DEFUSE_E2E_RUNNER=plain: this test is about defuse itself");
            return None;
        }
        Product::get();
        let place = Place::create().expect("make the folders of the case");
        fs::create_dir(place.root().join("fixtures")).expect("make the folder of the fixtures");
        Some(Self { place, mounted: RefCell::new(None), since: SystemTime::now() })
    }

    /// Compiles a fixture to `$FIX/NAME`.
    #[must_use]
    pub fn fixture(self, name: &str, options: &[&str]) -> Self {
        self.fixture_by("cc", name, options)
    }

    /// As [`Session::fixture`], with another compiler.
    #[must_use]
    pub fn fixture_by(self, compiler: &str, name: &str, options: &[&str]) -> Self {
        fixture::compile_by(compiler, name, &self.place.root().join("fixtures"), options);
        self
    }

    /// `defuse ARGUMENTS...`, to be started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(Product::get().defuse());
        command.args(arguments).current_dir(self.place.root());
        set_environment(&mut command, &self.place);
        command.env("BACKEND", self.place.backend());
        command
    }

    /// Runs `defuse ARGUMENTS...`.
    ///
    /// # Panics
    ///
    /// When it cannot be started or its output not be read.
    pub fn defuse<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        self.finish(&mut self.command(arguments))
    }

    /// Runs a command that [`Session::command`] made.
    ///
    /// # Panics
    ///
    /// When it cannot be started or its output not be read.
    pub fn finish(&self, command: &mut Command) -> Outcome {
        process::run(command, self.place.root(), LIMIT).expect("run defuse")
    }

    /// Runs a bash script on the mount. The script also sees `BACKEND`.
    ///
    /// # Panics
    ///
    /// When the mount cannot be made.
    pub fn script(&self, serving: Serving, text: &str) -> Outcome {
        drop(self.mounted.take());
        let mount = Mounted::make(&self.place, serving).expect("make the mount");
        let mut arguments = vec!["run".to_owned()];
        arguments.extend_from_slice(mount.arguments());
        self.mounted.replace(Some(mount));
        let text = format!("export -p >\"$DEFUSE_E2E_CASE/environment\"; umask 022\n{text}");
        self.defuse(arguments.iter().map(String::as_str).chain(["--", "bash", "-c", &text]))
    }

    /// Fails when the session left a process or a file.
    ///
    /// # Panics
    ///
    /// With the list of what is left.
    pub fn assert_nothing_left(&self) {
        let environment = fs::read(self.place.root().join("environment")).unwrap_or_default();
        let mut report = leftover::processes(self.place.root()).expect("look for processes");
        if let Some(mount) = self.mounted.take() {
            mount.undo().expect("unmount");
        }
        report += &leftover::files(&self.place, &String::from_utf8_lossy(&environment), self.since)
            .expect("look for files");
        assert!(report.is_empty(), "{report}");
    }
}

/// Runs a script twice on a mount of `plugin`, with a directory of the kernel's and the mount as `$1`: what it says must be the same.
///
/// # Panics
///
/// With what differs.
pub fn same_beside_the_mount(session: &Session, plugin: &str, script: &str) {
    let (root, mnt) = (session.place.root().display().to_string(), session.place.mnt().display().to_string());
    let script = format!(
        r#"FIX={root}/fixtures; say() {{ {script}
        }}; cd /; (say "$1") >"{root}/plain" 2>&1; (say "$2") >"{root}/served" 2>&1; diff "{root}/plain" "{root}/served" && test -s "{root}/plain""#
    );
    let (mount, out) = (format!("{mnt}={plugin}"), session.place.out().display().to_string());
    let outcome = session.defuse(["run", "-m", &mount, "--", "bash", "-c", &script, "bash", &out, &mnt]);
    assert_eq!((outcome.stdout_text(), outcome.stderr_text()), (String::new(), String::new()));
    assert_eq!(outcome.end, process::End::Exit(0));
    session.assert_nothing_left();
}
