//! The guest's own kernel log, to tell which test made the kernel complain.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::kernel_log;

/// A reader of `/dev/kmsg`, from where the log ended when it was made.
pub struct Kmsg(File);

impl Kmsg {
    /// From now on.
    pub fn from_now() -> io::Result<Kmsg> {
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Kmsg(file))
    }

    /// What was logged since the last call, if there is an alarm in it.
    pub fn alarms(&mut self) -> Option<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(n) => lines.push(message(&record[..n])),
                // Records were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        lines.iter().any(|line| kernel_log::is_alarm(line)).then(|| lines.join("\n"))
    }
}

/// The text of a record `priority,sequence,time,flags;text\n key=value...`.
fn message(record: &[u8]) -> String {
    let text = String::from_utf8_lossy(record);
    let text = text.split_once(';').map_or(&*text, |(_, text)| text);
    text.lines().next().unwrap_or_default().to_owned()
}

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// Whether this kernel looks for memory that nothing points to.
pub fn has_leak_checker() -> bool {
    Path::new(KMEMLEAK).exists()
}

/// What the module lost. To be asked before it is unloaded, as the report names functions.
pub fn leaks() -> Option<String> {
    // The checker does not report memory younger than five seconds.
    for _ in 0..2 {
        thread::sleep(Duration::from_secs(6));
        fs::write(KMEMLEAK, "scan").expect("scan for leaks as root");
    }
    let report = fs::read_to_string(KMEMLEAK).expect("read the leak report");
    report.contains("defuse").then_some(report)
}
