//! From a sequence that differs to the shortest like it.

use super::generate::SLOTS;
use super::step::Step;
use super::{Counterexample, Failed, Finding, Kit};
use std::collections::BTreeSet;

/// Leaves out what can be left out, then makes what is left simpler. Ends, because every change makes the
/// sequence smaller.
pub(super) fn shortest(kit: &mut Kit<'_>, sequence: Vec<Step>, seed: u64) -> Result<Counterexample, Failed> {
    let mut best = sequence;
    let Some(mut finding) = cut(kit, &mut best)? else {
        // It differed before and does not now: the plugin is not deterministic. Say what was seen.
        return Ok(Counterexample {
            steps: best,
            afterwards: Some("the same sequence again".into()),
            expected: "the same difference".into(),
            got: "none: the plugin does not always answer alike".into(),
            seed,
        });
    };
    loop {
        let before = best.clone();
        leave_out(kit, &mut best, &mut finding)?;
        simplify(kit, &mut best, &mut finding)?;
        merge(kit, &mut best, &mut finding)?;
        if best == before {
            break;
        }
    }
    let (_, difference) = finding;
    Ok(Counterexample {
        steps: best,
        afterwards: difference.afterwards,
        expected: difference.expected,
        got: difference.got,
        seed,
    })
}

/// Runs the sequence and drops what lies behind the step that differs.
fn cut(kit: &mut Kit<'_>, sequence: &mut Vec<Step>) -> Result<Option<Finding>, Failed> {
    let finding = kit.run(sequence)?;
    if let Some((len, _)) = &finding {
        sequence.truncate(*len);
    }
    Ok(finding)
}

/// Takes the candidate if it still differs.
fn try_instead(
    kit: &mut Kit<'_>,
    candidate: Vec<Step>,
    best: &mut Vec<Step>,
    finding: &mut Finding,
) -> Result<bool, Failed> {
    let mut candidate = candidate;
    let found = cut(kit, &mut candidate)?;
    let Some(found) = found else { return Ok(false) };
    (*best, *finding) = (candidate, found);
    Ok(true)
}

/// Large pieces first, then single steps, then every pair (an open and its close, say).
fn leave_out(kit: &mut Kit<'_>, best: &mut Vec<Step>, finding: &mut Finding) -> Result<(), Failed> {
    let mut piece = best.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < best.len() {
            let mut candidate = best.clone();
            candidate.drain(at..candidate.len().min(at + piece));
            if !try_instead(kit, candidate, best, finding)? {
                at += piece;
            }
        }
        piece /= 2;
    }
    let mut first = 0;
    'pairs: while first < best.len() {
        for second in first + 1..best.len() {
            let mut candidate = best.clone();
            candidate.remove(second);
            candidate.remove(first);
            if try_instead(kit, candidate, best, finding)? {
                first = 0;
                continue 'pairs;
            }
        }
        first += 1;
    }
    Ok(())
}

/// Lets two slots be one, and takes a directory out of every path, throughout the sequence.
fn merge(kit: &mut Kit<'_>, best: &mut Vec<Step>, finding: &mut Finding) -> Result<(), Failed> {
    for from in (1..SLOTS).rev() {
        for to in 0..from {
            let mut candidate = best.clone();
            let mut one = |slot: &mut usize| *slot = if *slot == from { to } else { *slot };
            for step in &mut candidate {
                step.visit(&mut one, &mut |_| {});
            }
            if candidate != *best {
                try_instead(kit, candidate, best, finding)?;
            }
        }
    }
    let mut tops = BTreeSet::new();
    let mut top = |path: &mut String| {
        if let Some((top, _)) = path[1..].split_once('/') {
            tops.insert(format!("/{top}/"));
        }
    };
    best.clone().iter_mut().for_each(|step| step.visit(&mut |_| {}, &mut top));
    for top in tops {
        let mut candidate = best.clone();
        let mut without = |path: &mut String| {
            if path.starts_with(&top) {
                path.drain(..top.len() - 1);
            }
        };
        candidate
            .retain(|step| !matches!(step, Step::Mkdir { path, .. } if path[..] == top[..top.len() - 1]));
        for step in &mut candidate {
            step.visit(&mut |_| {}, &mut without);
        }
        try_instead(kit, candidate, best, finding)?;
    }
    Ok(())
}

fn simplify(kit: &mut Kit<'_>, best: &mut Vec<Step>, finding: &mut Finding) -> Result<(), Failed> {
    let mut at = 0;
    while at < best.len() {
        let simpler = simpler(&best[at]);
        let mut changed = false;
        for step in simpler {
            let mut candidate = best.clone();
            candidate[at] = step;
            if try_instead(kit, candidate, best, finding)? {
                changed = true;
                break;
            }
        }
        at += usize::from(!changed);
    }
    Ok(())
}

