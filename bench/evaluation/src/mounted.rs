//! A folder behind an interface, and how programs get there.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use defuse_bench::product::Product;
use defuse_bench::worker::Worker;

use crate::enclosure::{mount, unmount};
use crate::interface::Interface;
use crate::peers::Peers;

/// What is needed to get anything mounted.
pub struct Place<'a> {
    /// What is measured.
    pub product: &'a Product,
    /// What it is measured beside.
    pub peers: &'a Peers,
    /// Why nothing can be mounted, if so.
    pub mounts: &'a Result<(), String>,
    /// A file that is on no mount.
    pub foreign: &'a Path,
    /// The folder for mount points and sessions.
    pub scratch: &'a Path,
    /// The folder on the store.
    pub store: &'a Path,
}

/// A folder behind an interface. When it is dropped all that is there is gone.
pub struct Mounted {
    /// The folder.
    pub directory: PathBuf,
    /// Command that runs another in a session.
    prefix: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    run: PathBuf,
    backend: PathBuf,
    workload: PathBuf,
    foreign: PathBuf,
    server: Option<Server>,
}

impl Mounted {
    /// An error says why that cannot be had here.
    pub fn new(place: &Place, interface: Interface) -> io::Result<Self> {
        let base = place.scratch.join(interface.id());
        let (point, run) = (base.join("mount"), base.join("run"));
        let backend = place.store.join(format!("data-{}", interface.id()));
        let mut new = Self {
            directory: point.clone(),
            prefix: Vec::new(),
            variables: Vec::new(),
            run,
            backend,
            workload: place.product.workload(),
            foreign: place.foreign.to_path_buf(),
            server: None,
        };
        for directory in [&base, &point, &new.run, &new.backend] {
            fs::create_dir_all(directory)?;
        }
        new.attach(place, interface)?;
        Ok(new)
    }

    fn attach(&mut self, place: &Place, interface: Interface) -> io::Result<()> {
        let product = place.product;
        match interface {
            Interface::Direct => self.directory.clone_from(&self.backend),
            Interface::Defuse => self.session(product, "passthrough", ""),
            Interface::DefuseBacking => self.session(product, "passthrough", ",backing-fd"),
            Interface::DefusePager => self.session(product, "passthrough", ",map=pager"),
            Interface::Memory => self.session(product, "memory", ""),
            Interface::DefuseModule => {
                place.peers.module.clone().map_err(io::Error::other)?;
                place.mounts.clone().map_err(io::Error::other)?;
                self.mount_by_module(product)?;
            }
            Interface::Preload => {
                let library = place.peers.preload.clone().map_err(io::Error::other)?;
                self.variables = vec![
                    ("LD_PRELOAD", library.into()),
                    ("NAIVE_POINT", self.directory.clone().into()),
                    ("NAIVE_LIBRARY", product.plugin("passthrough").into()),
                    ("NAIVE_BACKEND", self.backend.clone().into()),
                ];
            }
            Interface::Fuse => self.serve(place, "kept")?,
            Interface::FuseWriteback => self.serve(place, "written-back")?,
            Interface::FuseDirectIo => self.serve(place, "none")?,
            Interface::FusePassthrough => self.serve(place, "passthrough")?,
            Interface::FuseUring => return Err(io::Error::other(place.peers.uring.clone())),
            Interface::LibfuseLl => self.example(place, place.peers.passthrough_ll.as_ref())?,
            Interface::LibfuseFh => self.example(place, place.peers.passthrough_fh.as_ref())?,
            Interface::LibfuseHp => self.example(place, place.peers.passthrough_hp.as_ref())?,
        }
        Ok(())
    }

    fn session(&mut self, product: &Product, plugin: &str, options: &str) {
        let mut mount: OsString = self.directory.clone().into();
        mount.push("=");
        mount.push(product.plugin(plugin));
        mount.push(options);
        mount.push(":");
        if plugin == "passthrough" {
            mount.push(&self.backend);
        }
        self.prefix = vec![product.defuse().into(), "run".into(), "-m".into(), mount, "--".into()];
    }

    /// `mount -t defuse`, as the module's README says.
    fn mount_by_module(&mut self, product: &Product) -> io::Result<()> {
        let mut options = OsString::from("backend=");
        options.push(&self.backend);
        options.push(",library=");
        options.push(product.plugin("passthrough"));
        let options = CString::new(options.into_vec())?;
        mount(Some(c"defuse"), &self.directory, Some(c"defuse"), 0, &options)?;
        self.server = Some(Server { child: None, point: self.directory.clone() });
        self.prefix = vec![product.defuse().into(), "run".into(), "--".into()];
        Ok(())
    }

    fn serve(&mut self, place: &Place, cache: &str) -> io::Result<()> {
        place.mounts.clone().map_err(io::Error::other)?;
        place.peers.device.clone().map_err(io::Error::other)?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let child = Command::new(place.product.fuse_server())
            .args(["--cache", cache, "--threads", &threads.to_string()])
            .arg(place.product.plugin("passthrough"))
            .args([&self.backend, &self.directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut server = Server { child: Some(child), point: self.directory.clone() };
        let mut line = String::new();
        if let Some(out) = server.child.as_mut().and_then(|child| child.stdout.take()) {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.trim() != "mounted" {
            return Err(io::Error::other(server.last_words()));
        }
        self.server = Some(server);
        Ok(())
    }

    /// libfuse's examples go to the background as soon as they have mounted.
    fn example(&mut self, place: &Place, program: Result<&PathBuf, &String>) -> io::Result<()> {
        let program = program.map_err(|reason| io::Error::other(reason.clone()))?;
        place.mounts.clone().map_err(io::Error::other)?;
        place.peers.device.clone().map_err(io::Error::other)?;
        let mut options = OsString::from(if program.ends_with("passthrough_ll") {
            "source="
        } else {
            "modules=subdir,subdir="
        });
        options.push(&self.backend);
        let mut command = Command::new(program);
        if program.ends_with("passthrough_hp") {
            command.args([&self.backend, &self.directory]);
        } else {
            command.arg("-o").arg(options).arg(&self.directory);
        }
        // Its output would stay open in the background.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        let above = fs::metadata(self.directory.join(".."))?.dev();
        self.server = Some(Server { child: None, point: self.directory.clone() });
        if !status.success() || fs::metadata(&self.directory)?.dev() == above {
            return Err(io::Error::other(format!("{} did not mount ({status})", program.display())));
        }
        Ok(())
    }

    /// A command that works there.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        let mut words = self.prefix.iter().cloned().chain([program.into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("DEFUSE_RUN_DIR", &self.run)
            .env_remove("DEFUSE_LOG");
        command
    }

    /// The workload program.
    pub fn worker(&self, divisor: usize) -> io::Result<Worker> {
        let mut command = self.command(&self.workload);
        command.arg(&self.directory).arg(&self.foreign).arg(divisor.to_string());
        Worker::start(&mut command, &self.run)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.server = None;
        let _ = fs::remove_dir_all(&self.backend);
    }
}

/// Something mounted, and the process behind it.
struct Server {
    child: Option<Child>,
    point: PathBuf,
}

impl Server {
    fn last_words(&mut self) -> String {
        let Some(mut child) = self.child.take() else { return String::new() };
        drop(child.stdin.take());
        let words = child.stderr.take().map(io::read_to_string);
        let _ = child.wait();
        words.and_then(Result::ok).map_or_else(|| "did not mount".into(), |words| words.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        unmount(&self.point);
        if let Some(mut child) = self.child.take() {
            // The end of its input is the end of the program.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
