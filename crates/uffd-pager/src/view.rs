//! A cache as it is used by FD: by processes that read and write the source otherwise than through mappings.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::ledger::{Ledger, ORPHANS};
use crate::owner::Owner;
use crate::page::{PAGE, intersection, offset_of, pages_of, touched};
use crate::resident::first_data;
use crate::writeback::each_dirty;
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::Errno;
use std::ops::Range;

/// Bytes read again or written back at a time.
const CHUNK: usize = 64 * PAGE;

/// The pages of a source that are resident, without a pager: any process may look at them and change the source behind them.
///
/// Every method may be called from any thread, not from signal handlers.
#[derive(Debug)]
pub struct View {
    cache: Cache,
    ledger: Ledger,
    me: Owner,
}

/// What a change did to a source: the bytes that are different now, and its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Bytes that may differ from what they were.
    pub bytes: Range<u64>,
    /// The length after it.
    pub length: u64,
}

impl View {
    /// Maps the ledger of a cache. For this process only, not for children it forks.
    pub fn open(cache: Cache) -> Result<Self> {
        let ledger = Ledger::map(&cache.ledger)?;
        Ok(Self { cache, ledger, me: Owner::this_process() })
    }

    /// The length in bytes, as all processes have it.
    pub fn length(&self) -> u64 {
        self.ledger.length()
    }

    /// Whether any living process has the source attached.
    pub fn is_used(&self) -> bool {
        self.ledger.is_used()
    }

    /// To be called in a process that has not attached the source, as it has executed another program since it last did: what
    /// it had dirty is nobody's now.
    pub fn forget_past(&self) {
        self.ledger.lock(self.me).adopt_own();
    }

    /// Whether anything is dirty, in whatever process.
    pub fn is_dirty(&self) -> bool {
        self.ledger.dirty(0..pages_of(self.length())).is_some()
    }

    /// The first run of `bytes` that is resident, as far as it reaches into them and before the end of the file. What lies
    /// before it is to be read from the source. Runs are cut at 1 MiB.
    pub fn resident(&self, bytes: Range<u64>) -> Option<Range<u64>> {
        let bytes = bytes.start..bytes.end.min(self.length());
        let data = first_data(&self.cache.pages, &touched(&bytes))?;
        let found = intersection(&(offset_of(data.start)..offset_of(data.end)), &bytes);
        (!found.is_empty()).then_some(found)
    }

