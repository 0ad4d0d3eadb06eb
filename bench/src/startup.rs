//! What is added to the start of a process.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::report::{Line, Report, Target};
use defuse_bench::product::Product;
use defuse_bench::start::{Time, run};
use defuse_bench::statistics::{Spread, spread};

/// Starts `/bin/true` again and again: alone, with the library that finds no session, and in `session`.
pub fn measure(report: &mut Report, product: &Product, session: &Path, starts: usize) -> io::Result<()> {
    let variable =
        |name: &str, value: &OsStr| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    let preload = variable("LD_PRELOAD", product.library().as_os_str())?;
    let session = variable("DEFUSE_SESSION", session.as_os_str())?;
    let modes: [(&str, &[&CStr]); 3] =
        [("direct", &[]), ("library alone", &[&preload]), ("in a session", &[&preload, &session])];
    let mut times = [const { Vec::new() }; 3];
    for start in 0..=starts {
        for ((_, environment), times) in modes.iter().zip(&mut times) {
            let time = run(environment)?;
            if start > 0 {
                times.push(time);
            }
        }
    }
    for ((mode, _), own) in modes.iter().zip(&times) {
        let added = |time: fn(&Time) -> f64| {
            spread(own.iter().zip(&times[0]).map(|(own, direct)| time(own) - time(direct)))
        };
        // Processor time: start-up waits for nothing, and on a busy machine the wall clock tells more of the others.
        let judged = added(|time| time.cpu);
        report.line(&Line {
            work: "start of true",
            mode,
            value: spread(own.iter().map(|time| time.cpu)),
            unit: "us",
            judged,
            judged_wall: None,
            target: if *mode == "in a session" { Target::AtMost(500.0) } else { Target::None },
        })?;
        let value = spread(own.iter().map(|time| time.wall));
        let mode = format!("{mode}, wall");
        let judged = added(|time| time.wall);
        report.line(&Line {
            work: "",
            mode: &mode,
            value,
            unit: "us",
            judged,
            judged_wall: None,
            target: Target::None,
        })?;
    }
    Ok(())
}

/// The parts of a start in a session, as the log tells them.
pub fn parts(report: &mut Report, product: &Product, base: &Path, starts: usize) -> io::Result<()> {
    let base = base.join("parts");
    let (point, backend) = (base.join("mount"), base.join("backend"));
    for directory in [&base, &point, &backend] {
        std::fs::create_dir(directory)?;
    }
    let mut mount = point.into_os_string();
    mount.push("=");
    mount.push(product.plugin("passthrough"));
    mount.push(":");
    mount.push(&backend);
    let output = Command::new(product.defuse())
        .env("DEFUSE_RUN_DIR", &base)
        .env("DEFUSE_LOG", "debug")
        .args(["run".as_ref(), "-m".as_ref(), mount.as_os_str()])
        .args([
            "--",
            "/bin/sh",
            "-c",
            &format!("i=0; while [ $i -lt {starts} ]; do /bin/true; i=$((i+1)); done"),
        ])
        .stdin(Stdio::null())
        .output()?;
    let mut parts: Vec<(String, Vec<f64>)> = Vec::new();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        let Some((_, part)) = line.split_once(" start: ") else { continue };
        let mut words = part.split(' ');
        let (Some(name), Some(Ok(time))) = (words.next(), words.next().map(str::parse::<f64>)) else {
            continue;
        };
        let known = parts.iter().position(|(known, _)| known == name);
        let at = known.unwrap_or_else(|| {
            parts.push((name.into(), Vec::new()));
            parts.len() - 1
        });
        parts[at].1.push(time / 1000.0);
    }
    for (name, times) in &parts {
        let value = spread(times.iter().copied());
        report.line(&Line {
            work: "part of a start",
            mode: name,
            value,
            unit: "us",
            judged: value,
            judged_wall: None,
            target: Target::None,
        })?;
    }
    Ok(())
}

/// Quartiles of nothing but one number.
pub fn exactly(value: f64) -> Spread {
    Spread { low: value, median: value, high: value }
}
