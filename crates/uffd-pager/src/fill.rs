//! Bringing pages in: reading them from the source and giving them to the cache.

use crate::attached::Attached;
use crate::buffers::Buffer;
use crate::fault::{BLOCK, Stop, Wanted};
use crate::mapping::{Mapping, Sharing};
use crate::page::{intersection, offset_of, pages_of};
use crate::pager::Pager;
use crate::resident::{count, first_data, hole_at};
use crate::room::Room;
use crate::runs::MAX_RUN;
use crate::table::Steady;
use crate::uffd::Access;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Where pages that come in are wanted, so that they are entered there at once.
pub(crate) struct Placing<'a> {
    pub(crate) mapping: &'a Mapping,
    /// What of it is to be open for stores, if it is tracked.
    pub(crate) open: Range<u64>,
}

/// What came in, or was there.
pub(crate) struct Filled {
    /// Resident pages around the one that was missing.
    pub(crate) pages: Range<u64>,
    /// What of them is in the page table now, as the [`Placing`] wants it.
    pub(crate) entered: Range<u64>,
}

impl Pager {
    /// Makes a page resident, and those that the plan for it takes along.
    pub(crate) fn bring_in(
        &self,
        attached: &Attached,
        page: u64,
        room: &Wanted,
        placing: Option<&Placing<'_>>,
    ) -> std::result::Result<Filled, Stop> {
        let file = &attached.cache.pages;
        let length = attached.ledger.length();
        let most = self.most_at_once(attached, room)?;
        let plan = attached.runs.plan(page, pages_of(length).min(attached.ledger.reserved()));
        let plan = plan.start.max((page + 1).saturating_sub(most))..plan.end.min(page + most);
        let hole = hole_at(file, &(page..plan.end));
        if hole.is_empty() {
            return Ok(Filled { pages: page..page + 1, entered: page..page });
        }
        // A few pages that are there are read for nothing: that takes less than a fault for each of the holes between them.
        let mut pages = plan;
        if count(file, &pages).is_none_or(|resident| resident * 4 > pages.end - pages.start) {
            pages.end = hole.end;
            while let Some(data) = first_data(file, &(pages.start..page)) {
                pages.start = data.end;
            }
        }
        let Some(mut buffer) = self.buffers.take(attached.id()) else { return Err(Errno::DEADLK.into()) };
        // Reading ahead must not fail what was asked for.
        if read(attached, &mut buffer, &pages, length).is_err() {
            pages = page..page + 1;
            read(attached, &mut buffer, &pages, length)?;
        }
        let count = pages.end - pages.start;
        let data = &buffer.bytes()[..offset_of(count) as usize];
        let entered = self.give(attached, &pages, data, placing).map_err(|errno| match errno {
            Errno::NOMEM | Errno::NOSPC => Stop::Full(count.max(BLOCK)),
            other => other.into(),
        })?;
        attached.runs.filled(&pages);
        attached.credit.fetch_sub(count as i64, Ordering::Relaxed);
        self.memory.filled(count);
        Ok(Filled { pages, entered })
    }

    /// Gives pages to the cache, but for those that it has got meanwhile. Returns which are in the page table.
    fn give(
        &self,
        attached: &Attached,
        pages: &Range<u64>,
        data: &[u8],
        placing: Option<&Placing<'_>>,
    ) -> std::result::Result<Range<u64>, Errno> {
        let placed = placing.map_or(Ok(NOTHING), |placing| self.place(placing, pages, data))?;
        let rest = if placed.is_empty() {
            [pages.clone(), NOTHING]
        } else {
            [pages.start..placed.start, placed.end..pages.end]
        };
        for part in rest.into_iter().filter(|part| !part.is_empty()) {
            let bytes =
                offset_of(part.start - pages.start) as usize..offset_of(part.end - pages.start) as usize;
            attached.window.fill(&self.uffd, &attached.cache, part.start, &data[bytes])?;
        }
        Ok(placed)
    }

