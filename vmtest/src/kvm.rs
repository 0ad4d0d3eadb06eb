//! Whether KVM works is found by trying: `/dev/kvm` may be there and boot nothing.

use std::fs;
use std::time::Duration;

use crate::error::Error;
use crate::kernels::Kernel;
use crate::lab::Lab;
use crate::vm::{Machine, Vm};

/// A kernel that boots under KVM has reported by then.
const LIMIT: Duration = Duration::from_secs(40);

/// Whether this machine boots a kernel under KVM; tried once for each boot of the machine.
pub fn works(lab: &Lab, kernel: &Kernel) -> Result<bool, Error> {
    let device = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    if rustix::fs::open("/dev/kvm", device, rustix::fs::Mode::empty()).is_err() {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let verdict = lab.cache().join("kvm");
    let known = fs::read_to_string(&verdict).unwrap_or_default();
    if let Some(word) = known.strip_prefix(boot.as_str()) {
        return Ok(word == "works");
    }
    println!("trying KVM, for at most {} s", LIMIT.as_secs());
    let machine = Machine { kernel, cpus: 1, kvm: true, programs: false, guest: vec!["hello".into()] };
    let works = Vm::boot(lab, &machine)?.wait_until_up(Some(LIMIT));
    println!("KVM {}", if works { "works" } else { "does not work here: emulating" });
    let word = if works { "works" } else { "fails" };
    fs::write(&verdict, format!("{boot}{word}")).map_err(Error::io("write", &verdict))?;
    Ok(works)
}
