//! brk(2) of the guest: over a range of its own, as the kernel's break is our C library's.
//!
//! Reserved once, without memory behind it. Where the address space is limited nothing is reserved, and the break cannot be moved: C libraries
//! map memory then, as they do where something lies in the break's way, and at the range's end. It is no larger than what a session takes besides: it counts when
//! the guest limits its address space itself (`ulimit -v`).

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::raw;
use crate::spin::{self, Spin};

const SYS_MMAP: u32 = 9;
const SYS_PRLIMIT64: u32 = 302;
const RLIMIT_AS: u64 = 9;
const PAGE: u64 = 4096;
const LARGEST: u64 = 1 << 28;
const SMALLEST: u64 = 1 << 24;
const READ_WRITE: u64 = 3;
/// `MAP_PRIVATE | MAP_ANONYMOUS`, `MAP_NORESERVE`, `MAP_FIXED`.
const PRIVATE: u64 = 0x22;
const NORESERVE: u64 = 0x4000;
const FIXED: u64 = 0x10;

static START: AtomicU64 = AtomicU64::new(0);
static NOW: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// Held while the break moves, and around fork.
static LOCK: Spin = Spin::new();

pub fn lock() -> spin::Guard<'static> {
    LOCK.lock()
}

fn map(address: u64, length: u64, protection: u64, flags: u64) -> Option<u64> {
    // SAFETY: new memory, or a part of the reserved range, which is the guest's.
    let result = unsafe { raw::syscall6(SYS_MMAP, [address, length, protection, flags, u64::MAX, 0]) };
    u64::try_from(result).ok()
}

/// Finds the range.
pub fn reserve() {
    let mut limit = [0u64; 2];
    // SAFETY: the kernel fills our structure.
    unsafe { raw::syscall4(SYS_PRLIMIT64, 0, RLIMIT_AS, 0, (&raw mut limit) as u64) };
    let mut length = if limit[0] == u64::MAX { LARGEST } else { 0 };
    let mut start = None;
    while start.is_none() && length >= SMALLEST {
        start = map(0, length, 0, PRIVATE | NORESERVE);
        length /= 2;
    }
    let (start, length) = start.map_or((PAGE, 0), |start| (start, length * 2));
    START.store(start, Relaxed);
    NOW.store(start, Relaxed);
    END.store(start + length, Relaxed);
}

/// As the kernel's call: the break as it is then.
pub fn change(wanted: u64) -> u64 {
    let _guard = lock();
    let now = NOW.load(Relaxed);
    if wanted < START.load(Relaxed) || wanted > END.load(Relaxed) {
        return now;
    }
    let (old, new) = (now.next_multiple_of(PAGE), wanted.next_multiple_of(PAGE));
    let done = if new > old {
        map(old, new - old, READ_WRITE, PRIVATE | FIXED).is_some()
    } else {
        new == old || map(new, old - new, 0, PRIVATE | NORESERVE | FIXED).is_some()
    };
    if !done {
        return now;
    }
    NOW.store(wanted, Relaxed);
    wanted
}
