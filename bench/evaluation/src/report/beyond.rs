//! Figures that the paper does not have, and what is only quoted.

use std::io;

use super::Page;
use super::plots::{Series, lines};
use super::table::{Table, nothing, percent, published, time, times};
use crate::interface::{Interface, Store};
use crate::numbers::Key;
use crate::paper;
use crate::plan::works;
use crate::record::Line;

/// A layer, what shows it, through what, and the floor: what it is compared with, on the plain file system.
const LAYERS: [(&str, &str, Interface, &str, &str); 6] = [
    ("entry, call that is not ours", "getppid", Interface::Defuse, "getppid", "the bare system call"),
    (
        "entry, table look-up, description",
        "lseek",
        Interface::Memory,
        "getppid",
        "a bare system call: what the kernel's own would take at least",
    ),
    (
        "the same and the plugin's call, one byte",
        "pread-1",
        Interface::Memory,
        "memcpy-1",
        "copying one byte",
    ),
    ("path resolution, one component", "stat-shallow", Interface::Memory, "stat-shallow", "tmpfs's own"),
    ("path resolution, six components", "stat-deep", Interface::Memory, "stat-deep", "tmpfs's own"),
    (
        "open and close: resolution, slot, placeholder FD",
        "open-close",
        Interface::Memory,
        "dup-close",
        "a bare dup and close",
    ),
];

const IN_MEMORY: &[&str] = &["read-128", "read-4096", "write-128", "write-4096"];

