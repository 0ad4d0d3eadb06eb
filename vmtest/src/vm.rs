//! One virtual machine: boot it, read its report, see that it ends.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal};

use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::Lab;
use crate::report::Record;
use crate::{kmod, kvm, tools, virtme};

/// From power-on until the guest reports, under emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// From the last record until the machine is off.
const OFF_LIMIT: Duration = Duration::from_secs(60);

const KERNEL_OPTIONS: &[&str] = &[
    // An oops ends the run.
    "oops=panic",
    // Each cache of slabs counts alone.
    "slab_nomerge",
    // Use after free is found: always for descriptions, by sampling for everything else.
    "slub_debug=FZP,defuse_desc",
    // A busy host is no stall of the guest.
    "nowatchdog",
    "rcupdate.rcu_cpu_stall_suppress=1",
];
/// Samples so often that tests of the module alone, which take a second or two, meet some. It patches the kernel's text each time.
const SAMPLE_OFTEN: &str = "kfence.sample_interval=10";
/// What only slows an emulated machine down: guards against speculation that it does not do, one more level of page tables, and other addresses
/// for each process, by which QEMU takes code that it has translated for new code (most of the time of a test of whole programs).
const EMULATED: &[&str] = &["mitigations=off", "no5lvl", "norandmaps"];
/// QEMU (7.2 at least) reads the frame of an `iretq` that a program makes as the kernel's access, which SMAP forbids: an oops that no machine has.
/// The interposer goes back from a caught 32-bit call by that instruction. The module's own tests keep SMAP.
const EMULATED_CPU: &str = "--qemu-opts=-cpu max,-smap";

/// Variables that end-to-end tests read, which name files of the host.
const HANDED_ON: &[&str] = &["DEFUSE_TRIXIE_ROOT", "DEFUSE_LINUX_SOURCE"];

/// What to boot.
pub struct Machine<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Use KVM.
    pub kvm: bool,
    /// Whole programs run in it, not only tests of the module.
    pub programs: bool,
    /// Arguments of `vmtest guest`.
    pub guest: Vec<OsString>,
}

/// A machine that runs. Ended when dropped.
pub struct Vm {
    vng: Child,
    /// Holds the socket and the pid file.
    folder: PathBuf,
    log: PathBuf,
    report: Option<BufReader<UnixStream>>,
    listener: UnixListener,
}

/// What came from the guest.
pub enum Event {
    /// A record.
    Record(Record),
    /// The machine is gone.
    End,
    /// Nothing came in time.
    Silence,
}

