//! The table of a process.

use std::os::fd::RawFd;

use crate::description::Description;
use crate::directory::Directory;
use crate::entry::Entry;
use crate::error::Error;
use crate::handle::{Ref, Released};
use crate::sync::{AtomicUsize, Ordering};
use crate::word::ENTRY_WEIGHT;

/// The FDs of one process that stand for a `T`.
///
/// The kernel has chosen the numbers; call the methods after the system call that opened or duplicated the FD, and
/// before the one that closes it (once closed, another thread may get the number).
///
/// All methods but [`after_fork_in_child`](Self::after_fork_in_child) may be called from any thread at any time, also in a
/// signal handler as far as the global allocator allows it: only those that enter an FD allocate, only the handles free.
/// None takes a lock, none calls code of the caller with the table in an intermediate state, so that a closure or the
/// `Drop` of a `T` may use the table.
///
/// A table takes 16 KiB; and 8 KiB for each block of 1024 FDs, 8 KiB for each block of 2^20, once one of their FDs is
/// entered. That memory is neither moved nor freed before the table is dropped.
pub struct FdTable<T: Send + Sync> {
    directory: Directory<T>,
    /// Entries that hold a description, or are about to, or did.
    open: AtomicUsize,
    /// One more than the highest FD that was ever entered: walks end there.
    end: AtomicUsize,
}

