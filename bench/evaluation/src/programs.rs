//! The paper's Figure 9: programs on the sources of a kernel.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::interface::{Interface, Store};
use crate::mounted::{Mounted, Place};
use crate::peers::said;
use crate::progress::Progress;
use crate::record::{Line, Measured, Records};

/// In the order in which they build on each other.
pub const WORKS: [&str; 3] = ["untar", "rsync", "make"];

/// Through what.
pub const INTERFACES: [Interface; 5] = [
    Interface::Direct,
    Interface::Defuse,
    Interface::DefuseBacking,
    Interface::DefuseModule,
    Interface::Fuse,
];

/// How much of the tree.
#[derive(Clone, Copy, PartialEq)]
pub enum Size {
    /// A tree that is made up, of so many folders.
    MadeUp(usize),
    /// What a configuration and the build of a few folders of the kernel need.
    Part,
    /// All of it, built whole.
    Whole,
}

/// Sources to work on.
pub struct Sources {
    /// Uncompressed.
    archive: PathBuf,
    /// What make is asked for, in the unpacked folder.
    make: &'static str,
    /// For the report.
    pub description: String,
}

impl Sources {
    /// In `folder`. `Err` says why the real tree cannot be had; then there is the other.
    pub fn prepare(folder: &Path, size: Size) -> io::Result<(Self, Result<(), String>)> {
        fs::create_dir_all(folder)?;
        let real = match size {
            Size::MadeUp(_) => Err("a quick run works on a tree that is made up".to_owned()),
            Size::Part | Size::Whole => kernel(folder, size == Size::Whole),
        };
        match real {
            Ok(sources) => Ok((sources, Ok(()))),
            Err(reason) => {
                let folders = if let Size::MadeUp(folders) = size { folders } else { 40 };
                Ok((made_up(folder, folders)?, Err(reason)))
            }
        }
    }

    fn script(&self, work: &str) -> String {
        let quiet = ">/dev/null 2>&1 </dev/null";
        match work {
            "untar" => {
                format!("mkdir tree && tar xf '{}' -C tree --strip-components=1", self.archive.display())
            }
            "rsync" => "rsync -a tree/ copy/".to_owned(),
            _ => format!("cd tree && {{ {}; }} {quiet}", self.make),
        }
    }
}

/// Debian's package, from `$DEFUSE_LINUX_SOURCE` or by apt.
fn kernel(folder: &Path, whole: bool) -> Result<Sources, String> {
    for program in ["flex", "bison", "bc", "gcc", "make", "rsync", "xz"] {
        said(Command::new("which").arg(program).output(), "which")
            .map_err(|_| format!("there is no {program}"))?;
    }
    let packed = match env::var_os("DEFUSE_LINUX_SOURCE") {
        Some(path) => path.into(),
        None => download(folder)?,
    };
    let archive = folder.join("linux.tar");
    let unpack = folder.join("unpacked");
    fs::create_dir_all(&unpack).map_err(|error| error.to_string())?;
    said(Command::new("tar").arg("xf").arg(&packed).arg("-C").arg(&unpack).output(), "tar")?;
    let top = fs::read_dir(&unpack).ok().and_then(|mut entries| entries.next()).and_then(Result::ok);
    let top = top.ok_or("the archive is empty")?.file_name();
    let mut tar = Command::new("tar");
    tar.arg("cf").arg(&archive).arg("-C").arg(&unpack);
    if !whole {
        // Code of what is not built; the rest of those folders is read by the configuration.
        let parts = [
            "drivers/*.[ch]",
            "sound/*.[ch]",
            "net/*.[ch]",
            "fs/*.[ch]",
            "samples/*.[ch]",
            "tools/testing/*",
            "Documentation/*.rst",
            "arch/arm*/*.[chS]",
            "arch/powerpc/*.[chS]",
            "arch/mips/*.[chS]",
            "*.dts",
            "*.dtsi",
        ];
        tar.args(parts.map(|part| format!("--exclude={}/{part}", top.to_string_lossy())));
    }
    said(tar.arg(&top).output(), "tar")?;
    let _ = fs::remove_dir_all(&unpack);
    let make = if whole {
        "make tinyconfig && make -j2"
    } else {
        "make tinyconfig && make -j2 prepare init/ kernel/time/"
    };
    let name = packed.file_name().unwrap_or_default().to_string_lossy();
    let part = if whole { "whole" } else { "the part that its build needs" };
    let description = format!("{name}, {part}; `{make}`");
    Ok(Sources { archive, make, description })
}

