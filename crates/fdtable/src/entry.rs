//! One FD of the table: a split reference count around one atomic word.
//!
//! A reader must learn the address of the description and become a holder of it in one step, or the description could
//! be freed in between. So the count of readers in flight stands in the same word as the address, and one `fetch_add`
//! does both. When the FD is closed or replaced, the word is swapped out whole, and the readers it counted are moved
//! to the description's own count.
//!
//! Invariant, for each description at all times:
//!
//! > `count` = (sum over the entries that hold it of `ENTRY_WEIGHT - readers`) + (handles that exist)
//!
//! where handles are [`Ref`](crate::Ref)s and [`Released`](crate::Released)s, wherever they are counted.
//!
//! - Entering adds `ENTRY_WEIGHT` to `count` *before* the word is published.
//! - A reader adds 1 to `readers` of the word: one handle more.
//! - Swapping the word out removes `ENTRY_WEIGHT - readers` from `count` afterwards. All readers the word could count
//!   were paid for beforehand, so that a reader that ends between the swap and this subtraction cannot reach 0.
//! - A reader ends by subtracting 1 either from `readers` of the entry, if that (still or again) holds the same
//!   description and counts a reader, or else from `count`. Both keep the invariant, *whichever* reader the entry counted.
//!
//! The last point is why the ABA problem does not arise: while a reader exists `count` is not 0, so its description is
//! not freed, and no other can be at its address. If the entry holds the same address again, it is the same description,
//! and which of its readers are counted where makes no difference.
//!
//! A reader of an entry that was closed just before its `fetch_add` has counted itself in an empty word. It
//! subtracts itself again if the word is still (or again) empty and counts a reader; if a description was entered
//! meanwhile, the swap dropped that count.

use std::marker::PhantomData;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use crate::description::Description;
use crate::handle::{Ref, Released};
use crate::sync::{AtomicU64, Ordering};
use crate::word::{CROWDED, ENTRY_WEIGHT, Word};

/// One FD of the table.
pub(crate) struct Entry<T> {
    word: AtomicU64,
    descriptions: PhantomData<NonNull<Description<T>>>,
}

// SAFETY: an entry is an atomic word. It lets any thread share (`Sync`), and drop (`Send`), the description it holds.
unsafe impl<T: Send + Sync> Sync for Entry<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Entry<T> {}

impl<T> Entry<T> {
    /// The entry of an FD that is not open.
    pub(crate) fn empty() -> Self {
        Self { word: AtomicU64::new(Word::EMPTY.0), descriptions: PhantomData }
    }

    /// What this FD stands for, and its close-on-exec flag.
    pub(crate) fn get(&self) -> Option<(Ref<'_, T>, bool)> {
        // Most FDs a process asks for are not in the table: don't take the cache line for writing for those.
        if !self.load().is_open() {
            return None;
        }
        // Acquire: pairs with the Release of the swap that entered the description.
        let before = Word(self.word.fetch_add(Word::ONE_READER, Ordering::Acquire));
        let Some(description) = pointer(before) else {
            self.uncount_reader(Word::EMPTY.address());
            return None;
        };
        // SAFETY: the invariant: the reader just counted is this handle.
        let handle = unsafe { Ref::counted_by(self, description) };
        // A clone is counted by the description; the reader counted here ends.
        let handle = if before.readers() >= CROWDED { handle.clone() } else { handle };
        Some((handle, before.cloexec()))
    }

    /// Enters a description; returns what this FD stood for before.
    ///
    /// # Safety
    /// The caller hands over `ENTRY_WEIGHT` of the description's count and one of its FDs.
    pub(crate) unsafe fn replace(
        &self,
        description: NonNull<Description<T>>,
        cloexec: bool,
    ) -> Option<Released<T>> {
        // Release: publishes the description. Acquire: see `released`.
        let word = Word::open(description.as_ptr().expose_provenance(), cloexec);
        let before = Word(self.word.swap(word.0, Ordering::AcqRel));
        // SAFETY: just swapped out.
        unsafe { released(before) }
    }

    /// Closes this FD.
    pub(crate) fn remove(&self) -> Option<Released<T>> {
        if !self.load().is_open() {
            return None;
        }
        let before = Word(self.word.swap(Word::EMPTY.0, Ordering::AcqRel));
        // SAFETY: just swapped out.
        unsafe { released(before) }
    }

    /// Closes this FD if it is close-on-exec.
    pub(crate) fn remove_if_cloexec(&self) -> Option<Released<T>> {
        let before = self.update(|word| word.cloexec().then_some(Word::EMPTY))?;
        // SAFETY: just swapped out.
        unsafe { released(before) }
    }

    /// The close-on-exec flag, `None` if not open.
    pub(crate) fn cloexec(&self) -> Option<bool> {
        let word = self.load();
        word.is_open().then(|| word.cloexec())
    }

