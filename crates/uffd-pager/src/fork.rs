//! Over a fork: served mappings are not inherited (`MADV_DONTFORK`), the child maps them again.
//!
//! An inherited mapping would not be registered in the child, and its first touch of a missing page would put
//! a page of zeros into the cache that everybody shares. So a child whose program got past these calls
//! has nothing there, and gets SIGSEGV.

use crate::attached::Attached;
use crate::error::{Error, Result};
use crate::exec::Inside;
use crate::ledger::Ledger;
use crate::mapping::{Mapping, Sharing};
use crate::memory::{self, Place};
use crate::page::{PAGE, offset_of};
use crate::pager::{Pager, faults};
use crate::uffd::{Access, Faults, Uffd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread};
use std::cell::UnsafeCell;
use std::sync::Arc;

/// Bits of `/proc/PID/pagemap` (pagemap(5)): in memory or swapped out, and not of the file's own.
const PRESENT: u64 = 1 << 63 | 1 << 62;
const OF_FILE: u64 = 1 << 61;

const AGAIN: &str = "mapping sources again after a fork";

type Pages = Vec<(usize, Vec<u8>)>;

/// For the span of a fork: what private mappings hold of their own (addresses and pages), the ledgers in which a child is expected, and that no exec
/// ends this thread meanwhile, after which it would be expected for ever.
#[derive(Debug, Default)]
pub(crate) struct Saved(UnsafeCell<(Pages, Vec<Arc<Ledger>>, Option<Inside>)>);

// SAFETY: accessed between `before_fork` and `after_fork_in_*` only, which hold the table's and the
// registry's locks against other threads' forks.
unsafe impl Sync for Saved {}

impl Pager {
    /// To be called before fork(2), clone(2) without `CLONE_VM`, in the thread that makes it. Copies the pages that
    /// private mappings have of their own; the other threads' `map`s and `unmap`s wait until
    /// [`Pager::after_fork_in_parent`]. Not for vfork, where the child shares the memory and needs nothing.
    pub fn before_fork(&self) -> Result<()> {
        let change = self.table.change();
        self.attached.hold();
        let saved = save(change.rows());
        std::mem::forget(change);
        match saved {
            Ok(pages) => {
                // The child will be there, whatever becomes of this process meanwhile.
                let expecting = self.attached.ledgers_held();
                let inside = Inside::enter();
                for ledger in &expecting {
                    ledger.expect();
                }
                // SAFETY: the locks are held.
                unsafe { *self.saved.0.get() = (pages, expecting, Some(inside)) };
                Ok(())
            }
            Err(errno) => {
                self.release_after_fork();
                Err(Error::new("copying private pages for a fork", errno))
            }
        }
    }

    /// To be called after the fork in the parent; `made` says whether there is a child.
    pub fn after_fork_in_parent(&self, made: bool) {
        if !made {
            // SAFETY: the locks taken by `before_fork` are held.
            let (_, expecting, _) = unsafe { &*self.saved.0.get() };
            for ledger in expecting {
                ledger.expect_no_more();
            }
        }
        self.release_after_fork();
    }

    fn release_after_fork(&self) {
        // SAFETY: the locks taken by `before_fork` are held.
        drop(std::mem::take(unsafe { &mut *self.saved.0.get() }));
        self.attached.let_go();
        self.table.release();
    }

    /// To be called in the child before its program goes on: maps and registers everything again, at the same
    /// addresses. With an error some mappings are missing: touching them is SIGSEGV. A
    /// `monitor::Monitor` must be started again after it.
    ///
    /// Without [`Pager::before_fork`] in the parent, what was stored to private mappings is lost in the child.
    pub fn after_fork_in_child(&self) -> Result<()> {
        self.go_on_in_child(false)
    }

    /// As [`Pager::after_fork_in_child`], in a child that has its FD table in common with its parent: the descriptors there are the parent's to close, so
    /// this one gets its own.
    pub fn after_fork_in_child_with_common_descriptors(&self) -> Result<()> {
        self.uffd.leave();
        self.go_on_in_child(true)
    }

