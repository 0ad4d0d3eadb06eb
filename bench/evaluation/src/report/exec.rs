//! Open files through exec, and through fork and exec.

use std::io;

use defuse_bench::statistics::Spread;

use super::Page;
use super::plots::{Series, lines};
use super::table::{Table, nothing, time};
use crate::interface::Interface;
use crate::numbers::Key;
use crate::paper;

impl Page<'_> {
    pub(super) fn stash(&mut self) -> io::Result<()> {
        self.heading("Descriptors through exec (Figure 13)");
        let results = self.results;
        let added = |files: u32, state: &str| {
            let work = format!("{files} {state}");
            let key = Key { measure: "cpu", ..Key::wall("stash", &work, Interface::Defuse) };
            results.added(key)
        };
        let of = |state: &str| -> Vec<Option<f64>> {
            let median = |files| added(files, state).map(|found| found.median / 1e3);
            paper::STASH.iter().map(|(files, _)| median(*files)).collect()
        };
        let (opened, untouched) = (of("opened"), of("untouched"));
        if opened.iter().all(Option::is_none) {
            self.say("not measured\n");
        } else {
            self.say(
                "Microseconds of processor time that open files of the mount add to an exec, from before it to the next program's \
                 `main`, over as many plain ones in the same session. `opened`: opened since the last exec; `untouched`: inherited \
                 and handed on. The paper's figures are those of its stash in the child.\n",
            );
            let mut table =
                Table::new(["FDs", "opened (quartiles)", "untouched (quartiles)", "paper", "paper's fit"]);
            for (files, published) in &paper::STASH {
                let cell = |state: &str| {
                    added(*files, state).map_or_else(nothing, |Spread { low, median, high }| {
                        format!("{:.1} ({:.1} to {:.1})", median / 1e3, low / 1e3, high / 1e3)
                    })
                };
                table.row([
                    files.to_string(),
                    cell("opened"),
                    cell("untouched"),
                    published.to_string(),
                    format!("{:.1}", 3.7 + 0.004 * f64::from(*files)),
                ]);
            }
            self.say(table.text());
            let x: Vec<f64> = paper::STASH.iter().map(|(files, _)| f64::from(*files)).collect();
            let line =
                |name: &str, colour, values: Vec<Option<f64>>| Series { name: name.into(), colour, values };
            let published = paper::STASH.iter().map(|(_, time)| Some(*time)).collect();
            let series = [
                line("opened", 1, opened),
                line("untouched", 4, untouched),
                line("the paper, in the child", 6, published),
            ];
            let title = "Microseconds by inherited FDs";
            self.plot("stash", title, |path| lines(path, title, ["FDs", "us"], &x, &series))?;
        }
        self.spawn();
        Ok(())
    }

    fn spawn(&mut self) {
        let mut table = Table::new(["FDs", "direct", "DEFUSE", "DEFUSE, backing FD"]);
        for (work, name) in [
            ("exec-1", "1"),
            ("exec-1000", "1,000"),
            ("exec-4000", "4,000"),
            ("exec-first-1", "1, first"),
            ("exec-first-1000", "1,000, first"),
            ("exec-first-4000", "4,000, first"),
        ] {
            let median = |interface| {
                self.results.spread(Key::wall("spawn", work, interface)).map(|found| found.median)
            };
            let all = [Interface::Direct, Interface::Defuse, Interface::DefuseBacking].map(median);
            if all.iter().any(Option::is_some) {
                let [direct, defuse, backing] = all.map(time);
                table.row([name.to_owned(), direct, defuse, backing]);
            }
        }
        let text = table.text();
        if !text.is_empty() {
            self.say(
                "\nFrom the start to the end of `/bin/true`, started (posix_spawn) by a program that has so many files open: with \
                 what has to be done before a process is made. `first` is the first start since they were opened.\n",
            );
            self.say(text);
        }
    }
}
