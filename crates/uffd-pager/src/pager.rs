//! The pager of a process: attaching sources, mapping them, changing mappings.

use crate::attached::Attached;
use crate::buffers::Buffers;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fork::Saved;
use crate::mapping::{Mapping, Protection, Sharing};
use crate::memory::{self, Remap};
use crate::page::{PAGE, offset_of};
use crate::registry::Registry;
use crate::request::MapRequest;
use crate::room::Memory;
use crate::source::PageSource;
use crate::table::{Change, Garbage, Table};
use crate::uffd::{Faults, Features, Uffd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

/// Who serves faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The faulting thread, in the handler of SIGBUS ([`Pager::handle_fault`]). Needs no privilege. A
    /// system call that is handed memory not yet read fails with EFAULT: [`Pager::prefault`] it.
    Signal,
    /// A thread (`monitor::Monitor`), for system calls too. Needs `CAP_SYS_PTRACE`, the sysctl
    /// `vm.unprivileged_userfaultfd` or access to `/dev/userfaultfd`.
    Monitor,
}

/// What the surroundings of a pager do for it.
pub struct Host {
    /// Each userfaultfd that is opened, in a child of a fork too, goes through this, which may move it to where the program does not
    /// meet it.
    pub home: fn(OwnedFd) -> OwnedFd,
    /// Is asked to give back pages of caches that this pager has not attached ([`View::give_back`](crate::View::give_back)), as many as this if it can, when there is no room for
    /// those of its own. Returns how many. Called from the handler of a fault.
    pub reclaim: Box<dyn Fn(u64) -> u64 + Send + Sync>,
}