impl<T: Send + Sync> FdTable<T> {
    /// An empty table. Allocates nothing.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { directory: Directory::new(), open: AtomicUsize::new(0), end: AtomicUsize::new(0) }
    }

    /// An empty table. (The atomics of the model checker cannot be made in a `const`.)
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { directory: Directory::new(), open: AtomicUsize::new(0), end: AtomicUsize::new(0) }
    }

    /// What this FD stands for; `None` if it is not in the table.
    ///
    /// Three dependent loads and one `fetch_add`; of an FD that is not in the table only the loads. The same FD is
    /// a point of contention of threads that use it at once, as is the file position in the kernel.
    #[inline]
    pub fn get(&self, fd: RawFd) -> Option<Ref<'_, T>> {
        Some(self.entry(fd)?.get()?.0)
    }

    /// `open(2)` and others: the FD stands for a new description. Returns what it stood for before.
    ///
    /// On error `value` is dropped.
    pub fn insert(&self, fd: RawFd, value: T, cloexec: bool) -> Result<Option<Released<T>>, Error> {
        let entry = self.entry_to_fill(fd)?;
        let description = Description::allocate(value).ok_or(Error::OutOfMemory { fd })?;
        self.open.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a new description comes with this weight and one FD.
        Ok(self.removed(unsafe { entry.replace(description, cloexec) }))
    }

    /// The FD stands for a description in use, as one more FD of it. Returns what it stood for before.
    ///
    /// # Errors
    /// [`Error::Retired`] if all FDs of the description were closed meanwhile.
    pub fn insert_shared(
        &self,
        fd: RawFd,
        shared: &Ref<'_, T>,
        cloexec: bool,
    ) -> Result<Option<Released<T>>, Error> {
        let entry = self.entry_to_fill(fd)?;
        if !shared.description().join() {
            return Err(Error::Retired { fd });
        }
        shared.description().retain(ENTRY_WEIGHT);
        self.open.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the weight and the FD were added just now.
        Ok(self.removed(unsafe { entry.replace(shared.pointer(), cloexec) }))
    }

    /// `dup(2)`, `dup2(2)`, `dup3(2)`, `fcntl(F_DUPFD)`: `to` stands for the description of `from`.
    /// Returns what `to` stood for before. If both are the same FD, nothing changes (as with `dup2`).
    ///
    /// # Errors
    /// [`Error::NotOpen`] if `from` is not in the table, or its description was closed in this moment. `to` then still
    /// stands for what it stood before: [`remove`](Self::remove) it if the system call has replaced it.
    pub fn dup(&self, from: RawFd, to: RawFd, cloexec: bool) -> Result<Option<Released<T>>, Error> {
        let shared = self.get(from).ok_or(Error::NotOpen { from, to })?;
        if from == to {
            return Ok(None);
        }
        self.insert_shared(to, &shared, cloexec).map_err(|error| match error {
            Error::Retired { .. } => Error::NotOpen { from, to },
            other => other,
        })
    }

    /// `close(2)`: the FD leaves the table. Returns what it stood for.
    pub fn remove(&self, fd: RawFd) -> Option<Released<T>> {
        self.removed(self.entry(fd)?.remove())
    }

    /// `close_range(2)`: the FDs from `first` to `last` (inclusive) leave the table, and are passed to `closed`
    /// in ascending order. Takes time by the FDs that ever were in the table, not by the size of the range.
    pub fn close_range(&self, first: u32, last: u32, mut closed: impl FnMut(RawFd, Released<T>)) {
        for (fd, entry) in self.range(first, last) {
            if let Some(released) = self.removed(entry.remove()) {
                closed(fd as RawFd, released);
            }
        }
    }

    /// `execve(2)`: the FDs with close-on-exec leave the table, and are passed to `closed` in ascending order.
    pub fn close_on_exec(&self, mut closed: impl FnMut(RawFd, Released<T>)) {
        for (fd, entry) in self.range(0, u32::MAX) {
            if let Some(released) = self.removed(entry.remove_if_cloexec()) {
                closed(fd as RawFd, released);
            }
        }
    }

    /// `fcntl(F_GETFD)`: the close-on-exec flag; `None` if the FD is not in the table.
    pub fn cloexec(&self, fd: RawFd) -> Option<bool> {
        self.entry(fd)?.cloexec()
    }

    /// `fcntl(F_SETFD)`: sets or clears the close-on-exec flag and returns the former one; `None` if the FD is not in
    /// the table.
    pub fn set_cloexec(&self, fd: RawFd, cloexec: bool) -> Option<bool> {
        self.entry(fd)?.set_cloexec(cloexec)
    }

    /// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: sets the close-on-exec flag of the FDs from `first` to `last`
    /// (inclusive).
    pub fn cloexec_range(&self, first: u32, last: u32) {
        for (_, entry) in self.range(first, last) {
            entry.set_cloexec(true);
        }
    }

    /// Visits the FDs in ascending order, with their close-on-exec flags. FDs that come or go meanwhile are visited
    /// or not: a visitor that enters an FD above the one it visits may well meet it.
    pub fn for_each(&self, mut visitor: impl FnMut(RawFd, &Ref<'_, T>, bool)) {
        for (fd, entry) in self.range(0, u32::MAX) {
            if let Some((description, cloexec)) = entry.get() {
                visitor(fd as RawFd, &description, cloexec);
            }
        }
    }

    /// FDs in the table. While other threads change it, may count FDs that are just coming or going; never fewer than
    /// those that are in it all the time.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Whether no FD is in the table. One load; see [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the readers that did not follow through a `fork(2)`: the threads of the parent that were using a
    /// description at that moment do not exist in the child, and would keep it from ever being dropped.
    ///
    /// Calling it is optional: without it, such descriptions are never dropped in the child, and all else is right.
    /// A description that had left the table in the parent when it forked, but was still held, is never dropped
    /// in the child in any case: a thread that no longer exists may be half through dropping it.
    ///
    /// # Safety
    /// Call it in the child of a fork before there is a second thread. This thread has no [`Ref`] and no [`Released`] of this
    /// table that it will use or drop; also not in a frame that a signal handler has interrupted, if the handler is what
    /// forked. (`std::mem::forget` them if need be.) Not for the child of `vfork(2)` or of `clone(2)` with `CLONE_VM`: that
    /// one shares the table with the threads of the parent.
    pub unsafe fn after_fork_in_child(&self) {
        // SAFETY: single thread (the caller). Each reference is used before the next entry is looked at.
        let held = || self.range(0, u32::MAX).filter_map(|(_, entry)| unsafe { entry.forget_readers() });
        held().for_each(Description::reset);
        held().for_each(Description::recount_entry);
        self.open.store(held().count(), Ordering::Relaxed);
    }

    /// The entries from `first` to `last` (inclusive) that may ever have been filled.
    fn range(&self, first: u32, last: u32) -> impl Iterator<Item = (u32, &Entry<T>)> {
        let end = self.end.load(Ordering::Acquire);
        // None at all before the first FD.
        let last = end.checked_sub(1).map(|highest| last.min(highest as u32));
        last.into_iter().flat_map(move |last| self.directory.range(first, last))
    }

    #[inline]
    fn entry(&self, fd: RawFd) -> Option<&Entry<T>> {
        self.directory.get(u32::try_from(fd).ok()?)
    }

    fn entry_to_fill(&self, fd: RawFd) -> Result<&Entry<T>, Error> {
        let index = u32::try_from(fd).map_err(|_| Error::NegativeFd { fd })?;
        // Before the entry is filled: whoever knows of the FD finds it in a walk.
        if self.end.load(Ordering::Relaxed) <= index as usize {
            self.end.fetch_max(index as usize + 1, Ordering::AcqRel);
        }
        self.directory.get_or_grow(index).ok_or(Error::OutOfMemory { fd })
    }

    /// Counts an entry that was swapped out, also by one that was counted before.
    fn removed(&self, before: Option<Released<T>>) -> Option<Released<T>> {
        if before.is_some() {
            self.open.fetch_sub(1, Ordering::Release);
        }
        before
    }
}

impl<T: Send + Sync> Default for FdTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync> Drop for FdTable<T> {
    fn drop(&mut self) {
        self.close_range(0, u32::MAX, |_, released| drop(released));
    }
}

impl<T: Send + Sync + std::fmt::Debug> std::fmt::Debug for FdTable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        self.for_each(|fd, description, _| {
            map.entry(&fd, &**description);
        });
        map.finish()
    }
}
