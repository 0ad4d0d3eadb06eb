//! One script, run on a plain directory and on the mount.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::diff;
use crate::fixture;
use crate::leftover;
use crate::mounted::Mounted;
use crate::place::Place;
use crate::process::{self, End, LIMIT, Outcome};
use crate::product::Product;
use crate::requirement::{has_header, has_mount_namespaces, is_root, missing_program, skip};
use crate::tree;

/// Comes before each script. The environment is kept for the search for leftovers.
const PRELUDE: &str = "export -p >\"$DEFUSE_E2E_CASE/environment\"; umask 022; set -eu\n";

/// What a new session sees of the tree: names, attributes and content.
const SURVEY: &str = r#"cd "$1"
find . -printf '%P|%y|%m|%U|%G|%n|%s|%l\n' | sort
find . -type f -readable -print0 | sort -z | xargs -0 -r cksum
"#;

/// How the plugin serves the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Each read and write goes through the plugin.
    Plugin,
    /// The program gets the FD of the backend's file.
    BackingFd,
    /// As [`Serving::Plugin`], and the plugin lends no pages: files are mapped by the pager.
    Paged,
    /// As `Plugin`, but the plugin keeps no locks.
    SessionLocks,
}

impl Serving {
    /// The argument of `defuse run -m` that serves `backend` at `point`.
    pub fn mount_argument(self, point: &Path, backend: &Path) -> String {
        let options = self.options();
        let comma = if options.is_empty() { "" } else { "," };
        format!("{}=passthrough{comma}{options}:{}", point.display(), backend.display())
    }

    /// The plugin's options.
    pub fn options(self) -> &'static str {
        match self {
            Self::Plugin => "",
            Self::BackingFd => "backing-fd",
            Self::Paged => "map=pager",
            Self::SessionLocks => "locks=session",
        }
    }
}

/// A script and what it needs. See the crate's documentation for what the script sees.
#[derive(Debug, Clone)]
pub struct Case {
    script: String,
    setup: String,
    fixtures: Vec<(&'static str, &'static str, Vec<&'static str>)>,
    programs: Vec<&'static str>,
    headers: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
    needs_root: bool,
    needs_other_device: bool,
    needs_mount_namespaces: bool,
    limit: Duration,
}

/// A case that runs `text`.
pub fn script(text: impl Into<String>) -> Case {
    Case {
        script: text.into(),
        setup: String::new(),
        fixtures: vec![],
        programs: vec!["bash"],
        headers: vec![],
        environment: vec![],
        needs_root: false,
        needs_other_device: false,
        needs_mount_namespaces: false,
        limit: LIMIT,
    }
}

impl Case {
    /// A script that fills the plain directory and the backend, its working directory, before the run.
    /// It is never run on the mount.
    #[must_use]
    pub fn setup(mut self, text: &str) -> Self {
        self.setup = text.into();
        self
    }

    /// Skips the case when one of `programs` is not installed.
    #[must_use]
    pub fn needs(mut self, programs: &[&'static str]) -> Self {
        self.programs.extend(programs);
        self
    }

    /// Skips the case when the C compiler does not find a header.
    #[must_use]
    pub fn needs_header(mut self, name: &'static str) -> Self {
        self.headers.push(name);
        self
    }

    /// Skips the case when the tests do not run as root.
    #[must_use]
    pub fn needs_root(mut self) -> Self {
        self.needs_root = true;
        self
    }

    /// Skips the case when `OUT` lies on the same device as `MNT`.
    #[must_use]
    pub fn needs_other_device(mut self) -> Self {
        self.needs_other_device = true;
        self
    }

    /// Skips the case when no mount namespace can be made.
    #[must_use]
    pub fn needs_mount_namespaces(mut self) -> Self {
        self.needs_mount_namespaces = true;
        self
    }

    /// Compiles `fixtures/NAME.c` to `$FIX/NAME`.
    #[must_use]
    pub fn fixture(self, name: &'static str) -> Self {
        self.fixture_with(name, &[])
    }

    /// As [`Case::fixture`], with further compiler options.
    #[must_use]
    pub fn fixture_with(mut self, name: &'static str, options: &[&'static str]) -> Self {
        self.fixtures.push(("cc", name, options.to_vec()));
        self
    }

