//! A workload process, alone or in a session, that does pieces of work when asked.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::product::Product;

/// What one piece of work took.
#[derive(Clone, Copy)]
pub struct Sample {
    /// System calls, or files.
    pub calls: u64,
    /// Nanoseconds on the wall clock.
    pub wall: f64,
    /// Nanoseconds of processor time, the kernel's included.
    pub cpu: f64,
    /// Voluntary context switches.
    pub waits: i64,
    /// Nanoseconds of the median call, and of those that 1 % and 0.1 % are slower than, where single calls were timed.
    pub percentiles: Option<[f64; 3]>,
}

/// The process. Ends when dropped, and its session with it.
pub struct Worker {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    run_directory: PathBuf,
}

impl Worker {
    /// A plain process that works in `directory`.
    pub fn direct(product: &Product, base: &Path, foreign: &Path) -> io::Result<Self> {
        let directory = base.join("direct");
        fs::create_dir(&directory)?;
        let mut command = Command::new(product.workload());
        Self::start(command.arg(&directory).arg(foreign), base)
    }

    /// A process in a session of its own, that works on a mount of `plugin` with `options`; `name` names its folders below `base`.
    pub fn in_session(
        product: &Product,
        base: &Path,
        foreign: &Path,
        name: &str,
        plugin: &str,
        options: &str,
    ) -> io::Result<Self> {
        let base = base.join(name);
        let (point, backend) = (base.join("mount"), base.join("backend"));
        for directory in [&base, &point, &backend, &base.join("run")] {
            fs::create_dir(directory)?;
        }
        let mut mount: OsString = point.clone().into();
        mount.push("=");
        mount.push(product.plugin(plugin));
        mount.push(options);
        mount.push(":");
        if plugin == "passthrough" {
            mount.push(&backend);
        }
        let mut command = Command::new(product.defuse());
        command.arg("run").arg("-m").arg(mount).arg("--").arg(product.workload()).arg(point).arg(foreign);
        Self::start(&mut command, &base.join("run"))
    }

    /// Runs `command`, which is the workload program or leads to it, with sessions below `run_directory`.
    pub fn start(command: &mut Command, run_directory: &Path) -> io::Result<Self> {
        let mut child = command
            .env("DEFUSE_RUN_DIR", run_directory)
            .env_remove("DEFUSE_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut worker = Self {
            child,
            commands,
            answers: BufReader::new(answers),
            run_directory: run_directory.to_path_buf(),
        };
        worker.work("nothing")?;
        Ok(worker)
    }

    /// Does the piece of work called `name`. `Unsupported`: that cannot be done there; the worker can go on.
    pub fn work(&mut self, name: &str) -> io::Result<Sample> {
        let commands = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(commands, "{name}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if let Some(reason) = line.strip_prefix("! ") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason.trim().to_owned()));
        }
        let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse::<u64>).collect();
        match numbers.as_deref() {
            Ok(&[calls, wall, cpu, waits, ref percentiles @ ..]) => Ok(Sample {
                calls,
                wall: wall as f64,
                cpu: cpu as f64,
                waits: waits as i64,
                percentiles: percentiles.try_into().ok().map(|times: [u64; 3]| times.map(|time| time as f64)),
            }),
            _ => Err(io::Error::other(format!("the workload failed at {name}"))),
        }
    }

    /// The folder of the session, for as long as this lives.
    pub fn session(&self) -> io::Result<PathBuf> {
        let mut entries = fs::read_dir(&self.run_directory)?;
        entries.next().ok_or(io::ErrorKind::NotFound)?.map(|entry| entry.path())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is the end of the program.
        self.commands = None;
        let _ = self.child.wait();
    }
}
