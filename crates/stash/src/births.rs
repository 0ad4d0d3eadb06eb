//! Processes on their way: they are made, or about to be, and have no record yet. Their maker may end before they have one, and then the records show nobody.

use core::sync::atomic::Ordering;

use crate::Arena;

/// How many processes were ever on their way, and how many of them have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Births {
    begun: u64,
    ended: u64,
}

impl Births {
    /// Whether nobody was on his way then. One that was killed before it arrived is so for ever.
    pub fn all_ended(self) -> bool {
        self.begun == self.ended
    }

    /// Whether nobody has started on his way since `earlier`.
    pub fn is_none_since(self, earlier: Self) -> bool {
        self.begun == earlier.begun
    }
}

impl Arena {
    /// A process is about to be made that will register. To be said by its maker, who has a record; [`end_birth`](Self::end_birth) by itself when it has
    /// registered, or by the maker if there could be no process.
    pub fn begin_birth(&self) {
        self.map.header().births_begun.fetch_add(1, Ordering::SeqCst);
    }

    /// What [`begin_birth`](Self::begin_birth) announced has come, or does not come.
    pub fn end_birth(&self) {
        self.map.header().births_ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Who is on his way.
    ///
    /// Where all had ended when this was asked, no record has shown a living process since, and [none](Births::is_none_since) was begun until then, there is none:
    /// who registers is on his way for that moment, too, so nobody has come by in between.
    pub fn births(&self) -> Births {
        let header = self.map.header();
        // In this order: what ends in between may look as if it were still on its way, not the other way round.
        let ended = header.births_ended.load(Ordering::SeqCst);
        Births { begun: header.births_begun.load(Ordering::SeqCst), ended }
    }
}
