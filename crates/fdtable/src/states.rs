//! One byte per FD, for a fast path that only asks whose an FD is.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whose an FD is. The numbers are part of the interface: assembly compares them.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FdState {
    /// Not known (yet): take the slow path and find out.
    #[default]
    Unknown = 0,
    /// The kernel's: pass the system call on.
    Foreign = 1,
    /// In the [`FdTable`](crate::FdTable).
    Served = 2,
}

/// The states of the first 65,536 FDs, a byte each. FDs above are always [`FdState::Unknown`].
///
/// Nothing but the bytes, so that a `static` of it lies in `.bss` and takes memory only for the pages in use. It is a
/// hint beside the table and knows nothing of it. Two rules keep the hint harmless:
///
/// - Whoever *finds out* about an FD that it did not open itself uses [`learn`](Self::learn), which gives way to any
///   thread that knows better.
/// - Whoever closes FDs calls [`forget`](Self::forget) before the system call: afterwards the number may be another thread's.
///
/// Changes are published with Release ordering, so that a fast path that reads a byte (on x86-64 with an ordinary load)
/// and then looks into the table sees what was entered there before.
///
/// ```
/// use fdtable::{FdState, FdStates};
///
/// static STATES: FdStates = FdStates::new();
///
/// STATES.set(3, FdState::Served);
/// assert!(!STATES.learn(3, FdState::Foreign)); // somebody knew better
/// assert_eq!(STATES.get(3), FdState::Served);
/// ```
#[repr(transparent)]
pub struct FdStates([AtomicU8; FdStates::LEN]);

impl FdStates {
    /// How many FDs have a byte.
    pub const LEN: usize = 65_536;

    /// All unknown. Meant for a `static`; elsewhere it would take 64 KiB of stack.
    #[allow(clippy::large_stack_arrays, reason = "evaluated at compile time for a static")]
    pub const fn new() -> Self {
        Self([const { AtomicU8::new(FdState::Unknown as u8) }; Self::LEN])
    }

    /// Where the byte of FD 0 is; the others follow. For assembly, which may read [`LEN`](Self::LEN) bytes from here.
    pub const fn as_ptr(&self) -> *const u8 {
        std::ptr::from_ref(self).cast()
    }

    /// The state of this FD.
    #[inline]
    pub fn get(&self, fd: RawFd) -> FdState {
        self.byte(fd).map_or(FdState::Unknown, |byte| state(byte.load(Ordering::Acquire)))
    }

    /// Sets the state of this FD; without effect beyond [`LEN`](Self::LEN) and on negative numbers.
    pub fn set(&self, fd: RawFd, state: FdState) {
        if let Some(byte) = self.byte(fd) {
            byte.store(state as u8, Ordering::Release);
        }
    }

    /// Sets the state of this FD if it is unknown, in one step; tells whether it was (and the FD has a byte).
    pub fn learn(&self, fd: RawFd, state: FdState) -> bool {
        let unknown = FdState::Unknown as u8;
        self.byte(fd).is_some_and(|byte| {
            byte.compare_exchange(unknown, state as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Makes this FD unknown.
    pub fn forget(&self, fd: RawFd) {
        self.set(fd, FdState::Unknown);
    }

    /// Makes the FDs from `first` to `last` (inclusive) unknown. Writes only bytes that are not yet: pages that were
    /// never used stay unallocated.
    pub fn forget_range(&self, first: u32, last: u32) {
        let count = (last as usize).saturating_add(1).saturating_sub(first as usize);
        for byte in self.0.iter().skip(first as usize).take(count) {
            if byte.load(Ordering::Relaxed) != FdState::Unknown as u8 {
                byte.store(FdState::Unknown as u8, Ordering::Release);
            }
        }
    }

    fn byte(&self, fd: RawFd) -> Option<&AtomicU8> {
        self.0.get(usize::try_from(fd).ok()?)
    }
}

impl Default for FdStates {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FdStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = (0..Self::LEN as RawFd)
            .map(|fd| (fd, self.get(fd)))
            .filter(|(_, state)| *state != FdState::Unknown);
        f.debug_map().entries(known).finish()
    }
}

/// Only states are ever stored.
fn state(byte: u8) -> FdState {
    match byte {
        1 => FdState::Foreign,
        2 => FdState::Served,
        _ => FdState::Unknown,
    }
}
