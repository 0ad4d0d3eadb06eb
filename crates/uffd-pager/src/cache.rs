//! The two files that stand for a mapped file among processes.

use crate::error::{Error, Result};
use crate::held::Held;
use crate::ledger::Ledger;
use crate::page::PAGE;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;

/// Largest source for which a cache can be made when nothing else is said: 64 GiB.
pub const DEFAULT_CAPACITY: u64 = 64 << 30;

/// The pages of one source, and the ledger of what is dirty among them: two files of shared memory.
///
/// Whoever has both FDs (by fork, `SCM_RIGHTS`, or from a place where they are kept open) maps the same
/// pages with [`Cache::from_fds`] and [`Pager::attach`](crate::Pager::attach). They outlive the
/// processes as long as somebody holds them: what a killed process stored is still there, and marked
/// dirty. The pages' file may be read and written by FD where its pages are resident; a hole in it is a page
/// that has not been read from the source yet.
#[derive(Debug)]
pub struct Cache {
    pub(crate) pages: Held,
    pub(crate) ledger: Held,
}

impl Cache {
    /// An empty cache for a source of `length` bytes that may grow to [`DEFAULT_CAPACITY`].
    pub fn new(length: u64) -> Result<Self> {
        let pages = memfd_create(c"uffd-pager pages", MemfdFlags::CLOEXEC)
            .map_err(Error::on("creating the pages of a mapped file"))?;
        Self::with_pages(pages, length, DEFAULT_CAPACITY)
    }

    /// As [`Cache::new`] with the pages in an empty file of the caller's, on tmpfs or a memfd; the source may
    /// grow to `capacity` bytes. Costs address space: 4 MiB for a capacity of 1 GiB.
    pub fn with_pages(pages: OwnedFd, length: u64, capacity: u64) -> Result<Self> {
        ftruncate(&pages, length).map_err(Error::on("setting the length of a mapped file's pages"))?;
        Ok(Self::from_fds(pages, Ledger::create(length, capacity)?))
    }

    /// As [`Cache::with_pages`] with the ledger in an empty file of the caller's, too: so that others find both by their names.
    pub fn create_in(pages: OwnedFd, ledger: OwnedFd, length: u64, capacity: u64) -> Result<Self> {
        ftruncate(&pages, length).map_err(Error::on("setting the length of a mapped file's pages"))?;
        Ok(Self::from_fds(pages, Ledger::create_in(ledger, length, capacity)?))
    }

    /// The files of a cache that another process has made.
    pub fn from_fds(pages: OwnedFd, ledger: OwnedFd) -> Self {
        Self { pages: pages.into(), ledger: ledger.into() }
    }

    /// The same cache by new FDs, for attaching and handing on.
    pub fn try_clone(&self) -> Result<Self> {
        let clone = |file: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(file, 0)
                .map_err(Error::on("duplicating the FDs of a mapped file"))
        };
        Ok(Self::from_fds(clone(&self.pages)?, clone(&self.ledger)?))
    }

    /// Sets how many bytes of the source may be resident at a time, 0 for as many as there is room for: in the file system of the pages, and in the machine's
    /// memory. Counts for all processes.
    pub fn set_limit(&self, bytes: u64) -> Result<()> {
        Ledger::map(&self.ledger)?.set_limit(bytes.div_ceil(PAGE as u64));
        Ok(())
    }

    /// By numbers of its own, in a child that has its FD table in common with its parent ([`Held::renew`]).
    ///
    /// # Safety
    /// This is the only thread of the process, and no borrow of the files is in use.
    pub(crate) unsafe fn renew(&self, home: fn(OwnedFd) -> OwnedFd) -> std::result::Result<(), Errno> {
        // SAFETY: as the caller says. Both, so that none is closed that is the parent's.
        let [pages, ledger] = unsafe { [self.pages.renew(home), self.ledger.renew(home)] };
        pages.and(ledger)
    }

    /// The pages' file.
    pub fn pages(&self) -> BorrowedFd<'_> {
        self.pages.as_fd()
    }

    /// The ledger.
    pub fn ledger(&self) -> BorrowedFd<'_> {
        self.ledger.as_fd()
    }
}
