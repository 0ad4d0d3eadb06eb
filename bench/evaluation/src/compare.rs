//! Two runs: which figures moved by more than noise.

use std::fmt::Write as _;

use defuse_bench::statistics::Spread;

use crate::interface::{Interface, Store};
use crate::numbers::{Key, Results};

/// Less than that is not worth telling.
const LEAST: f64 = 0.03;

/// A figure that moved.
#[derive(Debug, PartialEq)]
pub struct Move {
    /// Section, store, work, interface.
    pub what: String,
    /// Medians of time over direct's.
    pub old: f64,
    /// The same now.
    pub new: f64,
}

/// Fewer rounds have no spread to be judged by.
const ROUNDS: usize = 3;

/// Compares time over direct's in the same round, so that a slower machine does not count. A figure has moved if its quartiles
/// do not touch those it had, and its median is 3 % away. Runs of fewer
/// than three rounds tell nothing.
pub fn moves(old: Results<'_>, new: Results<'_>) -> Vec<Move> {
    let mut moves = Vec::new();
    for line in new.measured().filter(|line| line.measure == "wall") {
        let (Ok(interface), Some(store)) =
            (line.interface.parse(), Store::ALL.into_iter().find(|store| store.id() == line.store))
        else {
            continue;
        };
        if interface == Interface::Direct {
            continue;
        }
        let key = Key { section: &line.section, store, work: &line.work, interface, measure: "wall" };
        let cost = |results: Results<'_>| {
            let enough = results.values(key).is_some_and(|values| values.len() >= ROUNDS);
            results.cost(key, Interface::Direct).filter(|_| enough)
        };
        if let (Some(before), Some(now)) = (cost(old), cost(new))
            && moved(before, now)
        {
            let what = format!("{} {} {} {interface}", line.section, store.id(), line.work);
            moves.push(Move { what, old: before.median, new: now.median });
        }
    }
    moves
}

fn moved(old: Spread, new: Spread) -> bool {
    let apart = old.high < new.low || new.high < old.low;
    apart && (new.median / old.median - 1.0).abs() >= LEAST
}

/// As text, the largest first.
pub fn describe(mut moves: Vec<Move>) -> String {
    if moves.is_empty() {
        return "no figure moved by more than noise\n".into();
    }
    moves.sort_by(|one, other| (other.new / other.old).ln().abs().total_cmp(&(one.new / one.old).ln().abs()));
    moves.iter().fold(String::new(), |mut text, Move { what, old, new }| {
        let word = if new < old { "faster" } else { "SLOWER" };
        let percent = (new / old - 1.0) * 100.0;
        let _ = writeln!(text, "{word} {percent:+6.1} %  {old:.3} -> {new:.3} x direct  {what}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{describe, moves};
    use crate::interface::Interface;
    use crate::numbers::Results;
    use crate::numbers::tests::line;
    use crate::record::Line;

    fn run(direct: &[f64], own: &[f64]) -> [Line; 2] {
        [line("s", "w", Interface::Direct, direct), line("s", "w", Interface::Defuse, own)]
    }

    #[test]
    fn noise_is_not_told() {
        let old = run(&[10.0; 5], &[11.0, 12.0, 13.0, 14.0, 15.0]);
        let new = run(&[10.0; 5], &[12.0, 13.0, 14.0, 15.0, 16.0]);
        assert_eq!(moves(Results(&old), Results(&new)), []);
    }

    #[test]
    fn a_slower_machine_is_not_told() {
        let old = run(&[10.0; 5], &[20.0; 5]);
        let new = run(&[30.0; 5], &[60.0; 5]);
        assert_eq!(moves(Results(&old), Results(&new)), []);
    }

    #[test]
    fn too_few_rounds_tell_nothing() {
        let old = run(&[10.0; 2], &[20.0; 2]);
        let new = run(&[10.0; 5], &[15.0; 5]);
        assert_eq!(moves(Results(&old), Results(&new)), []);
    }

    #[test]
    fn what_moved_is_told() {
        let old = run(&[10.0; 5], &[20.0; 5]);
        let new = run(&[10.0; 5], &[15.0; 5]);
        let found = moves(Results(&old), Results(&new));
        assert_eq!(found.len(), 1);
        assert!(describe(found).starts_with("faster  -25.0 %"));
        assert_eq!(describe(moves(Results(&new), Results(&old))).split(' ').next(), Some("SLOWER"));
    }
}
