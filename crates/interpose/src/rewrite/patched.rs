//! The record of what was changed, for signal code.

use core::ops::Range;

use super::prepared::{ITEM, item};
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

/// The sites that were changed and where their stubs are, and the jumps in holes.
#[derive(Debug)]
pub(super) enum Sites {
    /// By this process.
    Written {
        /// By rising stub address.
        sites: Vec<(u64, Site)>,
        /// (address of the jump in the hole, index in `sites`), by rising address.
        holes: Vec<(u64, usize)>,
    },
    /// Ahead: the tables of [`super::prepared`], read in place.
    Prepared { sites: &'static [u8], holes: &'static [u8] },
}

impl Default for Sites {
    fn default() -> Self {
        Self::Written { sites: Vec::new(), holes: Vec::new() }
    }
}

/// One text mapping after [`super::apply`] or [`super::PreparedText::put_over`]. It stays valid for as long as the mapping does; the stubs stay for ever.
#[derive(Debug, Default)]
pub struct Patched {
    pub(super) text: Range<u64>,
    pub(super) stubs: Range<u64>,
    pub(super) entry: u64,
    pub(super) sites: Sites,
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
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        (0..self.len()).filter_map(|index| Some(self.site(index)?.1))
    }

    /// How many sites were changed.
    pub fn len(&self) -> usize {
        match &self.sites {
            Sites::Written { sites, .. } => sites.len(),
            Sites::Prepared { sites, .. } => sites.len() / ITEM,
        }
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sites of the plan that were not, and why.
    pub fn skipped(&self) -> &[(Site, Skip)] {
        &self.skipped
    }

    /// What a PC means if it is in one of the stubs or on the way to one. Logarithmic; reads only this record, so it may
    /// be called by a signal handler.
    pub fn find_stub(&self, pc: u64) -> Option<StubInfo> {
        if self.stubs.contains(&pc) {
            let index = Self::last(self.len(), |index| self.site(index).map(|(start, _)| start), pc)?;
            let (start, site) = self.site(index)?;
            return Stub::new(&site, self.addresses(start)).describe(pc);
        }
        if !self.text.contains(&pc) {
            return None;
        }
        let holes = match &self.sites {
            Sites::Written { holes, .. } => holes.len(),
            Sites::Prepared { holes, .. } => holes.len() / 8,
        };
        let index = Self::last(holes, |index| self.hole(index).map(|(at, _)| at), pc)?;
        let (at, index) = self.hole(index)?;
        if pc - at >= HOLE {
            return None;
        }
        let (start, site) = self.site(index)?;
        Some(Stub::new(&site, self.addresses(start)).describe_hole())
    }

    /// Index of the last of `count` rising addresses that is not above `pc`.
    fn last(count: usize, address: impl Fn(usize) -> Option<u64>, pc: u64) -> Option<usize> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if address(middle)? <= pc { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    /// A site and the address of its stub.
    fn site(&self, index: usize) -> Option<(u64, Site)> {
        match &self.sites {
            Sites::Written { sites, .. } => sites.get(index).copied(),
            Sites::Prepared { sites, .. } => {
                item(sites, index).map(|(offset, site)| (self.stubs.start + offset, site))
            }
        }
    }

    /// The address of the jump in a hole, and the index of its site.
    fn hole(&self, index: usize) -> Option<(u64, usize)> {
        match &self.sites {
            Sites::Written { holes, .. } => holes.get(index).copied(),
            Sites::Prepared { holes, .. } => {
                let &[a, b, c, d, index @ ..] = holes.as_chunks::<8>().0.get(index)?;
                let at = self.text.start + u64::from(u32::from_le_bytes([a, b, c, d]));
                Some((at, u32::from_le_bytes(index) as usize))
            }
        }
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

    fn addresses(&self, stub: u64) -> Addresses {
        Addresses { text: self.text.start, stub, entry: self.entry, cell: self.stubs.start }
    }
}
