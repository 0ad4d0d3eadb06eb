//! The mappings of this process: looked up by faults without a lock, changed by one thread at a time.
//!
//! Readers see an immutable sorted array. A change publishes a new array; old ones are freed by a later
//! change that finds no reader inside. Nobody waits for readers, so a change may be interrupted
//! by a fault of its own thread.

use crate::mapping::Mapping;
use crate::wait::Backoff;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

pub(crate) type Rows = Vec<Mapping>;

/// Pauses of a fault for another thread's change: some 50 ms.
const PATIENCE: u32 = 450;

#[derive(Debug)]
pub(crate) struct Table {
    rows: AtomicPtr<Rows>,
    readers: AtomicUsize,
    changing: AtomicBool,
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
        while self.changing.swap(true, Ordering::Acquire) {
            backoff.pause();
        }
        Change { table: self }
    }

    /// As [`Table::change`] for who serves a fault, maybe of a thread that is changing the table: `None` after a while.
    pub(crate) fn change_in_fault(&self) -> Option<Change<'_>> {
        let mut backoff = Backoff::default();
        for _ in 0..PATIENCE {
            if !self.changing.swap(true, Ordering::Acquire) {
                return Some(Change { table: self });
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
#[expect(dead_code, clippy::vec_box, reason = "held to be dropped")]
pub(crate) struct Garbage(Vec<Box<Rows>>);
