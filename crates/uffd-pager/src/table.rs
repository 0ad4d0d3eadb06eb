//! The mappings of this process: looked up by faults without a lock, changed by one thread at a time.
//!
//! Readers see an immutable sorted array. A change publishes a new array; old ones are freed by a later
//! change that finds no reader inside. Nobody waits for readers, so a change may be interrupted
//! by a fault of its own thread.

use crate::mapping::Mapping;
use crate::wait::Backoff;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

pub(crate) type Rows = Vec<Mapping>;

/// Pauses of a fault for another thread's change: some 50 ms.
pub(crate) const PATIENCE: u32 = 450;

#[derive(Debug)]
pub(crate) struct Table {
    rows: AtomicPtr<Rows>,
    readers: AtomicUsize,
    changing: AtomicBool,
    /// Threads that rely on the mappings to stay as they are.
    steadying: AtomicUsize,
    /// Arrays of the past. Belongs to who has set `changing`.
    #[expect(clippy::vec_box, reason = "readers may hold their addresses")]
    old: UnsafeCell<Vec<Box<Rows>>>,
}

// SAFETY: `old` is touched by the holder of `changing` alone; `rows` points to arrays that are not changed.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            rows: AtomicPtr::new(Box::into_raw(Box::default())),
            readers: AtomicUsize::new(0),
            changing: AtomicBool::new(false),
            steadying: AtomicUsize::new(0),
            old: UnsafeCell::new(Vec::new()),
        }
    }

    /// The mappings as they are now. Any thread, signal handlers too.
    pub(crate) fn read(&self) -> Reader<'_> {
        self.readers.fetch_add(1, Ordering::SeqCst);
        // SAFETY: a reader is counted, so that whatever `rows` points to from now on is not freed.
        let rows = unsafe { &*self.rows.load(Ordering::SeqCst) };
        Reader { table: self, rows }
    }

    /// Waits until no other thread changes the table.
    pub(crate) fn change(&self) -> Change<'_> {
        let mut backoff = Backoff::default();
        while self.changing.swap(true, Ordering::SeqCst) {
            backoff.pause();
        }
        self.unsteady();
        Change { table: self }
    }

    /// Waits for those who rely on the mappings, for a system call or two each: from now on nobody does.
    fn unsteady(&self) {
        let mut backoff = Backoff::default();
        while self.steadying.load(Ordering::SeqCst) != 0 {
            backoff.pause();
        }
    }

    /// Keeps the mappings as they are, for a system call or two that rely on that. `None`: they are being changed.
    pub(crate) fn steady(&self) -> Option<Steady<'_>> {
        self.steadying.fetch_add(1, Ordering::SeqCst);
        let steady = Steady { table: self };
        (!self.changing.load(Ordering::SeqCst)).then_some(steady)
    }

    /// As [`Table::steady`], waiting for other threads' changes; `None` after a while, as it may be this thread's.
    pub(crate) fn steady_in_fault(&self) -> Option<Steady<'_>> {
        let mut backoff = Backoff::default();
        (0..PATIENCE).find_map(|_| {
            let steady = self.steady();
            if steady.is_none() {
                backoff.pause();
            }
            steady
        })
    }

    /// As [`Table::change`] for who serves a fault, maybe of a thread that is changing the table: `None` after a while.
    pub(crate) fn change_in_fault(&self) -> Option<Change<'_>> {
        let mut backoff = Backoff::default();
        for _ in 0..PATIENCE {
            if !self.changing.swap(true, Ordering::SeqCst) {
                let change = Change { table: self };
                while self.steadying.load(Ordering::SeqCst) != 0 {
                    // It may be this thread, interrupted by a handler that has met the fault.
                    if backoff.pause() {
                        return None;
                    }
                }
                return Some(change);
            }
            backoff.pause();
        }
        None
    }

    /// Gives up the right to change whose [`Change`] was forgotten, over a fork.
    pub(crate) fn release(&self) {
        self.changing.store(false, Ordering::Release);
    }

    /// In the child of a fork: no other thread exists. What they were about to free stays.
    pub(crate) fn reset(&self) {
        self.readers.store(0, Ordering::SeqCst);
        self.steadying.store(0, Ordering::SeqCst);
        // SAFETY: the only thread, and not inside `change`.
        std::mem::forget(std::mem::take(unsafe { &mut *self.old.get() }));
        self.changing.store(false, Ordering::Release);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and nobody else has `self`.
        drop(unsafe { Box::from_raw(*self.rows.get_mut()) });
    }
}

/// A look at the table.
pub(crate) struct Reader<'a> {
    table: &'a Table,
    rows: &'a Rows,
}

