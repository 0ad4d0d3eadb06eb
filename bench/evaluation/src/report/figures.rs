//! The figures that the paper has, too.

use std::io;

use super::Page;
use super::plots::{Bars, Panel, Series, bars};
use super::table::{Table, nothing, percent, published, time, times};
use crate::interface::{Interface, Store};
use crate::numbers::Key;
use crate::paper;
use crate::plan::{self, MAPPED};

const METADATA: [&str; 7] = ["create", "access", "chmod", "stat", "readdir", "rename", "unlink"];
const PROGRAMS: [&str; 3] = ["untar", "rsync", "make"];

impl Page<'_> {
    pub(super) fn throughput(&mut self) -> io::Result<()> {
        self.heading("Throughput (Figures 1 and 7)");
        self.say(
            "Percent of direct's throughput in the same round: median (quartiles), and the paper's beside it. Files are flushed \
             after each write, and the kernel's caches are cleared before each read, as in the paper's section 6.1; so FUSE \
             reads come from its server. `small` is 4,096 files of 128 B, `large` one of 128 MB, `mixed` 2,048 of 64 B to 128 kB.\n",
        );
        for store in Store::ALL {
            let interfaces = self.results.interfaces("throughput", store);
            let works = self.results.present("throughput", plan::works("throughput"));
            if interfaces.is_empty() {
                continue;
            }
            let own: Vec<Interface> =
                interfaces.iter().copied().filter(|one| *one != Interface::Direct).collect();
            self.say(format!("\n### On {}\n", store.id()));
            let mut head = vec![String::new()];
            for interface in &own {
                head.push(interface.title().into());
                if paper::COLUMNS.iter().any(|(known, _)| known == interface) {
                    head.push("paper".into());
                }
            }
            let mut table = Table::new(head);
            let speed = |work: &str, interface| {
                let key = Key { store, ..Key::wall("throughput", work, interface) };
                self.results.speed(key, Interface::Direct)
            };
            for work in &works {
                let mut row = vec![(*work).to_owned()];
                for &interface in &own {
                    row.push(percent(speed(work, interface)));
                    if paper::COLUMNS.iter().any(|(known, _)| *known == interface) {
                        row.push(published(paper::throughput(work, store, interface)));
                    }
                }
                table.row(row);
            }
            let categories: Vec<String> = works.iter().map(|work| (*work).to_owned()).collect();
            let series = |shown: &[Interface], value: &dyn Fn(&str, Interface) -> Option<f64>| {
                let one = |&interface: &Interface| Series {
                    name: interface.title().into(),
                    colour: interface as usize,
                    values: works.iter().map(|work| value(work, interface)).collect(),
                };
                shown.iter().map(one).collect::<Vec<_>>()
            };
            let here =
                series(&own, &|work, interface| speed(work, interface).map(|found| found.median * 100.0));
            let theirs = series(&paper::COLUMNS.map(|(interface, _)| interface), &|work, interface| {
                paper::throughput(work, store, interface)
            });
            let title = format!("Throughput on {}", store.id());
            let panel =
                |title: &str, series| Panel { title: title.into(), categories: categories.clone(), series };
            let plot = Bars {
                title: &title,
                unit: "% of direct",
                panels: vec![panel("here", here), panel("the paper", theirs)],
            };
            self.say(table.text());
            self.plot(&format!("throughput-{}", store.id()), &title, |path| bars(path, &plot))?;
        }
        Ok(())
    }

    pub(super) fn waits(&mut self) {
        self.heading("Waits (Figures 2 and 8)");
        self.say("Voluntary context switches of the program on tmpfs, median; the paper's as its text rounds them.\n");
        let interfaces = self.results.interfaces("throughput", Store::Tmpfs);
        let mut head = vec![String::new()];
        head.extend(interfaces.iter().map(|interface| interface.title().to_owned()));
        head.extend(["paper: direct, DEFUSE".to_owned(), "paper: FUSE".to_owned()]);
        let mut table = Table::new(head);
        for (work, defuse, fuse) in paper::WAITS {
            if self.results.present("throughput", &[work]).is_empty() {
                continue;
            }
            let mut row = vec![work.to_owned()];
            row.extend(interfaces.iter().map(|&interface| {
                let key = Key { measure: "waits", ..Key::wall("throughput", work, interface) };
                self.results.spread(key).map_or_else(nothing, |found| format!("{:.0}", found.median))
            }));
            row.extend([format!("about {defuse:.0}"), format!("{fuse:.0}")]);
            table.row(row);
        }
        self.say(table.text());
    }

    pub(super) fn costs(&mut self) -> io::Result<()> {
        self.heading("Programs (Figure 9) and metadata (Figure 10)");
        self.say(
            "Time over direct's in the same round: median (quartiles), and the paper's. The paper's Figure 9 is on ext4, its \
             files are Linux 4.15; those used here and what is built of them are named under \"Sources of the programs\". Metadata: \
             10,000 empty files in one directory.\n",
        );
        for store in Store::ALL {
            for (section, works) in [("programs", &PROGRAMS[..]), ("metadata", &METADATA[..])] {
                let interfaces = self.results.interfaces(section, store);
                let works = self.results.present(section, works);
                if interfaces.is_empty() || works.is_empty() {
                    continue;
                }
                self.say(format!("\n### {section} on {}\n", store.id()));
                let text = self.cost_table(section, store, &interfaces, &works);
                self.say(text);
                let cost = |work: &str, interface| {
                    let key = Key { store, ..Key::wall(section, work, interface) };
                    self.results.cost(key, Interface::Direct).map(|found| found.median)
                };
                let shown = |theirs: bool| {
                    let of =
                        |&interface: &Interface| Series {
                            name: interface.title().into(),
                            colour: interface as usize,
                            values: works
                                .iter()
                                .map(|work| {
                                    if theirs { paper::cost(work, interface) } else { cost(work, interface) }
                                })
                                .collect(),
                        };
                    let own = interfaces.iter().filter(|one| **one != Interface::Direct);
                    own.map(of).filter(|one| one.values.iter().any(Option::is_some)).collect::<Vec<_>>()
                };
                let panel = |title: &str, series| Panel {
                    title: title.into(),
                    categories: works.iter().map(|work| (*work).to_owned()).collect(),
                    series,
                };
                let title = format!("Time of {section} on {}", store.id());
                let plot = Bars {
                    title: &title,
                    unit: "times direct",
                    panels: vec![panel("here", shown(false)), panel("the paper", shown(true))],
                };
                self.plot(&format!("{section}-{}", store.id()), &title, |path| bars(path, &plot))?;
            }
        }
        Ok(())
    }

    fn cost_table(&self, section: &str, store: Store, interfaces: &[Interface], works: &[&str]) -> String {
        let mut head = vec![String::new()];
        for interface in interfaces {
            head.push(interface.title().into());
            if matches!(interface, Interface::Defuse | Interface::Fuse) {
                head.push("paper".into());
            }
        }
        let mut table = Table::new(head);
        for work in works {
            let mut row = vec![(*work).to_owned()];
            for &interface in interfaces {
                let key = Key { store, ..Key::wall(section, work, interface) };
                if interface == Interface::Direct {
                    row.push(time(self.results.spread(key).map(|found| found.median)));
                } else {
                    row.push(times(self.results.cost(key, Interface::Direct)));
                }
                if matches!(interface, Interface::Defuse | Interface::Fuse) {
                    row.push(published(paper::cost(work, interface)));
                }
            }
            table.row(row);
        }
        table.text()
    }

    pub(super) fn mapped(&mut self) -> io::Result<()> {
        self.heading("Mapped files (Figure 14)");
        let interfaces = self.results.interfaces("mapped", Store::Tmpfs);
        if interfaces.is_empty() {
            self.say("not measured\n");
            return Ok(());
        }
        self.say(
            "1.25 million random accesses to a mapped file of 128 MB: seconds, and times direct's. `map-scan` copies all of it once, \
             `map-write-again` stores to pages that were stored to just before; before the others caches are cleared (what lies on \
             tmpfs stays). The passthrough plugin lends its descriptor, so its mappings are the kernel's own; told not to lend \
             (`map=pager`), its files are what the pager in user space serves.\n",
        );
        for store in Store::ALL {
            let titles = MAPPED.iter().flat_map(|work| [*work, "x direct"]);
            let mut table = Table::new(std::iter::once(store.id()).chain(titles));
            for &interface in &interfaces {
                let mut row = vec![interface.title().to_owned()];
                for work in MAPPED {
                    let key = Key { store, ..Key::wall("mapped", work, interface) };
                    // Values are per access.
                    row.push(
                        self.results
                            .spread(key)
                            .map_or_else(nothing, |found| format!("{:.3}", found.median * 1.25e6 / 1e9)),
                    );
                    row.push(times(self.results.cost(key, Interface::Direct)));
                }
                table.row(row);
            }
            self.say(table.text());
        }
        let mut table = Table::new(["", "map-read", "x direct", "map-write", "x direct"]);
        for (at, name) in ["paper: direct", "paper: DEFUSE", "paper: FUSE"].into_iter().enumerate() {
            let mut row = vec![name.to_owned()];
            for (_, seconds) in paper::MAPPED {
                row.extend([format!("{}", seconds[at]), format!("{:.2}", seconds[at] / seconds[0])]);
            }
            table.row(row);
        }
        self.say(table.text());
        let works = ["map-read", "map-write"];
        let here = interfaces.iter().map(|&interface| Series {
            name: interface.title().into(),
            colour: interface as usize,
            values: works
                .map(|work| {
                    let cost = self.results.cost(Key::wall("mapped", work, interface), Interface::Direct);
                    cost.map(|found| found.median)
                })
                .to_vec(),
        });
        let theirs = [Interface::Direct, Interface::Defuse, Interface::Fuse].into_iter().enumerate();
        let theirs = theirs.map(|(at, interface)| Series {
            name: interface.title().into(),
            colour: interface as usize,
            values: paper::MAPPED.iter().map(|(_, seconds)| Some(seconds[at] / seconds[0])).collect(),
        });
        let panel = |title: &str, series| Panel {
            title: title.into(),
            categories: works.map(str::to_owned).to_vec(),
            series,
        };
        let title = "Random accesses to a mapped file";
        let panels = vec![panel("here", here.collect()), panel("the paper", theirs.collect())];
        self.plot("mapped", title, |path| bars(path, &Bars { title, unit: "times direct", panels }))
    }
}
