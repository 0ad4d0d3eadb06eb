//! What a pager has attached, for the child of a fork.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::attached::Attached;
use crate::ledger::Ledger;
use crate::wait::Backoff;

type Registered = (Weak<Attached>, Weak<Ledger>);

/// All that is attached. Holds none of it.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    busy: AtomicBool,
    list: UnsafeCell<Vec<Registered>>,
}

// SAFETY: `list` is touched by the holder of `busy` alone.
unsafe impl Send for Registry {}
// SAFETY: as above.
unsafe impl Sync for Registry {}

impl Registry {
    pub(crate) fn add(&self, attached: &Arc<Attached>) {
        self.with(|list| {
            list.retain(|(known, _)| known.strong_count() > 0);
            list.push((Arc::downgrade(attached), Arc::downgrade(&attached.ledger)));
        });
    }

    pub(crate) fn all(&self) -> Vec<Arc<Attached>> {
        self.with(|list| list.iter().filter_map(|(attached, _)| attached.upgrade()).collect())
    }

    /// The ledgers of what is attached, while [`Registry::hold`] keeps other threads out. Nothing attached itself: another thread may let go of it
    /// meanwhile, and whoever is the last to do so writes it back.
    pub(crate) fn ledgers_held(&self) -> Vec<Arc<Ledger>> {
        // SAFETY: `busy` is held.
        unsafe { &*self.list.get() }.iter().filter_map(|(_, ledger)| ledger.upgrade()).collect()
    }

    /// Keeps other threads out of it over a fork.
    pub(crate) fn hold(&self) {
        let mut backoff = Backoff::default();
        while self.busy.swap(true, Ordering::Acquire) {
            backoff.pause();
        }
    }

    pub(crate) fn let_go(&self) {
        self.busy.store(false, Ordering::Release);
    }

    fn with<T>(&self, action: impl FnOnce(&mut Vec<Registered>) -> T) -> T {
        self.hold();
        // SAFETY: `busy` is held.
        let result = action(unsafe { &mut *self.list.get() });
        self.let_go();
        result
    }
}