    /// Changes the close-on-exec flag; returns the former one, `None` if not open.
    pub(crate) fn set_cloexec(&self, cloexec: bool) -> Option<bool> {
        self.update(|word| word.is_open().then(|| word.with_cloexec(cloexec))).map(Word::cloexec)
    }

    /// Forgets the readers in flight and returns the description.
    ///
    /// # Safety
    /// No other thread uses the table, and the one reference returned is used only while this entry is not changed.
    pub(crate) unsafe fn forget_readers(&self) -> Option<&Description<T>> {
        let word = self.load().without_readers();
        self.word.store(word.0, Ordering::Relaxed);
        // SAFETY: the entry holds it.
        pointer(word).map(|description| unsafe { description.as_ref() })
    }

    /// Ends a reader that this entry counted when it held `description`.
    ///
    /// # Safety
    /// `description` is alive by that reader, which no longer uses it.
    pub(crate) unsafe fn end_reader(&self, description: NonNull<Description<T>>) {
        if !self.uncount_reader(description.as_ptr().addr()) {
            // SAFETY: the invariant: this reader is counted by the description then.
            unsafe { Description::release(description, 1) };
        }
    }

    /// Counts a reader less if the entry holds this address (0: is empty) and counts one.
    fn uncount_reader(&self, address: usize) -> bool {
        self.update(|word| {
            (word.address() == address && word.readers() > 0).then(|| Word(word.0 - Word::ONE_READER))
        })
        .is_some()
    }

    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Changes the word unless `change` refuses; returns the former word.
    fn update(&self, change: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        // Release: a reader's use of the description happens before the swap that takes its count.
        // Acquire: for `remove_if_cloexec`, which is such a swap.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| change(Word(word)).map(|word| word.0))
            .ok()
            .map(Word)
    }
}

/// In the models nobody leaks a handle: no reader may be left, not even in an empty word.
#[cfg(loom)]
impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        assert_eq!(self.load(), Word::EMPTY, "a reader was not counted off");
    }
}

/// Moves what a word held to a handle: its readers to the description's count, the FD to `Released`.
///
/// # Safety
/// The word was swapped out of an entry with Acquire ordering, by the caller and for this one call.
unsafe fn released<T>(word: Word) -> Option<Released<T>> {
    let description = pointer(word)?;
    // SAFETY: alive by the weight that the word held.
    let is_last_fd = unsafe { description.as_ref() }.leave();
    // 1 stays for the handle.
    // SAFETY: the weight of the word less its readers, which are handles of their own, less this handle.
    // ENTRY_WEIGHT exceeds `readers` by 1 at least.
    let surplus = ENTRY_WEIGHT - word.readers() - 1;
    if surplus > 0 {
        // SAFETY: as above.
        unsafe { Description::release(description, surplus) };
    }
    // SAFETY: the 1 that was left.
    Some(unsafe { Released::counted_by_description(description, is_last_fd) })
}

fn pointer<T>(word: Word) -> Option<NonNull<Description<T>>> {
    NonNull::new(with_exposed_provenance_mut(word.address()))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn entry(value: &Arc<()>) -> Entry<Arc<()>> {
        let entry = Entry::empty();
        let description = Description::allocate(value.clone()).expect("memory");
        // SAFETY: a new description comes with this weight and one FD.
        assert!(unsafe { entry.replace(description, true) }.is_none());
        entry
    }

    /// Leaked handles (`mem::forget`) and millions of kept ones do not run into the next field of the word.
    #[test]
    fn a_crowd_of_readers_is_counted_by_the_description() {
        let value = Arc::new(());
        let entry = entry(&value);
        let kept: Vec<_> = (0..CROWDED + 3).map(|_| entry.get().expect("open")).collect();
        assert_eq!(entry.load().readers(), CROWDED);
        assert!(kept.iter().all(|(_, cloexec)| *cloexec));
        drop(entry.remove());
        assert_eq!(Arc::strong_count(&value), 2, "kept by its readers");
        drop(kept);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn an_entry_counts_no_reader_when_all_are_done() {
        let value = Arc::new(());
        let entry = entry(&value);
        let (first, second) = (entry.get(), entry.get());
        assert_eq!(entry.load().readers(), 2);
        drop((first, second));
        assert_eq!(entry.load().readers(), 0);
        drop(entry.remove());
        assert_eq!(Word(entry.word.load(Ordering::Relaxed)), Word::EMPTY);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn as_many_readers_as_fit_are_moved_at_once() {
        let value = Arc::new(());
        let entry = entry(&value);
        let all = ENTRY_WEIGHT - 1;
        entry.word.fetch_add(all, Ordering::Relaxed);
        let description: NonNull<Description<Arc<()>>> = pointer(entry.load()).expect("open");
        drop(entry.remove());
        assert_eq!(Arc::strong_count(&value), 2);
        // SAFETY: the readers added above, which end here.
        unsafe { Description::release(description, all) };
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