    /// Gives pages to the cache by the program's own mapping, which has them in its page table by that, without another step. Returns which.
    /// Nothing is done where the mapping is not to be relied on: where it is changed right now, or has been.
    fn place(
        &self,
        Placing { mapping, open }: &Placing<'_>,
        pages: &Range<u64>,
        data: &[u8],
    ) -> std::result::Result<Range<u64>, Errno> {
        // Pages copied to a private mapping would be its own.
        let Some(steady) = self.table.steady().filter(|_| mapping.sharing == Sharing::Shared) else {
            return Ok(NOTHING);
        };
        let inside = intersection(pages, &mapping.pages());
        let Some(row) = steady.same(mapping, &inside) else { return Ok(NOTHING) };
        let attached = &*mapping.attached;
        let open = intersection(open, &inside);
        let parts = match (row.tracked, open.is_empty()) {
            (false, _) => [(inside.clone(), Access::AsMapped), NO_PART, NO_PART],
            (true, true) => [(inside.clone(), Access::Protected), NO_PART, NO_PART],
            (true, false) => {
                attached.opening(&open);
                attached.mark(&open);
                [
                    (inside.start..open.start, Access::Protected),
                    (open.clone(), Access::AsMapped),
                    (open.end..inside.end, Access::Protected),
                ]
            }
        };
        for (part, access) in parts.into_iter().filter(|(part, _)| !part.is_empty()) {
            let bytes =
                offset_of(part.start - pages.start) as usize..offset_of(part.end - pages.start) as usize;
            let there = |address: usize| self.enter_one(&steady, row, address, access);
            match self.uffd.fill(row.addresses(&part).start, &data[bytes], access, there) {
                Ok(()) => {}
                Err(errno @ (Errno::NOMEM | Errno::NOSPC)) => return Err(errno),
                // Made of several of the kernel's mappings, or unmapped behind our back.
                Err(_) => return Ok(NOTHING),
            }
        }
        Ok(inside)
    }

    /// A page that was to be brought in was there.
    fn enter_one(
        &self,
        steady: &Steady<'_>,
        mapping: &Mapping,
        address: usize,
        access: Access,
    ) -> std::result::Result<(), Errno> {
        match access {
            // The kernel enters it when it is touched.
            _ if !mapping.tracked => Ok(()),
            Access::Protected => {
                let page = mapping.page_at(address);
                self.enter_protected(steady, mapping, &(page..page + 1));
                Ok(())
            }
            Access::AsMapped => self.open_one(mapping, mapping.page_at(address)),
        }
    }

    /// Looks now and then how much room there is, and says how many pages may come in at once.
    fn most_at_once(&self, attached: &Attached, room: &Wanted) -> std::result::Result<u64, Stop> {
        if attached.credit.load(Ordering::Relaxed) > MAX_RUN as i64 {
            return Ok(MAX_RUN);
        }
        let now = Room::of(&attached.cache, &attached.ledger, &self.memory);
        attached.credit.store(now.credit(), Ordering::Relaxed);
        let most = now.most_at_once().min(MAX_RUN);
        match now.lacks(most) {
            0 => Ok(most),
            // What there is is used when there is no more to be had.
            _ if room.asked => Ok(most.min(now.free).max(1)),
            wanted => Err(Stop::Short(wanted)),
        }
    }
}

const NOTHING: Range<u64> = 0..0;
const NO_PART: (Range<u64>, Access) = (NOTHING, Access::Protected);

/// Reads pages and clears what lies past the end of the file.
fn read(
    attached: &Attached,
    buffer: &mut Buffer<'_>,
    pages: &Range<u64>,
    length: u64,
) -> std::result::Result<(), Errno> {
    let buffer = &mut buffer.bytes()[..offset_of(pages.end - pages.start) as usize];
    let offset = offset_of(pages.start);
    let inside = (length - offset).min(buffer.len() as u64) as usize;
    let done = attached.source.read(offset, &mut buffer[..inside])?;
    if done < inside {
        return Err(Errno::IO);
    }
    buffer[inside..].fill(0);
    Ok(())
}