    /// Reads bytes that [`View::resident`] has found. `None`: they are not resident any more, and what is in the buffer is nothing; the source has
    /// them.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let bytes = offset..(offset + buffer.len() as u64).min(self.length());
        let read = self.ledger.unless_given_back(self.me, || {
            let pages = touched(&bytes);
            match first_data(&self.cache.pages, &pages) {
                Some(data) if data == pages => rustix::io::pread(&self.cache.pages, buffer, offset).map(Some),
                _ => Ok(None),
            }
        });
        read.unwrap_or(Ok(None)).map_err(Error::on("reading resident pages"))
    }

    /// Gives back at most `pages` resident pages that nobody can have stored to, and returns how many: where the room that they take is needed for others. Signal
    /// handlers may call it if they interrupt no method of a [`View`] or a pager.
    pub fn give_back(&self, pages: u64) -> Result<u64> {
        let Some(locked) = self.ledger.lock_in_fault(self.me, true) else { return Ok(0) };
        crate::give_back::give_back_clean(&locked, &self.ledger, &self.cache, pages)
            .map_err(Error::on("giving clean pages back"))
    }

    /// Changes the source by `change`, while no fault is served and nobody else writes to it through a cache, and brings
    /// length and resident pages up to date: `read` reads from the source, as [`PageSource::read`](crate::PageSource::read) does.
    ///
    /// Neither may touch memory that is served from this source, unless it is resident ([`Pager::prefault`](crate::Pager::prefault)):
    /// the fault fails with EDEADLK.
    pub fn change<T, E: From<Errno>>(
        &self,
        read: impl Fn(u64, &mut [u8]) -> std::result::Result<usize, Errno>,
        change: impl FnOnce() -> std::result::Result<(T, Changed), E>,
    ) -> std::result::Result<T, E> {
        let locked = self.ledger.lock(self.me);
        let closed = locked.close_gate();
        let (value, Changed { bytes, length }) = change()?;
        let old = self.ledger.length();
        // The ledger's length never passes the file's, whenever this process may be killed.
        if length < old {
            closed.set_length(length);
        }
        if length != old {
            ftruncate(&self.cache.pages, length)?;
        }
        let mut changed = intersection(&bytes, &(0..length));
        if length > old && !old.is_multiple_of(PAGE as u64) {
            // What was stored past the end of the file, in its last page, is not in the file.
            let gap = old..length.min(offset_of(pages_of(old)));
            self.read_again(&read, gap)?;
        }
        if changed.is_empty() {
            changed = 0..0;
        }
        self.read_again(&read, changed)?;
        // Without room for their bits the new pages cannot be touched until there is.
        let _ = locked.reserve(&self.cache.ledger, pages_of(length));
        closed.set_length(length);
        Ok(value)
    }

    /// Gives the resident pages of `bytes` what the source has now.
    fn read_again(
        &self,
        read: &impl Fn(u64, &mut [u8]) -> std::result::Result<usize, Errno>,
        bytes: Range<u64>,
    ) -> std::result::Result<(), Errno> {
        let mut rest = bytes.clone();
        let mut buffer = Vec::new();
        while let Some(data) = first_data(&self.cache.pages, &touched(&rest)) {
            let run = intersection(&(offset_of(data.start)..offset_of(data.end)), &rest);
            let mut at = run.start;
            while at < run.end {
                buffer.resize(((run.end - at) as usize).min(CHUNK), 0);
                let count = read(at, &mut buffer)?;
                // Short only where the source ends.
                buffer[count..].fill(0);
                write_all(&self.cache, at, &buffer)?;
                at += buffer.len() as u64;
            }
            rest.start = run.end;
        }
        Ok(())
    }

    /// Has `write` write back what is dirty, as [`PageSource::write`](crate::PageSource::write) does. What a living process can
    /// still store to stays dirty. The first error is returned after the rest was tried.
    pub fn write_back(&self, write: impl Fn(u64, &[u8]) -> std::result::Result<(), Errno>) -> Result<()> {
        let locked = self.ledger.lock(self.me);
        locked.adopt_orphans();
        let mut buffer = vec![0; CHUNK];
        each_dirty(&self.ledger, 0..u64::MAX, |dirty| {
            let mut result = Ok(());
            for run in dirty.runs() {
                self.ledger.mark(ORPHANS, run.clone());
                let written = self.write_run(&write, &mut buffer, run.clone());
                if written.is_ok() {
                    self.ledger.written(run);
                }
                result = result.and(written);
            }
            result
        })
        .map_err(Error::on("writing mapped pages back"))
    }

    fn write_run(
        &self,
        write: &impl Fn(u64, &[u8]) -> std::result::Result<(), Errno>,
        buffer: &mut [u8],
        run: Range<u64>,
    ) -> std::result::Result<(), Errno> {
        let mut rest = run;
        while let Some(data) = first_data(&self.cache.pages, &rest) {
            let end = offset_of(data.end).min(self.ledger.length());
            let mut at = offset_of(data.start);
            while at < end {
                let wanted = ((end - at) as usize).min(buffer.len());
                let count = rustix::io::pread(&self.cache.pages, &mut buffer[..wanted], at)?;
                if count == 0 {
                    return Err(Errno::IO);
                }
                write(at, &buffer[..count])?;
                at += count as u64;
            }
            rest.start = data.end;
        }
        Ok(())
    }

    /// Forgets all pages, dirty ones too. Only where nobody has the source attached.
    pub fn discard(&self) -> Result<()> {
        const ACTION: &str = "discarding the pages of a mapped file";
        let locked = self.ledger.lock(self.me);
        locked.adopt_orphans();
        let closed = locked.close_gate();
        if self.ledger.is_used() {
            return Err(Error::new(ACTION, Errno::BUSY));
        }
        self.ledger.clear(ORPHANS, 0..pages_of(self.length()));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = offset_of(pages_of(self.length()));
        if length > 0 {
            closed
                .giving_back(|| fallocate(&self.cache.pages, flags, 0, length))
                .map_err(Error::on(ACTION))?;
        }
        drop(closed);
        Ok(())
    }
}

fn write_all(cache: &Cache, mut offset: u64, mut data: &[u8]) -> std::result::Result<(), Errno> {
    while !data.is_empty() {
        let count = rustix::io::pwrite(&cache.pages, data, offset)?;
        offset += count as u64;
        data = &data[count..];
    }
    Ok(())
}
