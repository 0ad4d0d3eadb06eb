//! The list of the files that this process has mapped.
//!
//! A plugin may be called by who has it, and waits for nobody then. But the end of an open file takes locks that come before this one: what is let go
//! of by who has the list ends when that has been given back.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use fdtable::Ref;

use super::live::Live;
use crate::file::OpenFile;
use crate::sync::{Guard, Lock};
use crate::thread;

#[derive(Default)]
pub struct MappedList {
    files: Lock<Vec<Live>>,
    /// The thread that has it; 0 if none has, or one that forks.
    holder: AtomicU32,
    /// What the holder has let go of. Touched by the holder alone.
    ending: Lock<Vec<Ref<'static, OpenFile>>>,
}

impl MappedList {
    /// Waits for the list. Not for who has it.
    pub fn lock(&self) -> Held<'_> {
        let files = self.files.lock();
        self.holder.store(thread::id(), Ordering::Relaxed);
        Held { list: self, files: Some(files) }
    }

    /// Before a fork, and [`let_go`](Self::let_go) on both sides.
    pub fn hold(&self) {
        self.files.acquire();
    }

    /// See [`hold`](Self::hold).
    pub fn let_go(&self) {
        self.files.release();
    }

    /// A mapping of this file has gone. Keeps the file until the list is given back, if this thread has it.
    pub fn end(&self, file: &Ref<'static, OpenFile>) {
        if self.holder.load(Ordering::Relaxed) == thread::id() {
            self.ending.lock().push(file.clone());
        }
    }
}

/// The list is this thread's.
pub struct Held<'a> {
    list: &'a MappedList,
    /// None once it has been given back.
    files: Option<Guard<'a, Vec<Live>>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let ending = std::mem::take(&mut *self.list.ending.lock());
        self.list.holder.store(0, Ordering::Relaxed);
        self.files = None;
        drop(ending);
    }
}

impl Deref for Held<'_> {
    type Target = Vec<Live>;
    fn deref(&self) -> &Vec<Live> {
        self.files.as_ref().expect("given back as it is dropped")
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Vec<Live> {
        self.files.as_mut().expect("given back as it is dropped")
    }
}
