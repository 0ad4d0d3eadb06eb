//! The record of what was changed, for signal code.

use core::ops::Range;

use super::site::{Plan, Reason, Site, Unpatchable};
use super::stub::{Addresses, Stub, StubInfo};

/// Length of the jump in a hole.
const HOLE: u64 = 5;

/// Why a planned site was not changed after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The bytes in memory are not those the plan was made for.
    Changed,
    /// It cannot be changed while other threads run.
    ThreadsRunning,
    /// Something a displaced instruction refers to is too far from the stubs.
    OutOfReach,
}

/// One text mapping after [`super::apply`]. It stays valid for as long as the mapping does; the stubs stay for ever.
#[derive(Debug, Default)]
pub struct Patched {
    pub(super) text: Range<u64>,
    pub(super) stubs: Range<u64>,
    pub(super) entry: u64,
    /// By rising stub address.
    pub(super) sites: Vec<(u64, Site)>,
    /// (address of the jump in the hole, index in `sites`), by rising address.
    pub(super) holes: Vec<(u64, usize)>,
    pub(super) skipped: Vec<(Site, Skip)>,
}

impl Patched {
    /// The text that was changed.
    pub fn text(&self) -> Range<u64> {
        self.text.clone()
    }

    /// Where its stubs are.
    pub fn stubs(&self) -> Range<u64> {
        self.stubs.clone()
    }

    /// The sites that were changed.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = &Site> {
        self.sites.iter().map(|(_, site)| site)
    }

    /// The sites of the plan that were not, and why.
    pub fn skipped(&self) -> &[(Site, Skip)] {
        &self.skipped
    }

    /// What a PC means if it is in one of the stubs or on the way to one. Logarithmic; reads only this record, so it may
    /// be called by a signal handler.
    pub fn find_stub(&self, pc: u64) -> Option<StubInfo> {
        if self.stubs.contains(&pc) {
            let index = self.sites.partition_point(|(start, _)| *start <= pc).checked_sub(1)?;
            return self.stub(index).describe(pc);
        }
        if !self.text.contains(&pc) {
            return None;
        }
        let index = self.holes.partition_point(|(start, _)| *start <= pc).checked_sub(1)?;
        let (start, site) = self.holes[index];
        (pc - start < HOLE).then(|| self.stub(site).describe_hole())
    }

    /// `plan` with the sites that were skipped among those left alone: what dispatch has to catch.
    pub fn left(&self, plan: &Plan) -> Vec<Unpatchable> {
        let skipped = self.skipped.iter().map(|(site, _)| Unpatchable {
            offset: site.syscall,
            number: site.number,
            reason: Reason::NotMovable,
        });
        plan.missed().copied().chain(skipped).collect()
    }

    pub(super) fn stub(&self, index: usize) -> Stub<'_> {
        let (stub, site) = &self.sites[index];
        let at = Addresses { text: self.text.start, stub: *stub, entry: self.entry, cell: self.stubs.start };
        Stub::new(site, at)
    }
}
