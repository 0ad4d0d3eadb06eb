//! A source together with its cache, as this process uses it.

mod window;

pub(crate) use window::Window;

use crate::cache::Cache;
use crate::enter::Steps;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::open::Opener;
use crate::owner::Owner;
use crate::runs::Runs;
use crate::source::PageSource;
use crate::uffd::Uffd;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// In a child of a fork for which there was no slot.
const NO_SLOT: usize = usize::MAX;

pub(crate) struct Attached {
    pub(crate) source: Arc<dyn PageSource>,
    pub(crate) cache: Cache,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) window: Window,
    pub(crate) runs: Runs,
    /// Pages that may come in before it is to be seen how much room there is.
    pub(crate) credit: AtomicI64,
    /// Pages that may be opened for stores before it is to be seen whether too many are.
    until_look: AtomicI64,
    /// Pages that are open for stores here, roughly.
    open: AtomicI64,
    /// Not 0 while a thread closes pages for stores.
    pub(crate) closers: AtomicUsize,
    /// By whom pages are opened for stores.
    pub(crate) opener: Opener,
    /// Where pages are entered protected in steps.
    pub(crate) steps: Option<Steps>,
    /// This process's slot in the ledger.
    slot: AtomicUsize,
    owner: AtomicU64,
}

impl Attached {
    /// `in_steps`: how pages are entered protected ([`enter`](crate::enter)).
    pub(crate) fn new(
        uffd: &Uffd,
        in_steps: bool,
        source: Arc<dyn PageSource>,
        cache: Cache,
    ) -> Result<Self> {
        let ledger = Arc::new(Ledger::map(&cache.ledger)?);
        let window = Window::default();
        window.cover(uffd, &cache, ledger.length())?;
        let owner = Owner::this_process();
        let slot = ledger.claim(&cache.ledger, owner)?;
        Ok(Self {
            source,
            cache,
            ledger,
            window,
            runs: Runs::default(),
            credit: AtomicI64::new(0),
            until_look: AtomicI64::new(0),
            open: AtomicI64::new(0),
            closers: AtomicUsize::new(0),
            opener: Opener::default(),
            steps: in_steps.then(Steps::default),
            slot: AtomicUsize::new(slot),
            owner: AtomicU64::new(owner.0),
        })
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.slot() != NO_SLOT
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner(self.owner.load(Ordering::Relaxed))
    }

    /// In the child of a fork: a slot and a window of its own.
    pub(crate) fn renew(&self, uffd: &Uffd) -> Result<()> {
        let owner = Owner::this_process();
        self.owner.store(owner.0, Ordering::Relaxed);
        let claimed = self.ledger.claim(&self.cache.ledger, owner);
        self.forget_threads();
        self.open.store(0, Ordering::Relaxed);
        // Without a slot of its own this process must not touch the parent's.
        self.slot.store(claimed.unwrap_or(NO_SLOT), Ordering::Relaxed);
        claimed?;
        self.window.forget();
        self.window.cover(uffd, &self.cache, self.ledger.length())
    }

    /// In the child of a fork that cannot have mappings: it is of no use here, and the parent's slot is not touched.
    pub(crate) fn give_up(&self) {
        self.owner.store(Owner::this_process().0, Ordering::Relaxed);
        self.slot.store(NO_SLOT, Ordering::Relaxed);
        self.forget_threads();
        self.open.store(0, Ordering::Relaxed);
    }

    /// Those of the parent that were closing or opening pages, or entering some in steps, do not exist here.
    fn forget_threads(&self) {
        self.closers.store(0, Ordering::SeqCst);
        self.opener.reset();
        self.steps.iter().for_each(Steps::reset);
    }

    /// Enters pages as dirty here. To be done before they are opened for stores; so is [`Attached::opening`], before this.
    pub(crate) fn mark(&self, pages: &Range<u64>) {
        let _between = self.steps.as_ref().map(Steps::wait);
        self.ledger.mark(self.slot(), pages.clone());
    }

    /// Pages are about to be opened for stores.
    pub(crate) fn opening(&self, pages: &Range<u64>) {
        let open_before = self.ledger.count(self.slot(), pages.clone());
        self.opened((pages.end - pages.start) as i64 - i64::from(open_before));
    }

    /// As many pages more are entered as dirty here.
    pub(crate) fn opened(&self, new: i64) {
        self.open.fetch_add(new, Ordering::Relaxed);
        self.until_look.fetch_sub(new, Ordering::Relaxed);
    }

    /// Pages are not open for stores any more.
    pub(crate) fn closing(&self, pages: &Range<u64>) {
        let open = self.ledger.count(self.slot(), pages.clone());
        self.open.fetch_sub(open.into(), Ordering::Relaxed);
    }

    /// Pages that are open for stores in this process, roughly: threads may race.
    pub(crate) fn open_pages(&self) -> u64 {
        self.open.load(Ordering::Relaxed).max(0) as u64
    }

    /// Whether it is time to see if too many pages are open, and how many more may be opened until it is again.
    pub(crate) fn is_time_to_look(&self) -> bool {
        self.until_look.load(Ordering::Relaxed) <= 0
    }

    pub(crate) fn look_after(&self, pages: u64) {
        self.until_look.store(pages as i64, Ordering::Relaxed);
    }

    /// Names reading from it among purposes of buffers.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Names writing it back.
    pub(crate) fn writing(&self) -> usize {
        self.id() + 1
    }

    /// Names keeping what pages hold while they are entered.
    pub(crate) fn entering(&self) -> usize {
        self.id() + 2
    }

    pub(crate) fn check_capacity(&self, length: u64) -> Result<()> {
        if length > self.ledger.capacity() {
            return Err(Error::new("growing a mapped file past its cache's capacity", Errno::FBIG));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("cache", &self.cache)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Only where the slot is this process's: not in a child that was never told of its fork.
        if self.slot() != NO_SLOT && self.owner() == Owner::this_process() {
            crate::writeback::write_last(self);
            self.ledger.release(self.slot(), self.owner());
        }
    }
}
