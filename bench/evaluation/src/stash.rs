//! The paper's Figure 13: what open files add to exec.

use std::collections::HashMap;
use std::fs;
use std::io;

use crate::interface::{Interface, Store};
use crate::mounted::{Mounted, Place};
use crate::paper;
use crate::peers::said;
use crate::record::{Line, Measured, Records};

/// A program executes itself with files of the mount open and with as many plain ones, in turn. `work` of the results is the number
/// of files and whether they were `opened` since the last exec or `untouched`.
pub fn run(records: &mut Records, place: &Place, rounds: usize) -> io::Result<()> {
    let mounted = Mounted::new(place, Interface::Defuse)?;
    let plain = place.store.join("plain");
    fs::create_dir_all(&plain)?;
    for (files, _) in paper::STASH {
        let mut command = mounted.command(place.product.chain());
        command.args([&mounted.directory, &plain]).args([files.to_string(), (4 * rounds).to_string()]);
        match said(command.output(), "defuse-bench-chain") {
            Ok(text) => keep(records, files, &text)?,
            Err(reason) => {
                records.missing(Interface::Defuse.id(), &format!("exec with {files} files"), &reason)?;
            }
        }
    }
    Ok(())
}

fn keep(records: &mut Records, files: u32, text: &str) -> io::Result<()> {
    let times = times(text);
    for state in ["opened", "untouched"] {
        for (place, interface) in [("plain", Interface::Direct), ("served", Interface::Defuse)] {
            if let Some(values) = times.get(&(place, state)) {
                records.add(Line::Result(Measured {
                    section: "stash".into(),
                    store: Store::Tmpfs.id().into(),
                    work: format!("{files} {state}"),
                    interface: interface.id().into(),
                    measure: "cpu".into(),
                    values: values.clone(),
                }))?;
            }
        }
    }
    Ok(())
}

/// Of lines `served|plain opened|untouched CPU WALL`.
fn times(text: &str) -> HashMap<(&str, &str), Vec<f64>> {
    let mut times: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [place, state, cpu, _] = words[..]
            && let Ok(cpu) = cpu.parse()
        {
            times.entry((place, state)).or_default().push(cpu);
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::times;

    #[test]
    fn lines_are_sorted_by_place_and_state() {
        let found = times("served opened 5 9\nplain opened 3 9\nserved opened 7 9\nnoise\n");
        assert_eq!(found[&("served", "opened")], [5.0, 7.0]);
        assert_eq!(found[&("plain", "opened")], [3.0]);
        assert_eq!(found.len(), 2);
    }
}
