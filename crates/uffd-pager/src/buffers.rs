//! Memory that pages are read into before they are mapped: there from the start, as a fault cannot allocate.

use crate::error::{Error, Result};
use crate::memory::open_own;
use crate::page::PAGE;
use crate::runs::MAX_RUN;
use crate::wait::Backoff;
use rustix::mm::{MapFlags, ProtFlags};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// How deep sources may be nested: a source that touches memory served by another one, and so on.
pub const MAX_NESTING: usize = 4;
const COUNT: usize = 32;
const SIZE: usize = MAX_RUN as usize * PAGE;

/// Buffers of 1 MiB each; memory is used where they are filled.
#[derive(Debug)]
pub(crate) struct Buffers {
    base: NonNull<u8>,
    /// The thread that has each of them, 0 for none, and what for.
    users: [(AtomicI32, AtomicUsize); COUNT],
}

// SAFETY: a buffer is accessed by the one thread whose id is entered for it.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}

impl Buffers {
    pub(crate) fn new() -> Result<Self> {
        let protection = ProtFlags::empty();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: new anonymous memory at an address of the kernel's choice.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), COUNT * SIZE, protection, flags) }
                .and_then(|base| open_own(&(base.addr()..base.addr() + COUNT * SIZE)).map(|()| base))
                .map_err(Error::on("allocating the pager's buffers"))?;
        let users = std::array::from_fn(|_| (AtomicI32::new(0), AtomicUsize::new(0)));
        Ok(Self { base: NonNull::new(base.cast()).expect("mmap does not return null"), users })
    }

    /// A buffer for this thread, waiting if all are in use. `None`: the thread has [`MAX_NESTING`] of them.
    pub(crate) fn take(&self, purpose: usize) -> Option<Buffer<'_>> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let nested = self.users.iter().filter(|(user, _)| user.load(Ordering::Relaxed) == thread).count();
        if nested >= MAX_NESTING {
            return None;
        }
        let mut backoff = Backoff::default();
        loop {
            let buffer = self.try_take(purpose);
            if buffer.is_some() {
                return buffer;
            }
            backoff.pause();
        }
    }

    /// A buffer for this thread, which may have one that others wait for. `None`: all are in use.
    pub(crate) fn try_take(&self, purpose: usize) -> Option<Buffer<'_>> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.users.iter().enumerate().find_map(|(index, (user, what))| {
            if user.load(Ordering::Relaxed) != 0 {
                return None;
            }
            user.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).ok()?;
            what.store(purpose, Ordering::Relaxed);
            Some(Buffer { buffers: self, index })
        })
    }

    /// Whether this thread has a buffer for that purpose.
    pub(crate) fn in_use_here(&self, purpose: usize) -> bool {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.users.iter().any(|(user, what)| {
            user.load(Ordering::Relaxed) == thread && what.load(Ordering::Relaxed) == purpose
        })
    }

    /// Whether this thread has a buffer: it is reading or writing some source.
    pub(crate) fn any_in_use_here(&self) -> bool {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.users.iter().any(|(user, _)| user.load(Ordering::Relaxed) == thread)
    }

    /// In the child of a fork: the other threads, and what they had, are gone.
    pub(crate) fn free_all(&self) {
        for (user, _) in &self.users {
            user.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; `Buffer` borrows `self`, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), COUNT * SIZE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// A buffer of [`MAX_RUN`] pages, given back when dropped.
pub(crate) struct Buffer<'a> {
    buffers: &'a Buffers,
    index: usize,
}

impl Buffer<'_> {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: inside the mapping (`index < COUNT`), initialised (anonymous memory is zero), and ours
        // alone: our thread id is in `users[index]`, and `&mut self` keeps the slice the only one.
        unsafe { std::slice::from_raw_parts_mut(self.buffers.base.add(self.index * SIZE).as_ptr(), SIZE) }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.buffers.users[self.index].0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_as_many_as_sources_may_nest() {
        let buffers = Buffers::new().expect("address space");
        let taken: Vec<_> = (0..MAX_NESTING).map(|depth| buffers.take(depth + 1).expect("not yet")).collect();
        assert!(buffers.take(9).is_none());
        assert!(buffers.in_use_here(1) && !buffers.in_use_here(9));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(buffers.take(9).is_some(), "another thread"));
        });
        drop(taken);
        assert!(buffers.take(9).is_some());
    }

    #[test]
    fn who_may_not_wait_for_a_buffer_does_without() {
        let buffers = Buffers::new().expect("address space");
        let taken: Vec<_> = std::iter::from_fn(|| buffers.try_take(1)).collect();
        assert_eq!(taken.len(), COUNT);
        drop(taken);
        assert!(buffers.try_take(1).is_some());
    }
}
