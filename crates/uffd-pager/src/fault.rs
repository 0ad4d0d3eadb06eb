//! Serving a fault: what is missing is read (`fill`), what is stored to is opened (`open`).

use crate::attached::Attached;
use crate::fill::Placing;
use crate::ledger::InFlight;
use crate::mapping::{Mapping, Sharing};
use crate::memory;
use crate::page::{intersection, pages_of};
use crate::pager::{Mode, Pager};
use crate::room::Room;
use rustix::io::Errno;
use std::ops::Range;

/// Aligned blocks in which resident pages are entered, and stores are looked at, together.
pub(crate) const BLOCK: u64 = 16;

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Let the thread try again: return from the signal handler.
    Retry,
    /// The address is not mapped by this pager: not our signal.
    NotServed,
    /// The page lies past the end of the file: SIGBUS for the program.
    PastEnd,
    /// The source failed, or memory is short: SIGBUS for the program. The next touch tries again.
    Failed(Errno),
}

impl Pager {
    /// Serves a fault of this process at `address`; `write` tells whether it was a store (bit 1 of
    /// the error code in the signal's context).
    ///
    /// To be called from a handler of SIGBUS with `si_code` `BUS_ADRERR` (another code is no fault of ours),
    /// installed with all signals in `sa_mask` and `SA_ONSTACK` or enough stack (4 KiB and what the source needs).
    /// Allocates nothing, takes no lock that the thread may hold, leaves errno alone; calls
    /// [`PageSource::read`](crate::PageSource::read). May wait for other threads' and processes' write
    /// protection or truncation of the same file, and for their reads if those truncate.
    pub fn handle_fault(&self, address: usize, write: bool) -> Handled {
        let reader = self.table.read();
        let Some(mapping) = reader.at(address) else { return Handled::NotServed };
        let page = mapping.page_at(address);
        match self.serve(mapping, page, write) {
            Ok(Served::Ready(ready)) => {
                // Saves the faults of the neighbours. The monitor may not touch what it serves.
                if self.mode == Mode::Signal && ready.end - ready.start > 1 {
                    memory::populate(mapping, &ready, write && mapping.sharing == Sharing::Shared);
                }
                Handled::Retry
            }
            Ok(Served::Entered) => Handled::Retry,
            Ok(Served::PastEnd) => Handled::PastEnd,
            Err(errno) => Handled::Failed(errno),
        }
    }

    fn serve(&self, mapping: &Mapping, page: u64, write: bool) -> std::result::Result<Served, Errno> {
        let attached = &*mapping.attached;
        let mut room = Wanted::default();
        loop {
            match self.try_serve(mapping, page, write, &room) {
                Ok(served) => return Ok(served),
                Err(stop) => self.resume(attached, &(page..page + 1), &stop, &mut room)?,
            }
        }
    }

    /// Inside: serves the fault, or says what is to be done first outside.
    fn try_serve(
        &self,
        mapping: &Mapping,
        page: u64,
        write: bool,
        room: &Wanted,
    ) -> std::result::Result<Served, Stop> {
        let attached = &*mapping.attached;
        let _inside = self.enter(attached)?;
        if page >= pages_of(attached.ledger.length()) {
            return Ok(Served::PastEnd);
        }
        if page >= attached.ledger.capacity_pages() {
            return Err(Errno::FBIG.into());
        }
        if page >= attached.ledger.reserved() {
            return Err(Stop::Unreserved(page + 1));
        }
        if write && mapping.tracked {
            return self.open_for_stores(mapping, page, room);
        }
        let placing = Placing { mapping, open: page..page };
        let filled = self.bring_in(attached, page, room, Some(&placing))?;
        if !filled.entered.is_empty() {
            return Ok(Served::Entered);
        }
        if !mapping.tracked {
            return Ok(Served::Ready(intersection(&filled.pages, &mapping.pages())));
        }
        // Up to a page that is not there, in both directions.
        let block = page / BLOCK * BLOCK..page / BLOCK * BLOCK + BLOCK;
        self.enter_pages(mapping, &(page..filled.pages.end.max(block.end)), &(page..page + 1));
        self.enter_pages(mapping, &(filled.pages.start.min(block.start)..page), &(page..page));
        Ok(Served::Entered)
    }

    /// Outside: does what made an attempt stop.
    pub(crate) fn resume(
        &self,
        attached: &Attached,
        pages: &Range<u64>,
        stop: &Stop,
        room: &mut Wanted,
    ) -> std::result::Result<(), Errno> {
        match *stop {
            Stop::Failed(errno) => return Err(errno),
            Stop::Short(wanted) => {
                room.asked = true;
                self.make_room(attached, pages, wanted);
            }
            Stop::Full(wanted) => {
                room.asked = true;
                room.attempts += 1;
                if self.make_room(attached, pages, wanted) == 0 && room.attempts > ATTEMPTS {
                    return Err(Errno::NOMEM);
                }
            }
            Stop::Unreserved(pages) => {
                let patience = !self.buffers.any_in_use_here();
                let locked =
                    attached.ledger.lock_in_fault(attached.owner(), patience).ok_or(Errno::DEADLK)?;
                let reserved = locked.reserve(&attached.cache.ledger, pages);
                drop(locked);
                if let Err(errno) = reserved {
                    room.attempts += 1;
                    if self.make_room(attached, &(0..0), BLOCK) == 0 || room.attempts > ATTEMPTS {
                        return Err(errno);
                    }
                }
            }
            Stop::TooManyOpen(now) => {
                room.limited = true;
                self.limit_open(attached, now);
            }
        }
        Ok(())
    }

    /// A thread that is reading from this source already is inside; one that is changing its length would wait
    /// for itself: EDEADLK.
    pub(crate) fn enter<'a>(&self, attached: &'a Attached) -> std::result::Result<InFlight<'a>, Errno> {
        if self.buffers.in_use_here(attached.id()) {
            Ok(attached.ledger.enter_nested(attached.slot()))
        } else {
            attached.ledger.enter(attached.slot(), attached.owner())
        }
    }
}

/// What is to be done outside before a fault can be served.
pub(crate) enum Stop {
    Failed(Errno),
    /// There is little room: as many pages are to be given back, if they can.
    Short(u64),
    /// There was none.
    Full(u64),
    /// There is no memory for the bits of as many pages.
    Unreserved(u64),
    /// It is to be seen whether too many pages are open for stores, with this room.
    TooManyOpen(Room),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// What was tried for a fault.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) asked: bool,
    pub(crate) limited: bool,
    pub(crate) attempts: u32,
}

/// How often a page is brought in again after there was no room for it and none could be made: others may give some back.
const ATTEMPTS: u32 = 20;

/// How a fault was served.
pub(crate) enum Served {
    /// These pages can be touched without the pager.
    Ready(Range<u64>),
    /// So can this one, and neighbours that are in the page table now.
    Entered,
    PastEnd,
}