impl Page<'_> {
    pub(super) fn warm(&mut self) {
        self.heading("The same with warm caches");
        self.say(
            "Without flushing, caches as the writing left them, on tmpfs: percent of direct. FUSE reads come from the kernel's \
             page cache here. The paper has no such figures.\n",
        );
        let interfaces = self.results.interfaces("warm", Store::Tmpfs);
        let own = interfaces.iter().filter(|one| **one != Interface::Direct);
        let mut table = Table::new([""].into_iter().chain(own.clone().map(|interface| interface.title())));
        for work in self.results.present("warm", works("warm")) {
            let mut row = vec![work.to_owned()];
            row.extend(own.clone().map(|&interface| {
                percent(self.results.speed(Key::wall("warm", work, interface), Interface::Direct))
            }));
            table.row(row);
        }
        self.say(table.text());
    }

    pub(super) fn latency(&mut self) {
        self.heading("Latency of single calls");
        self.say("Warm, on tmpfs; medians over the rounds of the median call and of the calls that 1 % and 0.1 % are slower than. Reading the clock is in it (some 20 ns).\n");
        let mut table = Table::new(["", "", "p50", "p99", "p99.9"]);
        for work in ["latency-open", "latency-stat", "latency-read", "latency-write"] {
            for interface in self.results.interfaces("latency", Store::Tmpfs) {
                let value = |measure| {
                    let key = Key { measure, ..Key::wall("latency", work, interface) };
                    time(self.results.spread(key).map(|found| found.median))
                };
                let name = work.trim_start_matches("latency-");
                let name =
                    if matches!(name, "read" | "write") { format!("{name} 4 KiB") } else { name.to_owned() };
                table.row([name, interface.title().to_owned(), value("p50"), value("p99"), value("p99.9")]);
            }
        }
        self.say(table.text());
    }

    pub(super) fn threads(&mut self) -> io::Result<()> {
        self.heading("Threads");
        let interfaces = self.results.interfaces("threads", Store::Tmpfs);
        if interfaces.is_empty() {
            self.say("not measured\n");
            return Ok(());
        }
        self.say("Calls of 4 KiB a millisecond, of all threads together; `one`: all on one file, `many`: each on a file of its own.\n");
        let own = || interfaces.iter().map(|interface| interface.title());
        let mut table = Table::new(["work", "threads"].into_iter().chain(own()));
        let results = self.results;
        let rate = |work: &str, interface| {
            results.spread(Key::wall("threads", work, interface)).map(|found| 1e6 / found.median)
        };
        let counts = [1, 4, 16, 64];
        for kind in ["read-one", "read-many", "write-one", "write-many"] {
            for count in counts {
                let work = format!("threads-{kind}-{count}");
                let mut row = vec![kind.to_owned(), count.to_string()];
                row.extend(interfaces.iter().map(|&interface| {
                    rate(&work, interface).map_or_else(nothing, |rate| format!("{rate:.0}"))
                }));
                table.row(row);
            }
        }
        self.say(table.text());
        let x = counts.map(f64::from);
        for kind in ["read-many", "write-one"] {
            let of = |&interface: &Interface| Series {
                name: interface.title().into(),
                colour: interface as usize,
                values: counts.map(|count| rate(&format!("threads-{kind}-{count}"), interface)).to_vec(),
            };
            let series: Vec<Series> = interfaces.iter().map(of).collect();
            let title = format!("Calls a millisecond by threads: {kind}");
            self.plot(&format!("threads-{kind}"), &title, |path| {
                lines(path, &title, ["threads", "calls/ms"], &x, &series)
            })?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self) {
        self.heading("Start of a process");
        self.say("`/bin/true` from its start to its end, alone and in a session; what it is made of is in [startup.md](startup.md).\n");
        let mut table = Table::new(["", "alone", "in a session", "added (quartiles)"]);
        for (measure, name) in [("wall", "wall clock"), ("cpu", "processor")] {
            let key = Key { measure, ..Key::wall("start", "start of true", Interface::Defuse) };
            let Some(added) = self.results.added(key) else { continue };
            let median = |interface| self.results.spread(Key { interface, ..key }).map(|found| found.median);
            table.row([
                name.to_owned(),
                time(median(Interface::Direct)),
                time(median(Interface::Defuse)),
                format!("{:.0} us ({:.0}-{:.0})", added.median / 1e3, added.low / 1e3, added.high / 1e3),
            ]);
        }
        self.say(table.text());
    }

    pub(super) fn layers(&mut self) {
        self.heading("Layers");
        self.say(
            "What each layer takes, processor time a call, beside the least that it could take, on the plain file system in the \
             same round. Each layer's crate has a benchmark of its own (`cargo bench -p interpose`, `fdtable`, `stash`, \
             `plugin-abi`).\n",
        );
        let mut table = Table::new(["layer", "shown by", "time", "floor", "", "ratio"]);
        for (layer, work, interface, floor, what) in LAYERS {
            let key = Key { measure: "cpu", ..Key::wall("calls", work, interface) };
            let below = Key { work: floor, interface: Interface::Direct, ..key };
            let (Some(own), Some(least)) = (self.results.spread(key), self.results.spread(below)) else {
                continue;
            };
            table.row([
                layer.to_owned(),
                format!("`{work}`, {interface}"),
                format!("{:.1} ns", own.median),
                what.to_owned(),
                format!("{:.1} ns", least.median),
                format!("{:.2}", own.median / least.median),
            ]);
        }
        self.say(table.text());
        self.say("Calls that are not ours, and reads and writes of data in memory:\n");
        let mut table = Table::new([
            "",
            "direct",
            "DEFUSE, times direct",
            "DEFUSE with the memory plugin, times direct's speed",
        ]);
        for work in self.results.present("calls", &[&defuse_bench::FOREIGN, IN_MEMORY].concat()) {
            let key = |interface| Key { measure: "cpu", ..Key::wall("calls", work, interface) };
            let direct = self.results.spread(key(Interface::Direct)).map(|found| found.median);
            let ours = IN_MEMORY.contains(&work);
            table.row([
                work.to_owned(),
                time(direct),
                times(self.results.cost(key(Interface::Defuse), Interface::Direct)),
                if ours {
                    times(self.results.speed(key(Interface::Memory), Interface::Direct))
                } else {
                    nothing()
                },
            ]);
        }
        self.say(table.text());
    }

    pub(super) fn iozone(&mut self) {
        let interfaces = self.results.interfaces("iozone", Store::Tmpfs);
        if interfaces.is_empty() {
            return;
        }
        self.heading("IOzone");
        self.say("One file, records of 128 KiB, MiB/s.\n");
        let own = interfaces.iter().map(|interface| interface.title());
        let mut table = Table::new([""].into_iter().chain(own));
        for work in ["write", "rewrite", "read", "reread"] {
            let mut row = vec![work.to_owned()];
            row.extend(interfaces.iter().map(|&interface| {
                let key = Key { measure: "speed", ..Key::wall("iozone", work, interface) };
                published(self.results.spread(key).map(|found| found.median / 1024.0))
            }));
            table.row(row);
        }
        self.say(table.text());
    }

    pub(super) fn texts(&mut self) {
        let texts: Vec<(String, String)> = self
            .results
            .0
            .iter()
            .filter_map(|line| match line {
                Line::Text { title, text } => Some((title.clone(), text.clone())),
                _ => None,
            })
            .collect();
        for (title, text) in texts {
            self.heading(&title);
            self.say(format!("```text\n{text}\n```\n"));
        }
    }

    pub(super) fn elsewhere(&mut self) {
        self.heading("Of the paper, but not measured here");
        let mut table = Table::new(["what", "the paper's figures", "why not"]);
        for row in paper::ELSEWHERE {
            table.row(row.map(str::to_owned));
        }
        self.say(table.text());
        self.say("\nThe paper's Figure 7 whole, percent of direct:\n");
        let mut table =
            Table::new(["", "on", "LD_PRELOAD", "Direct-FUSE", "DEFUSE", "FUSE", "FUSE direct-io"]);
        for paper::Throughput { title, store, percent, .. } in paper::THROUGHPUT {
            let mut row = vec![title.to_owned(), store.to_owned()];
            row.extend(percent.map(|value| value.to_string()));
            table.row(row);
        }
        self.say(table.text());
    }
}
