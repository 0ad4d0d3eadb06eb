//! What open files add to exec.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::report::{Line, Report, Target};
use defuse_bench::product::Product;
use defuse_bench::statistics::spread;

/// Open files.
const FILES: [u64; 6] = [1, 10, 100, 1000, 2000, 4000];

/// A program executes itself with files of the mount open and with as many plain ones, in turn: the whole way from before
/// execve to `main` of the next image, in processor time.
pub fn measure(report: &mut Report, product: &Product, base: &Path, rounds: usize) -> io::Result<()> {
    let base = base.join("exec");
    let (point, backend, plain) = (base.join("mount"), base.join("backend"), base.join("plain"));
    for directory in [&base, &point, &backend, &plain] {
        std::fs::create_dir(directory)?;
    }
    let mut mount = point.clone().into_os_string();
    mount.push("=");
    mount.push(product.plugin("passthrough"));
    mount.push(":");
    mount.push(&backend);
    for files in FILES {
        let output = Command::new(product.defuse())
            .env("DEFUSE_RUN_DIR", &base)
            .args(["run".as_ref(), "-m".as_ref(), mount.as_os_str(), "--".as_ref()])
            .arg(product.chain())
            .args([&point, &plain])
            .args([files.to_string(), (4 * rounds).to_string()])
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let mut times: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [place, state, cpu, _] = words[..] {
                let cpu: f64 = cpu.parse().map_err(io::Error::other)?;
                times.entry((place, state)).or_default().push(cpu / 1000.0);
            }
        }
        for state in ["opened", "untouched"] {
            let (served, plain) = (&times[&("served", state)], &times[&("plain", state)]);
            let added = spread(served.iter().zip(plain).map(|(served, plain)| served - plain));
            let work = format!("{files} files");
            report.line(&Line {
                work: &work,
                mode: state,
                value: spread(served.iter().copied()),
                unit: "us",
                judged: added,
                judged_wall: None,
                // The paper's cost, in microseconds.
                target: Target::AtMost(3.7 + 0.004 * files as f64),
            })?;
        }
    }
    Ok(())
}
