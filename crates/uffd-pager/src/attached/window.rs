//! The pager's own view of a cache, which pages are brought in by.
//!
//! Not by the program's addresses: another thread may map something else there while the source is being
//! read, and the page would end up in the wrong file.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::memory::{open_own, unmap};
use crate::page::{PAGE, offset_of, pages_of};
use crate::uffd::{Access, Faults, Uffd};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, Ordering};

const LEAST: usize = 1 << 20;

/// A shared mapping of the whole cache, larger than it so that it need not follow every growth.
#[derive(Debug, Default)]
pub(crate) struct Window {
    view: AtomicPtr<View>,
}

#[derive(Debug)]
struct View {
    memory: Range<usize>,
    /// What faults in other threads may still use.
    previous: *mut View,
}

impl Window {
    /// Makes it cover a file of `length` bytes. By one thread at a time.
    pub(crate) fn cover(&self, uffd: &Uffd, cache: &Cache, length: u64) -> Result<()> {
        let needed = pages_of(length) as usize * PAGE;
        let view = self.view.load(Ordering::Acquire);
        // SAFETY: null, or a view that lives until `self` drops.
        if unsafe { view.as_ref() }.is_some_and(|view| view.memory.len() >= needed) {
            return Ok(());
        }
        let size = (needed + needed / 2).max(LEAST).next_multiple_of(PAGE);
        // Only this thread stores to `view`, so what was loaded above is still there.
        let new = Box::new(View { memory: map(uffd, cache, size, 0)?, previous: view });
        self.view.store(Box::into_raw(new), Ordering::Release);
        Ok(())
    }

    /// Brings pages in; those that are there already stay as they are.
    pub(crate) fn fill(
        &self,
        uffd: &Uffd,
        cache: &Cache,
        first: u64,
        data: &[u8],
    ) -> std::result::Result<(), Errno> {
        // SAFETY: as in `cover`.
        let view = unsafe { self.view.load(Ordering::Acquire).as_ref() }.ok_or(Errno::FAULT)?;
        let offset = offset_of(first) as usize;
        if offset + data.len() <= view.memory.len() {
            return uffd.fill(view.memory.start + offset, data, Access::AsMapped, |_| Ok(()));
        }
        // Another process has made the file grow. Here, maybe in a signal handler, nothing can be allocated.
        let memory = map(uffd, cache, data.len(), offset as u64).map_err(|error| error.errno())?;
        let result = uffd.fill(memory.start, data, Access::AsMapped, |_| Ok(()));
        unmap(&memory)?;
        result
    }

    /// In the child of a fork, where nothing is mapped at the parent's address.
    pub(crate) fn forget(&self) {
        self.view.store(std::ptr::null_mut(), Ordering::Release);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut next = *self.view.get_mut();
        while !next.is_null() {
            // SAFETY: made by `Box::into_raw` in `cover`; nobody else has `self`.
            let view = unsafe { Box::from_raw(next) };
            let unmapped = unmap(&view.memory);
            debug_assert_eq!(unmapped, Ok(()));
            next = view.previous;
        }
    }
}

fn map(uffd: &Uffd, cache: &Cache, size: usize, offset: u64) -> Result<Range<usize>> {
    // No access before it is registered: see `open_own`.
    let (protection, flags) = (ProtFlags::empty(), MapFlags::SHARED | MapFlags::NORESERVE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, protection, flags, &cache.pages, offset) }
            .map_err(Error::on("mapping the pager's window"))?;
    let memory = base.addr()..base.addr() + size;
    // SAFETY: the mapping just made, which nobody knows yet.
    unsafe { rustix::mm::madvise(base, size, Advice::LinuxDontFork) }
        .and_then(|()| uffd.register(&memory, Faults::Missing))
        .and_then(|()| open_own(&memory))
        .map_err(|errno| {
            // SAFETY: as above.
            let _ = unsafe { rustix::mm::munmap(base, size) };
            Error::new("registering the pager's window", errno)
        })?;
    Ok(memory)
}