    /// As [`Case::fixture_with`], with another compiler, which the case needs.
    #[must_use]
    pub fn fixture_by(
        mut self,
        compiler: &'static str,
        name: &'static str,
        options: &[&'static str],
    ) -> Self {
        self.fixtures.push((compiler, name, options.to_vec()));
        self.needs(&[compiler])
    }

    /// Sets a variable of the script.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// How long one run may take before it is killed; [`LIMIT`] if not told.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the script both ways.
    ///
    /// # Panics
    ///
    /// With a report when the script fails on the plain directory, when the mount differs from it in any way, or when
    /// the session left something behind.
    #[track_caller]
    pub fn compare(&self, serving: Serving) {
        if let Some(program) = missing_program(&self.programs) {
            return skip(&format!("{program} is not installed"));
        }
        if let Some(header) = self.headers.iter().find(|name| !has_header(name)) {
            return skip(&format!("<{header}> is not installed"));
        }
        if self.needs_root && !is_root() {
            return skip("needs root");
        }
        if self.needs_mount_namespaces && !has_mount_namespaces() {
            return skip("no mount namespaces here");
        }
        let runner = Runner::from_environment();
        if matches!(runner, Runner::Defuse) {
            // What is built now is no file that a session has left.
            Product::get();
        }
        let place = Place::create().expect("make the folders of the case");
        if self.needs_other_device && !place.out_is_another_device().expect("stat the folders of the case") {
            return skip("the temporary directory is on the same device as the case");
        }
        let report = self.compare_in(&place, &runner, serving).expect("run the case");
        if report.is_empty() {
            return;
        }
        let kept = if env::var_os("DEFUSE_E2E_KEEP").is_some() {
            format!("folder kept: {}\n", place.keep().display())
        } else {
            String::new()
        };
        panic!("{serving:?}\n{report}{kept}script:\n{}", self.script);
    }

    fn compare_in(&self, place: &Place, runner: &Runner, serving: Serving) -> io::Result<String> {
        fs::write(place.root().join("script"), format!("{PRELUDE}{}", self.script))?;
        let fixtures = place.root().join("fixtures");
        fs::create_dir(&fixtures)?;
        for (compiler, name, options) in &self.fixtures {
            fixture::compile_by(compiler, name, &fixtures, options);
        }
        let script = place.root().join("script");

        self.set_up(place, &place.mnt())?;
        let plain = self.run(place, None, &["bash".as_ref(), script.as_ref()])?;
        if plain.end != End::Exit(0) {
            return Ok(format!(
                "the script fails on a plain directory, so it tests nothing: {:?}\n{}{}",
                plain.end,
                plain.stdout_text(),
                plain.stderr_text()
            ));
        }
        let mut report = leftover::processes(place.root())?;
        place.set_plain_results_aside()?;

        let mount = runner.mount(place, serving)?;
        let backend = mount.as_ref().map_or_else(|| place.mnt(), |_| place.backend());
        let since = SystemTime::now();
        self.set_up(place, &backend)?;
        let served = self.run(place, mount.as_ref(), &["bash".as_ref(), script.as_ref()])?;

        report += &diff::outcomes(&plain, &served);
        let plain_tree = tree::read(&place.plain_mnt())?;
        report += &diff::trees("backend", &plain_tree, &tree::read(&backend)?);
        report += &diff::trees("outside", &tree::read(&place.plain_out())?, &tree::read(&place.out())?);
        if plain.stdout.is_empty() && plain_tree.len() < 2 {
            report += "the script prints nothing and leaves no files: it cannot tell any difference\n";
        }
        report += &self.survey(place, mount.as_ref())?;
        report += &leftover::processes(place.root())?;
        if let Some(mount) = mount {
            // What a mount that stands hides is looked at, too.
            mount.undo()?;
            let environment = fs::read(place.root().join("environment"))?;
            report += &leftover::files(place, &String::from_utf8_lossy(&environment), since)?;
        }
        Ok(report)
    }

    fn set_up(&self, place: &Place, dir: &Path) -> io::Result<()> {
        let text = format!("umask 022; set -eu; cd \"$1\"\n{}", self.setup);
        let outcome =
            self.run(place, None, &["bash".as_ref(), "-c".as_ref(), text.as_ref(), "setup".as_ref(), dir])?;
        assert_eq!(outcome.end, End::Exit(0), "set up the case: {}", outcome.stderr_text());
        Ok(())
    }

    /// Lets a new session look at the tree.
    fn survey(&self, place: &Place, mount: Option<&Mounted>) -> io::Result<String> {
        let survey = |mount, dir: &Path| {
            let command: [&Path; 5] =
                ["bash".as_ref(), "-c".as_ref(), SURVEY.as_ref(), "survey".as_ref(), dir];
            self.run(place, mount, &command)
        };
        let differences = diff::outcomes(&survey(None, &place.plain_mnt())?, &survey(mount, &place.mnt())?);
        Ok(if differences.is_empty() {
            differences
        } else {
            format!("as a new session sees it:\n{differences}")
        })
    }

    /// Runs `command`, under `defuse run` when there is a mount.
    fn run(&self, place: &Place, mount: Option<&Mounted>, command: &[&Path]) -> io::Result<Outcome> {
        let mut run = match mount {
            Some(mount) => {
                let mut run = Command::new(Product::get().defuse());
                run.arg("run").args(mount.arguments()).arg("--").arg(command[0]);
                run
            }
            None => Command::new(command[0]),
        };
        run.args(&command[1..]).current_dir(place.root());
        set_environment(&mut run, place);
        run.envs(self.environment.iter().map(|(name, value)| (name, value)));
        process::run(&mut run, place.root(), self.limit)
    }
}

/// Gives `command` the environment that all scripts see, and nothing else.
///
/// # Panics
///
/// When a directory of `PATH` cannot stand in a `PATH`.
pub fn set_environment(command: &mut Command, place: &Place) {
    command.env_clear();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(python_dir().into_iter().cloned().chain(env::split_paths(&path)));
    command
        .env("PATH", path.expect("PATH was split at the colons"))
        .env("MNT", place.mnt())
        .env("OUT", place.out())
        .env("FIX", place.root().join("fixtures"))
        .env("HOME", place.home())
        .env("TMPDIR", place.tmp())
        .env("DEFUSE_RUN_DIR", place.run_dir())
        .env(leftover::MARKER, place.root())
        .envs([("LC_ALL", "C"), ("TZ", "UTC"), ("TERM", "dumb"), ("USER", "tester")]);
    for name in ["DEFUSE_LOG", "DEFUSE_LINUX_SOURCE"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// The folder of the real interpreter: where `python3` is a version manager's shell script, that script would be tested
/// again and again instead of Python.
fn python_dir() -> Option<&'static PathBuf> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let output =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Path::new(text.trim_end()).parent().map(Path::to_path_buf)
    };
    DIR.get_or_init(find).as_ref()
}

enum Runner {
    Defuse,
    Plain,
}

impl Runner {
    fn from_environment() -> Self {
        match env::var("DEFUSE_E2E_RUNNER").as_deref() {
            Err(_) | Ok("defuse") => Self::Defuse,
            Ok("plain") => Self::Plain,
            Ok(other) => panic!("DEFUSE_E2E_RUNNER is {other:?}: `defuse` and `plain` are known"),
        }
    }

    fn mount(&self, place: &Place, serving: Serving) -> io::Result<Option<Mounted>> {
        match self {
            Self::Defuse => Mounted::make(place, serving).map(Some),
            Self::Plain => Ok(None),
        }
    }
}