/// Steps that do less: nearer to the root, smaller numbers, fewer flags.
fn simpler(step: &Step) -> Vec<Step> {
    let mut all = Vec::new();
    let mut push = |candidate: Step| {
        if candidate != *step {
            all.push(candidate);
        }
    };
    match step.clone() {
        Step::Open { slot, path, access, create, exclusive, truncate } => {
            let open = |path, create, exclusive, truncate| Step::Open {
                slot,
                path,
                access,
                create,
                exclusive,
                truncate,
            };
            push(open(path.clone(), create, exclusive, false));
            push(open(path.clone(), create, false, truncate));
            for path in shallower(&path) {
                push(open(path, create, exclusive, truncate));
            }
        }
        Step::Read { slot, offset, len } => {
            for len in smaller(len) {
                push(Step::Read { slot, offset, len });
            }
            for offset in smaller(offset as usize) {
                push(Step::Read { slot, offset: offset as u64, len });
            }
        }
        Step::Write { slot, offset, len, fill } => {
            for len in smaller(len) {
                push(Step::Write { slot, offset, len, fill });
            }
            for offset in smaller(offset as usize) {
                push(Step::Write { slot, offset: offset as u64, len, fill });
            }
        }
        Step::Append { slot, len, fill } => {
            smaller(len).for_each(|len| push(Step::Append { slot, len, fill }));
        }
        Step::ReadVector { slot, offset, lens } => push(Step::Read { slot, offset, len: lens.iter().sum() }),
        Step::WriteVector { slot, offset, lens, fill } => {
            push(Step::Write { slot, offset, len: lens.iter().sum(), fill });
        }
        Step::Truncate { path, size } => {
            for size in smaller(size as usize) {
                push(Step::Truncate { path: path.clone(), size: size as u64 });
            }
            shallower(&path).for_each(|path| push(Step::Truncate { path, size }));
        }
        Step::TruncateOpen { slot, size } => {
            smaller(size as usize).for_each(|size| push(Step::TruncateOpen { slot, size: size as u64 }));
        }
        Step::Rename { old, new, flags } => {
            push(Step::Rename { old: old.clone(), new: new.clone(), flags: 0 });
            shallower(&old).for_each(|old| push(Step::Rename { old, new: new.clone(), flags }));
            shallower(&new).for_each(|new| push(Step::Rename { old: old.clone(), new, flags }));
        }
        Step::Link { old, new } => {
            shallower(&old).for_each(|old| push(Step::Link { old, new: new.clone() }));
            shallower(&new).for_each(|new| push(Step::Link { old: old.clone(), new }));
        }
        Step::Mkdir { path, mode } => shallower(&path).for_each(|path| push(Step::Mkdir { path, mode })),
        Step::Rmdir { path } => shallower(&path).for_each(|path| push(Step::Rmdir { path })),
        Step::Unlink { path } => shallower(&path).for_each(|path| push(Step::Unlink { path })),
        Step::Stat { path } => shallower(&path).for_each(|path| push(Step::Stat { path })),
        Step::Symlink { target, path } => {
            shallower(&path).for_each(|path| push(Step::Symlink { target: target.clone(), path }));
        }
        Step::List { path, at_once } => {
            if at_once != usize::MAX {
                push(Step::List { path: path.clone(), at_once: 1 });
            }
            shallower(&path).for_each(|path| push(Step::List { path, at_once }));
        }
        Step::Allocate { slot, mode, offset, len } => {
            for len in smaller(len as usize).filter(|&len| len > 0) {
                push(Step::Allocate { slot, mode, offset, len: len as u64 });
            }
            smaller(offset as usize)
                .for_each(|offset| push(Step::Allocate { slot, mode, offset: offset as u64, len }));
        }
        _ => {}
    }
    all
}

fn smaller(number: usize) -> impl Iterator<Item = usize> {
    [0, 1, number / 2, number - number / 4].into_iter().filter(move |&candidate| candidate < number)
}

/// The path without one of its components.
fn shallower(path: &str) -> impl Iterator<Item = String> {
    let names: Vec<_> = path[1..].split('/').map(str::to_owned).collect();
    let count = if names.len() > 1 { names.len() } else { 0 };
    (0..count).map(move |without| {
        let kept = names.iter().enumerate().filter(|(at, _)| *at != without);
        kept.flat_map(|(_, name)| ["/", name]).collect()
    })
}
