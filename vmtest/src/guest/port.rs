//! The virtio-serial port to the host.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::report::Record;

/// The name that the host gives the port.
pub const NAME: &str = "vmtest.report";

/// The open port. Without one, in a guest that somebody else booted, records go to the output.
pub struct Port(File);

impl Port {
    /// Find the port by its name; there is no udev to make a link.
    pub fn open() -> io::Result<Port> {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == NAME {
                let device = PathBuf::from("/dev").join(entry.file_name());
                return Ok(Port(File::options().read(true).write(true).open(device)?));
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio port is named {NAME}")))
    }

    /// Tell the host. A host that is gone wants no tests: power off.
    pub fn send(&mut self, record: &Record) {
        if writeln!(self.0, "{record}").is_err() {
            power_off();
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// End the virtual machine now.
pub fn power_off() -> ! {
    let error = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    panic!("power off: {error:?}");
}
