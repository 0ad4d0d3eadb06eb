//! Descriptors that the kernel reads and writes by itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fuser::BackingId;

/// Which file is registered with the kernel under which number.
///
/// All openings of a node must share one number while one of them is open.
#[derive(Default)]
pub struct Backings(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    by_node: HashMap<u64, Weak<BackingId>>,
    by_handle: HashMap<u64, Arc<BackingId>>,
}

impl Backings {
    /// The number of `node` for its opening `handle`, made by `register` if it has none.
    pub fn open(
        &self,
        node: u64,
        handle: u64,
        register: impl FnOnce() -> io::Result<BackingId>,
    ) -> io::Result<Arc<BackingId>> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match tables.by_node.get(&node).and_then(Weak::upgrade) {
            Some(id) => id,
            None => Arc::new(register()?),
        };
        tables.by_node.insert(node, Arc::downgrade(&id));
        tables.by_handle.insert(handle, Arc::clone(&id));
        Ok(id)
    }

    /// The opening is closed.
    pub fn close(&self, node: u64, handle: u64) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.by_handle.remove(&handle);
        if tables.by_node.get(&node).is_some_and(|id| id.strong_count() == 0) {
            tables.by_node.remove(&node);
        }
    }
}