impl Default for Host {
    fn default() -> Self {
        Self { home: |fd| fd, reclaim: Box::new(|_| 0) }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Maps sources into this process's memory and serves the faults there.
///
/// Every method may be called from any thread; from a signal handler only [`Pager::handle_fault`],
/// [`Pager::serves`] and [`Pager::prefault`].
#[derive(Debug)]
pub struct Pager {
    pub(crate) uffd: Uffd,
    pub(crate) mode: Mode,
    pub(crate) host: Host,
    pub(crate) memory: Memory,
    pub(crate) features: Features,
    pub(crate) table: Table,
    pub(crate) buffers: Buffers,
    pub(crate) attached: Registry,
    pub(crate) saved: Saved,
}

/// A source attached to a pager: to be mapped. Clones are the same.
///
/// Once the last clone and the last mapping are gone, what is dirty is written back; errors are lost then,
/// so call [`Pager::sync_source`] before.
#[derive(Debug, Clone)]
pub struct Source(pub(crate) Arc<Attached>);

impl Source {
    /// Whether both are the same attached source.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The length in bytes, as all processes have it.
    pub fn length(&self) -> u64 {
        self.0.ledger.length()
    }

    /// The shared files.
    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// How many processes have the source attached now, this one included.
    pub fn processes(&self) -> usize {
        self.0.ledger.owners()
    }

    /// Pages that are dirty now, in whatever process.
    pub fn dirty_pages(&self) -> u64 {
        crate::writeback::dirty_pages(&self.0)
    }
}

impl Pager {
    /// A pager for this process; only one may serve a given mapping. ENOSYS, EPERM: the kernel does not let
    /// us ([`Mode`]); EOPNOTSUPP: it is older than 6.1.
    pub fn new(mode: Mode) -> Result<Self> {
        Self::with_host(mode, Host::default())
    }

    /// As [`Pager::new`], for a host of several pagers, or of a program that does not know of it.
    pub fn with_host(mode: Mode, host: Host) -> Result<Self> {
        const ACTION: &str = "opening a userfaultfd";
        let user_mode_only = mode == Mode::Signal;
        let features = Uffd::probe(user_mode_only).map_err(Error::on(ACTION))?;
        if !features.shared_memory() || !features.sigbus() {
            return Err(Error::new(ACTION, Errno::OPNOTSUPP));
        }
        Ok(Self {
            uffd: open(mode).map_err(Error::on(ACTION))?.moved(host.home),
            mode,
            host,
            memory: Memory::default(),
            features,
            table: Table::new(),
            buffers: Buffers::new()?,
            attached: Registry::default(),
            saved: Saved::default(),
        })
    }

    /// Does without what kernels after 6.1 have, for tests on those. Before anything is attached.
    #[doc(hidden)]
    #[must_use]
    pub fn as_on_6_1(self) -> Self {
        Self { features: self.features.as_on_6_1(), ..self }
    }

    /// What the kernel can do, beyond what is needed.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Makes a source mappable. The cache's length is the source's at the time it was made: who makes the
    /// cache passes [`PageSource::len`].
    pub fn attach(&self, source: Arc<dyn PageSource>, cache: Cache) -> Result<Source> {
        let in_steps = !self.features.enters_protected();
        let attached = Arc::new(Attached::new(&self.uffd, in_steps, source, cache)?);
        self.attached.add(&attached);
        Ok(Source(attached))
    }

    /// Maps `length` bytes of a source from byte `offset`, a multiple of the page size, as mmap(2) does, and
    /// returns the address. The range may reach past the end of the file. No page is read.
    ///
    /// # Safety
    ///
    /// With [`Place::Fixed`] the caller gives up what is mapped there. Whoever has it as Rust memory knows
    /// that other processes may change it.
    pub unsafe fn map(&self, source: &Source, request: &MapRequest) -> Result<usize> {
        const ACTION: &str = "mapping a source";
        let MapRequest { place, offset, length, protection, limit, sharing } = *request;
        if length == 0 || offset % PAGE as u64 != 0 {
            return Err(Error::new(ACTION, Errno::INVAL));
        }
        let size = length.checked_next_multiple_of(PAGE).ok_or(Error::new(ACTION, Errno::NOMEM))?;
        offset.checked_add(size as u64).ok_or(Error::new(ACTION, Errno::OVERFLOW))?;
        let attached = &source.0;
        let mut change = self.table.change();
        attached.window.cover(&self.uffd, &attached.cache, attached.ledger.length())?;
        let memory =
            memory::reserve(&attached.cache, place, size, offset, sharing).map_err(Error::on(ACTION))?;
        let mapping = Mapping {
            memory: memory.clone(),
            first_page: offset / PAGE as u64,
            attached: attached.clone(),
            sharing,
            protection,
            limit,
            inherited: true,
            tracked: sharing == Sharing::Shared && protection.writable(),
        };
        let registered = memory::register(&self.uffd, &memory, faults(mapping.tracked));
        let garbage = match registered {
            Ok(()) => change.publish(&memory, vec![mapping]),
            // What was mapped there before is gone in any case, as with mmap(2).
            Err(_) => change.publish(&memory, Vec::new()),
        };
        // Only now, with everything in place, can anybody touch it.
        let done = registered.and_then(|()| memory::protect(&memory, protection));
        drop(change);
        drop(garbage);
        if let Err(errno) = done {
            // SAFETY: nobody knows the address yet.
            unsafe { self.unmap(memory.clone()) }?;
            memory::unmap(&memory).map_err(Error::on(ACTION))?;
            return Err(Error::new(ACTION, errno));
        }
        Ok(memory.start)
    }

    /// Whether any of the addresses is mapped by this pager. Signal handlers may call it.
    pub fn serves(&self, memory: Range<usize>) -> bool {
        !self.table.read().overlapping(&memory).is_empty()
    }

    /// The served parts of a range, ascending: addresses, source and offset there in bytes.
    pub fn mappings(&self, memory: Range<usize>) -> Vec<(Range<usize>, Source, u64)> {
        let reader = self.table.read();
        let parts = reader.overlapping(&memory).iter().map(|mapping| mapping.part(&memory));
        parts.map(|part| (part.memory, Source(part.attached), offset_of(part.first_page))).collect()
    }

    /// Whether all that is served of a range is shared, and may be mapped for writing: what madvise(2) asks for `MADV_REMOVE`.
    pub fn may_be_removed(&self, memory: Range<usize>) -> bool {
        let reader = self.table.read();
        let allowed = |row: &Mapping| row.sharing == Sharing::Shared && Protection::WRITE.within(row.limit);
        reader.overlapping(&memory).iter().all(allowed)
    }

    /// munmap(2) for the served parts of a range, whole pages; the rest is left alone. What was stored
    /// stays dirty in the cache.
    ///
    /// # Safety
    ///
    /// Nobody uses the memory any more.
    pub unsafe fn unmap(&self, memory: Range<usize>) -> Result<()> {
        let memory = whole_pages(memory);
        let mut change = self.table.change();
        let parts = parts(&change, &memory);
        let result = parts.iter().try_for_each(|part| memory::unmap(&part.memory));
        let garbage = change.publish(&memory, Vec::new());
        drop(change);
        drop((garbage, parts));
        result.map_err(Error::on("unmapping a source"))
    }

    /// Makes `call`, a system call of the program that unmaps a range or maps something else over it; if it succeeds, the
    /// pager forgets its mappings there; the second value says whether there were any. Nothing can be mapped by this pager in between.
    pub fn replace<T, E>(
        &self,
        memory: Range<usize>,
        call: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<(T, bool), E> {
        let mut change = self.table.change();
        let done = call()?;
        if change.overlapping(&whole_pages(memory.clone())).is_empty() {
            return Ok((done, false));
        }
        let garbage = change.publish(&whole_pages(memory), Vec::new());
        drop(change);
        drop(garbage);
        Ok((done, true))
    }

    /// `MADV_DONTFORK` and `MADV_DOFORK` for the served parts of a range: whether a child is to have them. (The kernel's own
    /// mark is on all of them, always.)
    pub fn inherit(&self, memory: Range<usize>, inherited: bool) {
        let mut change = self.table.change();
        let mut rows = parts(&change, &whole_pages(memory));
        for row in &mut rows {
            row.inherited = inherited;
        }
        let garbage =
            rows.into_iter().map(|row| change.publish(&row.memory.clone(), vec![row])).collect::<Vec<_>>();
        drop(change);
        drop(garbage);
    }

    /// Whether anything at all is mapped by this pager.
    pub fn is_mapping(&self) -> bool {
        !self.table.read().rows().is_empty()
    }

    /// Whether any mapping is of this source.
    pub fn maps(&self, source: &Source) -> bool {
        self.table.read().rows().iter().any(|row| Arc::ptr_eq(&row.attached, &source.0))
    }

    /// mprotect(2) for the served parts of a range; the rest is left alone. EACCES: more than [`MapRequest::limit`] of
    /// one of them, and nothing is changed.
    ///
    /// # Safety
    ///
    /// No reference to the memory relies on an access that is taken away.
    pub unsafe fn protect(&self, memory: Range<usize>, protection: Protection) -> Result<()> {
        let memory = whole_pages(memory);
        let mut change = self.table.change();
        let mut rows = parts(&change, &memory);
        if rows.iter().any(|part| !protection.within(part.limit)) {
            return Err(Error::new("protecting a mapped source", Errno::ACCESS));
        }
        let result = rows.iter_mut().try_for_each(|part| {
            if part.sharing == Sharing::Shared && protection.writable() && !part.tracked {
                memory::register(&self.uffd, &part.memory, faults(true))?;
                part.tracked = true;
            }
            memory::protect(&part.memory, protection)?;
            part.protection = protection;
            Ok(())
        });
        let garbage =
            rows.into_iter().map(|row| change.publish(&row.memory.clone(), vec![row])).collect::<Vec<_>>();
        drop(change);
        drop(garbage);
        result.map_err(Error::on("protecting a mapped source"))
    }

    /// mremap(2) of a range inside one mapping to `size` bytes, whole pages. Returns the new address.
    /// EFAULT: the range is not inside one mapping; EINVAL: `size` is 0.
    ///
    /// # Safety
    ///
    /// Nobody uses the old range any more, nor what is at a fixed place.
    pub unsafe fn remap(&self, memory: Range<usize>, size: usize, place: Remap) -> Result<usize> {
        const ACTION: &str = "remapping a source";
        let (memory, size) = (whole_pages(memory), size.next_multiple_of(PAGE));
        let mut change = self.table.change();
        let Some(part) = change
            .overlapping(&memory)
            .first()
            .filter(|row| row.memory.start <= memory.start && memory.end <= row.memory.end)
            .map(|row| row.part(&memory))
        else {
            return Err(Error::new(ACTION, Errno::FAULT));
        };
        if size == 0 {
            return Err(Error::new(ACTION, Errno::INVAL));
        }
        let new = memory::remap(&memory, size, place).map_err(Error::on(ACTION))?;
        // Moving ends the registration, growing leaves the new part without protection. Nobody
        // knows the new address yet.
        let registered = memory::register(&self.uffd, &new, faults(part.tracked));
        let moved = Mapping { memory: new.clone(), ..part };
        let garbage = if new.start == memory.start {
            // At once: others may be touching the pages that stay.
            [change.publish(&(new.start..new.end.max(memory.end)), vec![moved]), Garbage::default()]
        } else {
            [change.publish(&memory, Vec::new()), change.publish(&new, vec![moved])]
        };
        drop(change);
        drop(garbage);
        registered.map_err(Error::on(ACTION))?;
        Ok(new.start)
    }
}

/// The faults that are reported of a mapping.
pub(crate) fn faults(tracked: bool) -> Faults {
    if tracked { Faults::All } else { Faults::Missing }
}

/// A userfaultfd as the mode needs it.
pub(crate) fn open(mode: Mode) -> std::result::Result<Uffd, Errno> {
    match mode {
        Mode::Signal => Uffd::open(linux_raw_sys::general::UFFD_FEATURE_SIGBUS.into(), true),
        Mode::Monitor => Uffd::open(0, false),
    }
}

fn parts(change: &Change<'_>, memory: &Range<usize>) -> Vec<Mapping> {
    change.overlapping(memory).iter().map(|row| row.part(memory)).collect()
}

fn whole_pages(memory: Range<usize>) -> Range<usize> {
    memory.start / PAGE * PAGE..memory.end.next_multiple_of(PAGE)
}
