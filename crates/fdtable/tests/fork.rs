//! A child forked while another thread of the parent is using a description.
#![cfg(not(loom))]

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use fdtable::FdTable;

static TABLE: FdTable<CountsDrops> = FdTable::new();
static DROPS: AtomicUsize = AtomicUsize::new(0);

struct CountsDrops;

impl Drop for CountsDrops {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

/// The steps that failed, as bits. Runs in the child: no panic, no allocation.
fn child() -> i32 {
    // Without the reset, a reader that does not exist here keeps the description.
    drop(TABLE.remove(3));
    let kept = DROPS.load(Ordering::Relaxed) == 0;
    // SAFETY: the child has this thread only, which has no handle; the reader's frame is of another thread.
    unsafe { TABLE.after_fork_in_child() };
    let counted = TABLE.len() == 2;
    let not_last = TABLE.remove(4).is_some_and(|released| !released.is_last_fd());
    let still_open = DROPS.load(Ordering::Relaxed) == 0;
    let last = TABLE.remove(5).is_some_and(|released| released.is_last_fd());
    let dropped = DROPS.load(Ordering::Relaxed) == 1;
    let passed = [kept, counted, not_last, still_open, last, dropped];
    passed.iter().enumerate().map(|(step, passed)| i32::from(!passed) << step).sum()
}

#[test]
fn a_reader_that_vanished_in_the_fork_does_not_keep_a_description() {
    TABLE.insert(3, CountsDrops, false).unwrap();
    TABLE.insert(4, CountsDrops, false).unwrap();
    TABLE.dup(4, 5, false).unwrap();
    let (reading, forked) = (Barrier::new(2), Barrier::new(2));
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            let readers = [3, 4, 5].map(|fd| TABLE.get(fd).expect("open"));
            let clones = readers.each_ref().map(Clone::clone);
            reading.wait();
            forked.wait();
            drop((readers, clones));
        });
        reading.wait();
        // SAFETY: the child calls nothing but the table and `_exit`.
        let status = match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error()),
            // SAFETY: ends the child without running the parent's exit handlers.
            0 => unsafe { libc::_exit(child()) },
            pid => {
                let mut status = 0;
                // SAFETY: waits for the child just made and writes to a local.
                let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
                if waited == pid { Ok(status) } else { Err(std::io::Error::last_os_error()) }
            }
        };
        forked.wait();
        status.expect("fork and wait")
    });
    assert!(libc::WIFEXITED(status), "the child died: status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "failed steps of the child, by bit");
    // The parent's table was not touched.
    assert_eq!((TABLE.len(), DROPS.load(Ordering::Relaxed)), (3, 0));
    TABLE.close_range(0, u32::MAX, |_, released| drop(released));
    assert_eq!(DROPS.load(Ordering::Relaxed), 2);
}
