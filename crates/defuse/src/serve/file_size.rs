//! `RLIMIT_FSIZE`, for plugins that do not write by the kernel.
//!
//! It is asked for once, as every write would have to. What another process does to ours by prlimit(2) later is not seen.

use std::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;

use crate::{mount, native};

/// Files are smaller: with this bit the limit has to be asked for, and the rest tells one such time from the next.
const UNKNOWN: u64 = 1 << 63;
const NONE: u64 = u64::MAX;

static LIMIT: AtomicU64 = AtomicU64::new(UNKNOWN);
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// The limit may have been changed.
pub fn forget() {
    let change = CHANGES.fetch_add(1, Ordering::Relaxed) + 1;
    LIMIT.store(UNKNOWN | change, Ordering::Release);
}

/// How many of `length` bytes may be written at `at`. With none of them it is `EFBIG`, and the thread gets SIGXFSZ.
pub fn room(
    instance: &Instance,
    at: impl FnOnce() -> Result<u64, Errno>,
    length: usize,
) -> Result<usize, Errno> {
    if length == 0 || mount::copies_in_kernel(instance) {
        return Ok(length);
    }
    match limit() {
        NONE => Ok(length),
        limit => match limit.saturating_sub(at()?) {
            0 => Err(too_large()),
            room => Ok(usize::try_from(room).map_or(length, |room| room.min(length))),
        },
    }
}

/// Whether a file may be made `size` bytes long: of one that is not made longer nothing is asked.
pub fn may_be(instance: &Instance, now: impl FnOnce() -> Result<i64, Errno>, size: u64) -> Result<(), Errno> {
    if !mount::copies_in_kernel(instance) && size > limit() && i128::from(now()?) < i128::from(size) {
        return Err(too_large());
    }
    Ok(())
}

/// The limit; [`NONE`] if there is none.
pub fn limit() -> u64 {
    let known = LIMIT.load(Ordering::Acquire);
    // A vfork child has a limit of its own, and its parent's memory.
    let others = interpose::in_vfork_child();
    if !others && (known & UNKNOWN == 0 || known == NONE) {
        return known;
    }
    let mut limits = [NONE; 2];
    native::raw_call(sys::__NR_prlimit64, [0, sys::RLIMIT_FSIZE.into(), 0, limits.as_mut_ptr() as u64, 0, 0]);
    let found = if limits[0] & UNKNOWN == 0 { limits[0] } else { NONE };
    if !others {
        // Unless it was changed since it was asked for.
        let _ = LIMIT.compare_exchange(known, found, Ordering::Release, Ordering::Relaxed);
    }
    found
}

fn too_large() -> Errno {
    let (process, thread) = (native::pid().into(), native::thread_id().into());
    native::raw_call(sys::__NR_tgkill, [process, thread, sys::SIGXFSZ.into(), 0, 0, 0]);
    Errno::FBIG
}