    fn go_on_in_child(&self, common_descriptors: bool) -> Result<()> {
        self.buffers.free_all();
        self.table.reset();
        self.attached.let_go();
        let renewed = if common_descriptors { self.renew_descriptors() } else { Ok(()) };
        // SAFETY: the only thread of this process.
        let (saved, expecting, _) = std::mem::take(unsafe { &mut *self.saved.0.get() });
        let result = match renewed.and_then(|()| crate::pager::open(self.mode)) {
            Ok(uffd) => {
                self.uffd.replace(uffd.moved(self.host.home));
                self.map_all_again(&saved)
            }
            Err(errno) => {
                // The one that there was is the parent's, as are the slots.
                self.uffd.replace(Uffd::none());
                self.attached.all().iter().for_each(|attached| attached.give_up());
                Err(Error::new(AGAIN, errno))
            }
        };
        for ledger in &expecting {
            ledger.expect_no_more();
        }
        let mut change = self.table.change();
        let is_there = |row: &&Mapping| row.inherited && row.attached.is_usable();
        let gone = change.rows().iter().filter(|row| !is_there(row)).map(|row| row.memory.clone());
        let left: Vec<_> = gone.collect();
        let garbage = left.iter().map(|memory| change.publish(memory, Vec::new())).collect::<Vec<_>>();
        drop(change);
        drop(garbage);
        result
    }

    fn renew_descriptors(&self) -> std::result::Result<(), Errno> {
        let renew = |attached: &Arc<Attached>| {
            // SAFETY: the only thread of this process, in which nothing of the pager's is in use.
            unsafe { attached.cache.renew(self.host.home) }
        };
        self.attached.all().iter().map(renew).fold(Ok(()), std::result::Result::and)
    }

    /// The first error, after the rest was tried.
    fn map_all_again(&self, saved: &[(usize, Vec<u8>)]) -> Result<()> {
        let mut result = Ok(());
        let reader = self.table.read();
        let inherited = || reader.rows().iter().filter(|mapping| mapping.inherited);
        // First what has its place: a window, or memory allocated, could come to lie there.
        for mapping in inherited() {
            let faults = faults(mapping.tracked);
            result = result.and(map_again(&self.uffd, faults, mapping, saved).map_err(Error::on(AGAIN)));
        }
        for attached in self.attached.all() {
            result = result.and(attached.renew(&self.uffd));
        }
        for row in inherited().filter(|row| !row.attached.is_usable()) {
            result = result.and(memory::unmap(&row.memory).map_err(Error::on(AGAIN)));
        }
        result
    }
}

fn map_again(
    uffd: &Uffd,
    faults: Faults,
    mapping: &Mapping,
    saved: &[(usize, Vec<u8>)],
) -> std::result::Result<(), Errno> {
    let memory = &mapping.memory;
    let place = Place::FixedNoReplace(memory.start);
    memory::reserve(
        &mapping.attached.cache,
        place,
        memory.len(),
        offset_of(mapping.first_page),
        mapping.sharing,
    )?;
    memory::register(uffd, memory, faults)?;
    for (address, pages) in saved.iter().filter(|(address, _)| memory.contains(address)) {
        uffd.fill(*address, pages, Access::AsMapped, |_| Ok(()))?;
    }
    memory::protect(memory, mapping.protection)
}

/// Reads what private mappings have of their own, by `/proc/self/mem`: whatever their protection.
fn save(rows: &[Mapping]) -> std::result::Result<Pages, Errno> {
    let mut saved = Vec::new();
    if rows.iter().all(|row| row.sharing == Sharing::Shared || !row.inherited) {
        return Ok(saved);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let pagemap = open(c"/proc/self/pagemap", flags, Mode::empty())?;
    let contents = open(c"/proc/self/mem", flags, Mode::empty())?;
    let mut entries = [0; 512 * 8];
    for row in rows.iter().filter(|row| row.sharing == Sharing::Private && row.inherited) {
        for chunk in row.memory.clone().step_by(512 * PAGE) {
            let pages = ((row.memory.end - chunk) / PAGE).min(512);
            let bytes = &mut entries[..pages * 8];
            if pread(&pagemap, &mut *bytes, (chunk / PAGE * 8) as u64)? != bytes.len() {
                return Err(Errno::IO);
            }
            for (index, entry) in bytes.chunks_exact(8).enumerate() {
                let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
                if entry & PRESENT != 0 && entry & OF_FILE == 0 {
                    let address = chunk + index * PAGE;
                    let mut page = vec![0; PAGE];
                    if pread(&contents, &mut page, address as u64)? != PAGE {
                        return Err(Errno::IO);
                    }
                    saved.push((address, page));
                }
            }
        }
    }
    Ok(saved)
}
