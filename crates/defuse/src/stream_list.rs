//! The C library's lock of the list of streams, which fork(3) takes just before malloc's.
//!
//! The library can take it and give it back, but not try. Where it lies is found out once: taken several times by one thread it is the only place near the
//! list that names this thread and so many times.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use linux_raw_sys::general as sys;

use crate::native;

unsafe extern "C" {
    // glibc's, under these names since 2.2. Its holder may take the lock again.
    fn _IO_list_lock();
    fn _IO_list_unlock();
    fn _IO_list_resetlock();
    static _IO_list_all: *mut c_void;
}

/// As glibc has it (`_IO_lock_t`).
#[repr(C)]
struct Word {
    /// 0: free; 1: taken; 2: and somebody may wait.
    lock: AtomicU32,
    times: AtomicU32,
    /// The thread pointer of who has it.
    owner: AtomicUsize,
}

struct Found {
    word: &'static Word,
    /// Its `times` when it has been taken once.
    once: u32,
}

/// Takes it for this thread.
pub fn lock() {
    // SAFETY: no argument, and no state but the lock.
    unsafe { _IO_list_lock() }
}

/// Gives back what [`lock`] or [`try_lock`] took in this thread.
pub fn unlock() {
    // SAFETY: as above.
    unsafe { _IO_list_unlock() }
}

/// In a forked child, whose only thread took it before: frees it, as libc does, unless it believed that there was one thread before as well.
pub fn reset() {
    // SAFETY: as above.
    unsafe { _IO_list_resetlock() }
}

static FOUND: OnceLock<Option<Found>> = OnceLock::new();

/// Whether it can be tried. The first call finds out, and may wait for it.
pub fn can_be_tried() -> bool {
    FOUND.get_or_init(find).is_some()
}

/// Takes it unless another thread has it. Returns whether this thread has it now; never where it [cannot be tried](can_be_tried).
pub fn try_lock() -> bool {
    let Some(Some(Found { word, once })) = FOUND.get() else { return false };
    let me = thread_pointer();
    if word.owner.load(Ordering::Relaxed) == me {
        lock();
        return true;
    }
    let taken = word.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
    if taken {
        word.owner.store(me, Ordering::Relaxed);
        word.times.store(*once, Ordering::Relaxed);
    }
    taken
}

/// Whether this thread has it; `None` where that cannot be told.
pub fn is_ours() -> Option<bool> {
    let Found { word, .. } = FOUND.get()?.as_ref()?;
    Some(word.owner.load(Ordering::Relaxed) == thread_pointer())
}

/// More than anybody takes it in one thread.
const TIMES: u32 = 23;
/// Bytes of the library's data on each side of the list.
const AROUND: usize = 1 << 16;
const PAGE: usize = 4096;

fn find() -> Option<Found> {
    let list = (&raw const _IO_list_all).addr();
    let first = list.saturating_sub(AROUND) / PAGE * PAGE;
    (0..TIMES).for_each(|_| lock());
    let mut found = Vec::new();
    // Not on the stack, which may be a small alternate one with a large frame of the kernel's on it.
    let mut words: Box<[u64]> = vec![0; PAGE / 8].into();
    for page in (first..list + AROUND).step_by(PAGE) {
        if !read(page, &mut words) {
            continue;
        }
        for (at, pair) in words.as_chunks::<2>().0.iter().enumerate() {
            let [state, owner] = *pair;
            let times = (state >> 32) as u32;
            // The first time may count as none.
            if matches!(state as u32, 1 | 2)
                && (TIMES - 1..=TIMES).contains(&times)
                && owner == thread_pointer() as u64
            {
                found.push((page + at * 16, times + 1 - TIMES));
            }
        }
    }
    (0..TIMES).for_each(|_| unlock());
    let [(address, once)] = found[..] else { return None };
    // SAFETY: what was found there is the lock, in the data of a library that stays.
    Some(Found { word: unsafe { &*std::ptr::with_exposed_provenance(address) }, once })
}

/// Copies a page of this process's memory, if there is one.
fn read(address: usize, words: &mut [u64]) -> bool {
    let (to, from) = ([words.as_mut_ptr() as u64, PAGE as u64], [address as u64, PAGE as u64]);
    let args = [native::pid().into(), to.as_ptr() as u64, 1, from.as_ptr() as u64, 1, 0];
    native::raw_call(sys::__NR_process_vm_readv, args) == PAGE as i64
}

fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: on x86-64 the first word of a thread's control block is its own address.
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_has_cannot_be_had() {
        assert!(can_be_tried());
        let try_once = || {
            let taken = try_lock();
            if taken {
                unlock();
            }
            taken
        };
        let other = || std::thread::spawn(try_once).join().unwrap();
        assert!(try_lock() && try_lock() && !other());
        unlock();
        assert!(!other());
        unlock();
        assert!(other());
        lock();
        assert!(!other());
        unlock();
        assert!(other());
    }
}