impl Reader<'_> {
    pub(crate) fn rows(&self) -> &[Mapping] {
        self.rows
    }

    pub(crate) fn at(&self, address: usize) -> Option<&Mapping> {
        overlapping(self.rows, &(address..address + 1)).first()
    }

    /// The mappings that share addresses with `memory`, ascending.
    pub(crate) fn overlapping(&self, memory: &Range<usize>) -> &[Mapping] {
        overlapping(self.rows, memory)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.table.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The mappings stay as they are while this lives.
pub(crate) struct Steady<'a> {
    table: &'a Table,
}

impl Steady<'_> {
    fn overlapping(&self, memory: &Range<usize>) -> &[Mapping] {
        // SAFETY: arrays are replaced by who changes the table; that waits until `steadying` is 0.
        overlapping(unsafe { &*self.table.rows.load(Ordering::SeqCst) }, memory)
    }

    /// The mapping that has these pages where `mapping`, of which they are, had them at an earlier look.
    pub(crate) fn same(&self, mapping: &Mapping, pages: &Range<u64>) -> Option<&Mapping> {
        let memory = mapping.addresses(pages);
        let row = self.overlapping(&memory).first()?;
        let covers = row.memory.start <= memory.start && memory.end <= row.memory.end;
        (covers && have_same(row, mapping, memory.start)).then_some(row)
    }

    /// What of these pages of `mapping` is still where it was at an earlier look, and served alike: the mappings that have it now.
    pub(crate) fn parts<'a>(
        &'a self,
        mapping: &'a Mapping,
        pages: &Range<u64>,
    ) -> impl Iterator<Item = (&'a Mapping, Range<u64>)> {
        let memory = mapping.addresses(pages);
        self.overlapping(&memory).iter().filter_map(move |row| {
            let here = crate::page::intersection(&row.memory, &memory);
            let is_alike =
                !here.is_empty() && row.tracked == mapping.tracked && have_same(row, mapping, here.start);
            is_alike.then(|| (row, row.part(&here).pages()))
        })
    }
}

impl Drop for Steady<'_> {
    fn drop(&mut self) {
        self.table.steadying.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether both have the same page of the same source at this address, shared or private.
fn have_same(one: &Mapping, other: &Mapping, address: usize) -> bool {
    Arc::ptr_eq(&one.attached, &other.attached)
        && one.sharing == other.sharing
        && one.page_at(address) == other.page_at(address)
}

fn overlapping<'a>(rows: &'a [Mapping], memory: &Range<usize>) -> &'a [Mapping] {
    let start = rows.partition_point(|row| row.memory.end <= memory.start);
    let end = rows.partition_point(|row| row.memory.start < memory.end);
    &rows[start..end.max(start)]
}

/// The right to change the table.
pub(crate) struct Change<'a> {
    table: &'a Table,
}

impl Change<'_> {
    pub(crate) fn rows(&self) -> &[Mapping] {
        // SAFETY: only the holder of `changing`, which this is, replaces and frees arrays; `publish`
        // frees past ones alone, and takes `&mut self`.
        unsafe { &*self.table.rows.load(Ordering::Relaxed) }
    }

    pub(crate) fn overlapping(&self, memory: &Range<usize>) -> &[Mapping] {
        overlapping(self.rows(), memory)
    }

    /// The table with `memory` cleared and `new` put in. Returns what can be freed now: to be
    /// dropped after the right to change is given back, as it may write back a source's pages.
    #[must_use]
    pub(crate) fn publish(&mut self, memory: &Range<usize>, new: Vec<Mapping>) -> Garbage {
        let mut rows = Vec::with_capacity(self.rows().len() + new.len() + 1);
        for row in self.rows() {
            for outside in [0..memory.start, memory.end..usize::MAX] {
                if !crate::page::intersection(&row.memory, &outside).is_empty() {
                    rows.push(row.part(&outside));
                }
            }
        }
        rows.extend(new);
        rows.sort_unstable_by_key(|row| row.memory.start);
        let past = self.table.rows.swap(Box::into_raw(Box::new(rows)), Ordering::SeqCst);
        // SAFETY: `changing` is held.
        let old = unsafe { &mut *self.table.old.get() };
        // SAFETY: came from `Box::into_raw` here or in `new`, and is out of `rows` now.
        old.push(unsafe { Box::from_raw(past) });
        // Who reads from now on sees the new array.
        if self.table.readers.load(Ordering::SeqCst) == 0 {
            Garbage(std::mem::take(old))
        } else {
            Garbage(Vec::new())
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.table.changing.store(false, Ordering::Release);
    }
}

/// Arrays that nobody reads any more.
#[derive(Default)]
#[expect(dead_code, clippy::vec_box, reason = "held to be dropped")]
pub(crate) struct Garbage(Vec<Box<Rows>>);
