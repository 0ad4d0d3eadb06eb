//! Figures out of records: what the report, the targets and the comparison of two runs look at.

use defuse_bench::statistics::{Spread, spread};

use crate::interface::{Interface, Store};
use crate::record::{Line, Measured};

/// The results of a run.
#[derive(Clone, Copy)]
pub struct Results<'a>(pub &'a [Line]);

/// Which figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Key<'a> {
    /// `Section::id`, `programs`, `start`, `iozone`.
    pub section: &'a str,
    /// Below.
    pub store: Store,
    /// What was done.
    pub work: &'a str,
    /// Through what.
    pub interface: Interface,
    /// `Measured::measure`.
    pub measure: &'a str,
}

impl<'a> Key<'a> {
    /// By the wall clock, on tmpfs.
    pub fn wall(section: &'a str, work: &'a str, interface: Interface) -> Self {
        Self { section, store: Store::Tmpfs, work, interface, measure: "wall" }
    }
}

impl<'a> Results<'a> {
    /// All measured figures.
    pub fn measured(self) -> impl Iterator<Item = &'a Measured> {
        self.0.iter().filter_map(|line| match line {
            Line::Result(measured) => Some(measured),
            _ => None,
        })
    }

    /// The values of each round.
    pub fn values(self, key: Key) -> Option<&'a [f64]> {
        let found = self.measured().find(|line| {
            line.section == key.section
                && line.store == key.store.id()
                && line.work == key.work
                && line.interface == key.interface.id()
                && line.measure == key.measure
        })?;
        Some(&found.values)
    }

    /// Median and quartiles.
    pub fn spread(self, key: Key) -> Option<Spread> {
        self.values(key).filter(|values| !values.is_empty()).map(|values| spread(values.iter().copied()))
    }

    /// What it took, over what `base` took in the same round.
    pub fn cost(self, key: Key, base: Interface) -> Option<Spread> {
        let own = self.values(key)?;
        let base = self.values(Key { interface: base, ..key })?;
        ratios(own, base)
    }

    /// How much of `base`'s speed is reached in the same round: 1 is all of it.
    pub fn speed(self, key: Key, base: Interface) -> Option<Spread> {
        let own = self.values(key)?;
        let base = self.values(Key { interface: base, ..key })?;
        ratios(base, own)
    }

    /// What it took more than direct in the same round.
    pub fn added(self, key: Key) -> Option<Spread> {
        let own = self.values(key)?;
        let direct = self.values(Key { interface: Interface::Direct, ..key })?;
        let count = own.len().min(direct.len());
        (count > 0).then(|| spread((0..count).map(|round| own[round] - direct[round])))
    }

    /// The kind of FUSE with the lowest median.
    pub fn best_fuse(self, key: Key) -> Option<Interface> {
        let time = |interface| self.spread(Key { interface, ..key }).map(|found| found.median);
        let timed = Interface::FUSE.into_iter().filter_map(|interface| Some((interface, time(interface)?)));
        timed.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(interface, _)| interface)
    }

    /// Those of `works` that were measured, in that order.
    pub fn present<'b>(self, section: &str, works: &'b [&'b str]) -> Vec<&'b str> {
        let there = |work: &&str| self.measured().any(|line| line.section == section && line.work == **work);
        works.iter().copied().filter(there).collect()
    }

    /// The interfaces with results, in the order of the tables.
    pub fn interfaces(self, section: &str, store: Store) -> Vec<Interface> {
        let there = |interface: &Interface| {
            self.measured().any(|line| {
                line.section == section && line.store == store.id() && line.interface == interface.id()
            })
        };
        Interface::ALL.into_iter().filter(there).collect()
    }
}

fn ratios(above: &[f64], below: &[f64]) -> Option<Spread> {
    let count = above.len().min(below.len());
    (count > 0).then(|| spread((0..count).map(|round| above[round] / below[round])))
}

#[cfg(test)]
pub mod tests {
    use super::{Key, Results};
    use crate::interface::Interface;
    use crate::record::{Line, Measured};

    pub fn line(section: &str, work: &str, interface: Interface, values: &[f64]) -> Line {
        Line::Result(Measured {
            section: section.into(),
            store: "tmpfs".into(),
            work: work.into(),
            interface: interface.id().into(),
            measure: "wall".into(),
            values: values.to_vec(),
        })
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was twice as slow in the second round: that is nobody's fault.
        let lines = [
            line("s", "w", Interface::Direct, &[10.0, 20.0, 10.0]),
            line("s", "w", Interface::Defuse, &[20.0, 40.0, 20.0]),
        ];
        let key = Key::wall("s", "w", Interface::Defuse);
        let cost = Results(&lines).cost(key, Interface::Direct).unwrap();
        assert_eq!((cost.low, cost.median, cost.high), (2.0, 2.0, 2.0));
        let speed = Results(&lines).speed(key, Interface::Direct).unwrap();
        let added = Results(&lines).added(key).unwrap();
        assert_eq!((speed.median, added.median), (0.5, 10.0));
    }

    #[test]
    fn the_best_fuse_is_the_fastest_that_ran() {
        let lines = [
            line("s", "w", Interface::Fuse, &[30.0]),
            line("s", "w", Interface::FusePassthrough, &[12.0]),
            line("s", "w", Interface::Defuse, &[1.0]),
        ];
        let key = Key::wall("s", "w", Interface::Direct);
        assert_eq!(Results(&lines).best_fuse(key), Some(Interface::FusePassthrough));
        assert_eq!(Results(&[]).best_fuse(key), None);
    }

    #[test]
    fn an_interface_that_fell_out_is_compared_as_far_as_it_came() {
        let lines = [
            line("s", "w", Interface::Direct, &[10.0, 10.0, 10.0]),
            line("s", "w", Interface::Defuse, &[30.0]),
        ];
        let cost = Results(&lines).cost(Key::wall("s", "w", Interface::Defuse), Interface::Direct).unwrap();
        assert_eq!((cost.low, cost.median), (3.0, 3.0));
    }
}
