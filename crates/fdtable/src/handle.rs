//! Handles of a description: in use by a reader, or released by an FD.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::description::Description;
use crate::entry::Entry;

/// A description in use. It stays valid whatever happens to the FD it was looked up by.
///
/// May be kept for any time, moved to other threads and cloned. Dropping it takes no lock; if it is the last handle of a
/// description without FDs, the value is dropped here, in the caller's context.
pub struct Ref<'table, T> {
    description: NonNull<Description<T>>,
    /// The entry that counted this reader; `None`: the description counts it.
    entry: Option<&'table Entry<T>>,
    owned: PhantomData<T>,
}

/// What an FD stood for until it was closed or replaced.
///
/// Dropping it drops the value if no other FD and no reader has it; else the last of those drops it.
#[must_use = "dropping it may drop the value in this context"]
pub struct Released<T> {
    description: NonNull<Description<T>>,
    is_last_fd: bool,
    owned: PhantomData<T>,
}

// SAFETY: like `Arc`: a handle shares the value among threads (`Sync`) and may drop it on any of them (`Send`).
unsafe impl<T: Send + Sync> Send for Ref<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Ref<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Released<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Released<T> {}

impl<'table, T> Ref<'table, T> {
    /// FDs that share this description now. 0: all were closed while it is in use here.
    ///
    /// (An associated function, so that it does not hide a method of `T`; so are the others.)
    pub fn fds(this: &Self) -> u64 {
        this.description().fds()
    }

    /// Whether both are the same description, as after `dup`.
    pub fn same(this: &Self, other: &Ref<'_, T>) -> bool {
        this.description == other.description
    }

    /// A handle for a reader that the entry counts.
    ///
    /// # Safety
    /// It does, since it holds `description`, and no other handle stands for that reader.
    pub(crate) unsafe fn counted_by(entry: &'table Entry<T>, description: NonNull<Description<T>>) -> Self {
        Self { description, entry: Some(entry), owned: PhantomData }
    }

    pub(crate) fn description(&self) -> &Description<T> {
        // SAFETY: this handle keeps it alive, and nobody changes it but by its atomics.
        unsafe { self.description.as_ref() }
    }

    pub(crate) fn pointer(&self) -> NonNull<Description<T>> {
        self.description
    }
}

impl<T> Clone for Ref<'_, T> {
    fn clone(&self) -> Self {
        self.description().retain(1);
        Self { description: self.description, entry: None, owned: PhantomData }
    }
}

impl<T> Drop for Ref<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this handle is counted where `entry` says, and ends here.
        unsafe {
            match self.entry {
                Some(entry) => entry.end_reader(self.description),
                None => Description::release(self.description, 1),
            }
        }
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.description().value()
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ref").field(&**self).finish()
    }
}

impl<T> Released<T> {
    /// Whether this was the last FD of the description. Told exactly once per description; it cannot get an FD again.
    ///
    /// Readers may still be using the value, also if true.
    pub fn is_last_fd(&self) -> bool {
        self.is_last_fd
    }

    /// The value, if no other FD and no reader has it; else `None`, and the last of those drops it.
    pub fn into_inner(self) -> Option<T> {
        let this = ManuallyDrop::new(self);
        // SAFETY: the description counts this handle, which ends here.
        unsafe { Description::release_into_inner(this.description, 1) }
    }

    /// # Safety
    /// The description counts 1 for this handle and for no other.
    pub(crate) unsafe fn counted_by_description(
        description: NonNull<Description<T>>,
        is_last_fd: bool,
    ) -> Self {
        Self { description, is_last_fd, owned: PhantomData }
    }
}

impl<T> Drop for Released<T> {
    fn drop(&mut self) {
        // SAFETY: the description counts this handle, which ends here.
        unsafe { Description::release(self.description, 1) };
    }
}

impl<T> Deref for Released<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this handle keeps it alive, and nobody changes it but by its atomics.
        unsafe { self.description.as_ref() }.value()
    }
}

impl<T: fmt::Debug> fmt::Debug for Released<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Released")
            .field("is_last_fd", &self.is_last_fd)
            .field("value", &**self)
            .finish_non_exhaustive()
    }
}
