//! What other programs measure: the start of a process, IOzone, and the pager's own benchmark.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use defuse_bench::product::Product;
use defuse_bench::start::{Time, run};

use crate::interface::{Interface, Store};
use crate::mounted::{Mounted, Place};
use crate::peers::said;
use crate::record::{Line, Measured, Records};

/// Starts and ends `/bin/true` alone and in a session, in turn.
pub fn starts(records: &mut Records, place: &Place, rounds: usize) -> io::Result<()> {
    let mounted = Mounted::new(place, Interface::Defuse)?;
    // Its session is there as long as it lives.
    let holder = mounted.worker(1)?;
    let variable = |name: &str, value: &Path| {
        CString::new([name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat())
    };
    let preload = variable("LD_PRELOAD", &place.product.library())?;
    let session = variable("DEFUSE_SESSION", &holder.session()?)?;
    let alone: &[&CStr] = &[];
    let within: &[&CStr] = &[&preload, &session];
    let mut times: [Vec<Time>; 2] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (environment, times) in [alone, within].iter().zip(&mut times) {
            let time = run(environment)?;
            if round > 0 {
                times.push(time);
            }
        }
    }
    for (interface, times) in [Interface::Direct, Interface::Defuse].iter().zip(&times) {
        let wall: Vec<f64> = times.iter().map(|time| time.wall * 1000.0).collect();
        let cpu = times.iter().map(|time| time.cpu * 1000.0).collect();
        for (measure, values) in [("wall", wall), ("cpu", cpu)] {
            records.add(Line::Result(Measured {
                section: "start".into(),
                store: Store::Tmpfs.id().into(),
                work: "start of true".into(),
                interface: interface.id().into(),
                measure: measure.into(),
                values,
            }))?;
        }
    }
    Ok(())
}

/// IOzone's writing and reading of one file, where it is installed.
pub fn iozone(records: &mut Records, place: &Place, rounds: usize, megabytes: usize) -> io::Result<()> {
    const WORKS: [&str; 4] = ["write", "rewrite", "read", "reread"];
    if let Err(reason) = said(Command::new("iozone").arg("-v").output(), "iozone") {
        return records.missing(
            "IOzone",
            "",
            &format!("not installed ({reason}); Debian has it as iozone3, in non-free"),
        );
    }
    for interface in [Interface::Direct, Interface::Defuse, Interface::DefuseBacking, Interface::Fuse] {
        let mounted = match Mounted::new(place, interface) {
            Ok(mounted) => mounted,
            Err(error) => {
                records.missing(interface.id(), "", &error.to_string())?;
                continue;
            }
        };
        let mut speeds = [const { Vec::new() }; WORKS.len()];
        for _ in 0..rounds {
            let mut command = mounted.command("iozone");
            command.args(["-i", "0", "-i", "1", "-r", "128k", "-s", &format!("{megabytes}m"), "-f"]);
            let text = said(command.arg(mounted.directory.join("iozone")).output(), "iozone")
                .map_err(io::Error::other)?;
            let Some(row) = row(&text) else {
                return records.missing("IOzone", interface.id(), "its output is not understood");
            };
            speeds.iter_mut().zip(row).for_each(|(speeds, speed)| speeds.push(speed));
        }
        for (work, values) in WORKS.iter().zip(speeds) {
            records.add(Line::Result(Measured {
                section: "iozone".into(),
                store: Store::Tmpfs.id().into(),
                work: (*work).into(),
                interface: interface.id().into(),
                measure: "speed".into(),
                values,
            }))?;
        }
    }
    Ok(())
}

/// KiB/s of write, rewrite, read and reread, behind the sizes of file and record.
fn row(text: &str) -> Option<[f64; 4]> {
    text.lines().find_map(|line| {
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
        numbers?.get(2..6)?.try_into().ok()
    })
}

/// `cargo bench -p uffd-pager`.
pub fn pager(records: &mut Records) -> io::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--quiet", "-p", "uffd-pager"]).current_dir(Product::sources());
    match said(cargo.output(), "cargo bench -p uffd-pager") {
        Ok(text) => {
            let title = "cargo bench -p uffd-pager".into();
            records.add(Line::Text { title, text: text.trim_end().to_owned() })
        }
        Err(reason) => records.missing("uffd-pager alone", "", &reason),
    }
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn the_row_of_iozone_is_found_among_its_words() {
        let text = "\tRun began\n\n              kB  reclen    write  rewrite    read    reread\n          131072     128  2000000  3000000  4000000  5000000\n\niozone test complete.\n";
        assert_eq!(row(text), Some([2e6, 3e6, 4e6, 5e6]));
        assert_eq!(row("nothing\n"), None);
    }
}