fn download(folder: &Path) -> Result<PathBuf, String> {
    let depends = said(Command::new("apt-cache").args(["depends", "linux-source"]).output(), "apt-cache")?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or("apt knows no linux-source (DEFUSE_LINUX_SOURCE may name its archive)")?;
    let get = Command::new("apt-get").args(["download", "-qq", package]).current_dir(folder).output();
    said(get, "apt-get")?;
    let find = |ending: &str, folder: &Path| {
        let mut entries = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
        entries.find(|path| path.to_string_lossy().ends_with(ending))
    };
    let deb = find(".deb", folder).ok_or("apt-get left no package")?;
    said(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(folder.join("package")).output(), "dpkg-deb")?;
    find(".tar.xz", &folder.join("package/usr/src")).ok_or_else(|| "the package has no archive".into())
}

/// Folders of C files that make builds.
fn made_up(folder: &Path, folders: usize) -> io::Result<Sources> {
    let top = folder.join("made-up/tree");
    let mut makefile = String::from("objects := $(patsubst %.c,%.o,$(wildcard */*.c))\nall: $(objects)\n");
    makefile.push_str("%.o: %.c common.h\n\tcc -O1 -I. -c -o $@ $<\n");
    fs::create_dir_all(&top)?;
    fs::write(top.join("Makefile"), makefile)?;
    fs::write(top.join("common.h"), "struct pair { long first, second; };\n")?;
    for directory in 0..folders {
        let directory = top.join(format!("part{directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..50 {
            let text = format!("/* {} */\nint data{file} = {file};\n", "words ".repeat(file * 7 % 200));
            fs::write(directory.join(format!("data{file}.h")), text)?;
        }
        let text = "#include <stdio.h>\n#include \"common.h\"\n#include \"data1.h\"\nlong sum(struct pair *p) { return p->first + p->second; }\n";
        fs::write(directory.join("code.c"), text)?;
    }
    let archive = folder.join("made-up.tar");
    let mut tar = Command::new("tar");
    tar.arg("cf").arg(&archive).arg("-C").arg(folder.join("made-up")).arg("tree");
    said(tar.output(), "tar").map_err(io::Error::other)?;
    let description =
        format!("a tree that was made up: {folders} folders, in each 50 headers and a C file; `make -j2`");
    Ok(Sources { archive, make: "make -j2", description })
}

/// All works through all interfaces, in turn; a round takes about `seconds`.
pub fn run(
    records: &mut Records,
    place: &Place,
    store: Store,
    sources: &Sources,
    rounds: usize,
    progress: &Progress,
    seconds: f64,
) -> io::Result<()> {
    let mut mounted = Vec::new();
    for interface in INTERFACES {
        match Mounted::new(place, interface) {
            Ok(found) => mounted.push((interface, found, [const { Vec::new() }; WORKS.len()])),
            Err(error) => records.missing(interface.id(), "", &error.to_string())?,
        }
    }
    for round in 0..rounds {
        for (at, work) in WORKS.iter().enumerate() {
            let count = mounted.len();
            for turn in 0..count {
                let (interface, mounted, times) = &mut mounted[(turn + round) % count];
                progress.say(&format!("{work} through {interface}"));
                match time(mounted, &sources.script(work)) {
                    Ok(time) => times[at].push(time),
                    Err(error) => records.missing(interface.id(), work, &error.to_string())?,
                }
            }
        }
        for (_, mounted, _) in &mounted {
            clear(mounted)?;
        }
        progress.done(seconds);
    }
    for (interface, _, times) in mounted {
        for (work, values) in WORKS.iter().zip(times).filter(|(_, values)| !values.is_empty()) {
            records.add(Line::Result(Measured {
                section: "programs".into(),
                store: store.id().into(),
                work: (*work).into(),
                interface: interface.id().into(),
                measure: "wall".into(),
                values,
            }))?;
        }
    }
    Ok(())
}

/// Nanoseconds.
fn time(mounted: &Mounted, script: &str) -> io::Result<f64> {
    let begin = Instant::now();
    let output = shell(mounted, script).stderr(Stdio::piped()).output()?;
    let time = begin.elapsed().as_nanos() as f64;
    if output.status.success() {
        return Ok(time);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", output.status, errors.lines().next().unwrap_or("no message"))))
}

fn clear(mounted: &Mounted) -> io::Result<()> {
    shell(mounted, "rm -rf tree copy").status().map(drop)
}

/// A shell in the folder. It is entered there, as a session begins outside.
fn shell(mounted: &Mounted, script: &str) -> Command {
    let mut command = mounted.command("sh");
    command.args(["-ec", &format!("cd \"$0\"; {script}")]).arg(&mounted.directory).stdin(Stdio::null());
    command
}
