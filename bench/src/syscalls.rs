//! Counts the system calls that served reads and writes make, with strace(1).

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::report::{Line, Report, Target};
use crate::startup::exactly;
use defuse_bench::product::Product;

/// More calls than a piece of work makes besides those it is about: start, end, and the log of nothing.
const AROUND: f64 = 2000.0;

/// Reads and writes of the memory plugin's files, counted by the kernel.
pub fn count(report: &mut Report, product: &Product, base: &Path) -> io::Result<()> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("  skipped: there is no strace");
        return Ok(());
    }
    let base = base.join("counted");
    let point = base.join("mount");
    for directory in [&base, &point] {
        std::fs::create_dir(directory)?;
    }
    let counts = base.join("counts");
    let mut mount = point.clone().into_os_string();
    mount.push("=");
    mount.push(product.plugin("memory"));
    mount.push(":");
    for work in ["read-128", "read-4096", "write-128", "write-4096"] {
        let mut child = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-o"])
            .arg(&counts)
            .arg(product.defuse())
            .args(["run".as_ref(), "-m".as_ref(), mount.as_os_str(), "--".as_ref()])
            .arg(product.workload())
            .args([&point, Path::new("/dev/null")])
            .env("DEFUSE_RUN_DIR", &base)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        if let Some(mut commands) = child.stdin.take() {
            writeln!(commands, "{work}")?;
        }
        if !child.wait()?.success() {
            println!("  skipped: strace may not trace here");
            return Ok(());
        }
        let text = std::fs::read_to_string(&counts)?;
        let total = text.lines().rev().find_map(|line| {
            let mut words = line.split_whitespace();
            let calls = words.next()?.parse::<f64>().ok()?;
            words.next().filter(|name| *name == "total").map(|_| calls)
        });
        let value = exactly(total.ok_or_else(|| io::Error::other("strace gave no total"))?);
        let target = Target::AtMost(AROUND);
        report.line(&Line {
            work,
            mode: "system calls",
            value,
            unit: "",
            judged: value,
            judged_wall: None,
            target,
        })?;
    }
    Ok(())
}
