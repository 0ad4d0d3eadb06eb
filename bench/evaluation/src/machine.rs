//! What it was measured on.

use std::fs;
use std::process::Command;

use crate::peers::{Peers, said};

/// Names and values.
pub fn describe(peers: &Peers) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut add = |name: &str, value: String| found.push((name.to_owned(), value));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    add("processor", format!("{} ({processors} usable)", processor()));
    add("memory", format!("{:.0} GiB", memory_gib()));
    add("kernel", first_line("uname", &["-srv"]));
    add("distribution", distribution());
    add("C library", first_line("ldd", &["--version"]));
    add("compiler", first_line("rustc", &["--version"]));
    add("C compiler", first_line("cc", &["--version"]));
    add("libfuse", peers.libfuse.clone().unwrap_or_else(|| "not installed".into()));
    add("source", first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]));
    add("load before the run", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned());
    add("date", first_line("date", &["-u", "+%F"]));
    found
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    match said(Command::new(program).args(arguments).output(), program) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(_) => "unknown".into(),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown".into(), |(_, name)| name.to_owned())
}

fn memory_gib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    total.unwrap_or(0.0) / f64::from(1 << 20)
}

fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("unknown".into(), |name| name.trim_matches('"').to_owned())
}