impl Vm {
    /// Power on.
    pub fn boot(lab: &Lab, machine: &Machine<'_>) -> Result<Vm, Error> {
        let logs = lab.cache().join("logs");
        fs::create_dir_all(&logs).map_err(Error::io("create", &logs))?;
        let log = logs.join(format!("{}.log", machine.kernel.name));
        let output = File::create(&log).map_err(Error::io("create", &log))?;
        // Socket names are short, cache folders may not be.
        let folder = std::env::temp_dir().join(format!("vmtest-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let socket = folder.join("report");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(Error::io("listen on", &socket))?;

        let mut command = virtme::vng(lab);
        base_options(&mut command, lab, machine)?;
        // The kernel's log goes to the output.
        command.arg("--verbose");
        command.arg(format!(
            "--qemu-opts=-pidfile {folder}/pid -device virtio-serial -chardev socket,id=vmtest,path={folder}/report \
             -device virtserialport,chardev=vmtest,name=vmtest.report \
             -fsdev local,id=vmtest-host,path=/,security_model=none,readonly=on,multidevs=remap \
             -device virtio-9p-pci,fsdev=vmtest-host,mount_tag={tag}",
            folder = folder.display(),
            tag = crate::guest::host_files::TAG
        ));
        // By a file: the kernel's command line, by which virtme-ng hands on what to run, is short.
        let words = logs.join(format!("{}.words", machine.kernel.name));
        fs::write(&words, machine.guest.join(OsStr::new("\n")).as_encoded_bytes())
            .map_err(Error::io("write", &words))?;
        command.arg("--exec").arg(guest_command(&["from".into(), words.into()])?);
        let error_output = output.try_clone().map_err(Error::io("duplicate the FD of", &log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(error_output);
        let vng =
            command.spawn().map_err(|source| Error::Io { attempt: "start virtme-ng".into(), source })?;
        Ok(Vm { vng, folder, log, report: None, listener })
    }

    /// The kernel's log and all other output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Wait until the guest has begun to report. False if the machine ended or nothing came in time.
    pub fn wait_until_up(&mut self, limit: Option<Duration>) -> bool {
        let deadline = Instant::now() + limit.unwrap_or(BOOT_LIMIT);
        while Instant::now() < deadline {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            let second = Duration::from_secs(1).try_into().expect("a second fits");
            if rustix::event::poll(&mut fds, Some(&second)) == Ok(1) {
                // QEMU connects at power-on; the guest is up when the first record is there.
                let Ok((stream, _)) = self.listener.accept() else { return false };
                self.report = Some(BufReader::new(stream));
                return self.wait_for_data(deadline);
            }
            if !matches!(self.vng.try_wait(), Ok(None)) {
                return false;
            }
        }
        false
    }

    fn wait_for_data(&mut self, deadline: Instant) -> bool {
        let Some(report) = &mut self.report else { return false };
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        report.get_ref().set_read_timeout(Some(left)).is_ok()
            && report.fill_buf().is_ok_and(|data| !data.is_empty())
    }

    /// The next record, if one comes within the limit.
    pub fn next(&mut self, limit: Duration) -> Event {
        let Some(report) = &mut self.report else { return Event::End };
        if report.get_ref().set_read_timeout(Some(limit)).is_err() {
            return Event::End;
        }
        let mut line = Vec::new();
        match report.read_until(b'\n', &mut line) {
            Ok(0) => Event::End,
            Ok(_) => match Record::parse(String::from_utf8_lossy(&line).trim_end_matches('\n')) {
                Some(record) => Event::Record(record),
                None => Event::End,
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Event::Silence,
            Err(_) => Event::End,
        }
    }

    /// Wait until the machine has powered off by itself; false if it did not.
    pub fn wait_until_off(&mut self) -> bool {
        // QEMU closes its end when it exits.
        matches!(self.next(OFF_LIMIT), Event::End) && self.vng.wait().is_ok()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if matches!(self.vng.try_wait(), Ok(None)) {
            let pid = fs::read_to_string(self.folder.join("pid")).ok();
            let pid = pid.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            // vng ends when QEMU does; if it has not started QEMU yet, it must not.
            if pid.is_none() {
                let _ = self.vng.kill();
            }
            let _ = self.vng.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn base_options(command: &mut Command, lab: &Lab, machine: &Machine<'_>) -> Result<(), Error> {
    command.args(["--disable-microvm", "--force-9p", "--user", "root"]);
    command.args(["--memory", if machine.programs { "2G" } else { "1G" }]);
    let mut options = KERNEL_OPTIONS.to_vec();
    if !machine.programs {
        options.push(SAMPLE_OFTEN);
    }
    if !machine.kvm {
        command.arg("--disable-kvm");
        if machine.programs {
            command.arg(EMULATED_CPU);
        }
        options.extend(EMULATED);
    }
    command.arg("--cpus").arg(machine.cpus.to_string());
    command.arg("--run").arg(lab.image(machine.kernel)?);
    for option in options {
        command.arg("--append").arg(option);
    }
    command.current_dir(lab.cache());
    Ok(())
}

/// A shell command that runs this executable in the guest, which sees the host's files.
fn guest_command(arguments: &[OsString]) -> Result<String, Error> {
    let me = std::env::current_exe()
        .map_err(|source| Error::Io { attempt: "find the own executable".into(), source })?;
    let variables = HANDED_ON.iter().filter_map(|name| {
        let value = std::env::var_os(name)?;
        Some([OsStr::new(name), &value].join(OsStr::new("=")))
    });
    let words = [OsString::from("env")].into_iter().chain(variables).chain([me.into(), "guest".into()]);
    let quoted: Vec<_> = words
        .chain(arguments.iter().cloned())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    Ok(quoted.join(" "))
}

/// `vmtest shell`: a prompt on this terminal.
pub fn shell(lab: &Lab, kernel: &Kernel) -> Result<(), Error> {
    tools::require(&[kernel])?;
    let ko = kmod::build(lab, kernel, false)?;
    let kvm = kvm::works(lab, kernel)?;
    let mut command = virtme::vng(lab);
    let machine = Machine { kernel, cpus: 1, kvm, programs: true, guest: Vec::new() };
    base_options(&mut command, lab, &machine)?;
    let prepare = guest_command(&["prepare".into(), ko.into(), "/mnt".into()])?;
    let script = lab.cache().join("shell");
    fs::write(&script, format!("#!/bin/bash\n{prepare} && grep defuse /proc/mounts\nexec bash \"$@\"\n"))
        .map_err(Error::io("write", &script))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).map_err(Error::io("make executable", &script))?;
    command.arg("--shell").arg(&script);
    let status =
        command.status().map_err(|source| Error::Io { attempt: "start virtme-ng".into(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program { attempt: "run a shell in the machine".into(), status, output: String::new() })
}
