//! The trait drawn at the consumer's side: who is asked about each call.

use crate::{Call, Outcome};

/// Decides about the system calls of this process.
///
/// Every method runs on this crate's own per-thread stack (256 KiB), with the thread marked *inside*:
/// system calls made by the handler or by libraries it uses go straight to the kernel
/// (or to [`inner_call`](Handler::inner_call)), signals of the program are held back until the call is left, and
/// `errno` is put back afterwards. The program may be in any state: under its malloc's lock, in a
/// forked child of a threaded process, or in a vfork child sharing memory with its parent. A panic aborts the process.
pub trait Handler: Sync + 'static {
    /// A call whose number and file descriptor are of interest.
    fn call(&self, call: &mut Call) -> Outcome;

    /// A call made while this thread is already inside, for numbers marked by [`crate::Config::inner`].
    fn inner_call(&self, _call: &mut Call) -> Outcome {
        Outcome::PassThrough
    }

    /// Before a process or thread is made. An `Err(errno)` (positive) makes the program's call fail with it; then
    /// no after-hook runs.
    fn before_fork(&self, _fork: &ForkCall) -> Result<(), i32> {
        Ok(())
    }

    /// Last of all before this process is copied ([`ForkKind::Fork`]), with this library's own locks held, which it takes after
    /// [`before_fork`](Self::before_fork): for locks that calls take while the library holds its own, such as that of the allocator. Nobody may wait here for
    /// another thread's call; the after-hooks give back what was taken.
    fn at_fork(&self, _fork: &ForkCall) {}

    /// In the caller, after it. `result` is what the program gets: the new id or `-errno`. For
    /// [`ForkKind::Vfork`] this is after the child has exec'd or ended.
    fn after_fork_parent(&self, _fork: &ForkCall, _result: i64) {}

    /// In the new process, before it returns to the program. Called for [`ForkKind::Fork`] (own
    /// memory, this thread only) and [`ForkKind::Vfork`] (on shared memory, the parent's thread suspended);
    /// new threads and [`ForkKind::SharedVm`] children go straight to the program.
    fn after_fork_child(&self, _fork: &ForkCall) {}

    /// This thread is about to make the `exit` system call. Other threads may go on. Where a signal came before, the program's handler runs first
    /// and may make calls; then this is called again.
    fn thread_exit(&self) {}

    /// An access to memory faulted: SIGSEGV or SIGBUS, by the program's instructions or by [`crate::usercopy`]. `true`
    /// means mended, try again. Called before anything else is done about it.
    fn fault(&self, _fault: &Fault) -> bool {
        false
    }

    /// Whether [`fault`](Handler::fault) may have something to say. Not on this crate's stack but on that which the kernel chose for the signal, which may
    /// be the program's own and small, and with all signals blocked: a look at its own memory and no more.
    fn considers(&self, _fault: &Fault) -> bool {
        true
    }

    /// A signal that ends the process by its default action struck, after [`crate::watch_endings`]. Where the handler postpones the end it calls
    /// [`crate::begin_end`] and in the end [`crate::end_by`], as soon as one of the process's calls is offered. To the next such signal it says
    /// [`End::AtOnce`].
    ///
    /// Not on this crate's stack but in a signal handler, outside as well as inside: only atomics and system calls.
    fn struck(&self, _signal: u32) -> End {
        End::AtOnce
    }

    /// The object loaded from `path` makes 32-bit system calls (`int $0x80`) at so many places. They are not offered. Called
    /// once for each object, at [`crate::install`] too.
    fn thirty_two_bit_calls(&self, _path: &[u8], _sites: u32) {}

    /// New executable memory was mapped and its system call sites were rewritten.
    fn mapped_executable(&self, _address: u64, _length: u64) {}
}

/// What [`Handler::struck`] says of a signal that is to end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does.
    AtOnce,
    /// The handler ends the process by it, at its next call.
    Postponed,
    /// The process is being ended already.
    Begun,
}

/// A fault of a memory access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// SIGSEGV (11) or SIGBUS (7).
    pub signal: u32,
    /// Address of the access; not always known (0).
    pub address: u64,
    /// Whether it was a write.
    pub write: bool,
}

impl Fault {
    pub(crate) fn new(signal: u32, address: u64, error: u64) -> Self {
        // Bit 1 of the page fault's error code.
        Self { signal, address, write: error & 2 != 0 }
    }
}

/// A fork, vfork, clone or clone3 of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ForkCall {
    /// What it makes, by what is shared.
    pub kind: ForkKind,
    /// The `CLONE_*` flags, exit signal removed; those of `fork` are 0, those of `vfork` are `CLONE_VM | CLONE_VFORK`.
    pub flags: u64,
}

impl ForkCall {
    /// Whether caller and child use one FD table (`CLONE_FILES`).
    pub fn shares_files(&self) -> bool {
        self.flags & CLONE_FILES != 0
    }

    /// Whether the child's calls are not offered but go to the kernel: it runs beside its caller on the same memory, and what is in
    /// there of thread, FDs or working directory is not its own.
    pub fn is_lodger(&self) -> bool {
        let all = CLONE_SETTLS | CLONE_FILES | CLONE_FS;
        matches!(self.kind, ForkKind::Thread | ForkKind::SharedVm) && self.flags & all != all
    }
}

/// What a fork-like call makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum ForkKind {
    /// A process with its own copy of memory.
    Fork,
    /// A process on shared memory while the calling thread is suspended: `vfork`, `posix_spawn`.
    Vfork,
    /// A thread of this process.
    Thread,
    /// A process on shared memory that runs beside its parent. [`ForkCall::shares_files`] tells
    /// whether it has its own FDs.
    SharedVm,
}

pub(crate) const CLONE_VM: u64 = 0x100;
pub(crate) const CLONE_FS: u64 = 0x200;
pub(crate) const CLONE_FILES: u64 = 0x400;
pub(crate) const CLONE_VFORK: u64 = 0x4000;
/// The child's handled signals are reset (`posix_spawn` since glibc 2.38).
pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
pub(crate) const CLONE_SETTLS: u64 = 0x80000;
pub(crate) const CLONE_THREAD: u64 = 0x10000;

impl ForkKind {
    pub(crate) fn from_flags(flags: u64) -> Self {
        if flags & CLONE_VM == 0 {
            Self::Fork
        } else if flags & CLONE_THREAD != 0 {
            Self::Thread
        } else if flags & CLONE_VFORK != 0 {
            Self::Vfork
        } else {
            Self::SharedVm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_what_is_shared() {
        assert_eq!(ForkKind::from_flags(0), ForkKind::Fork);
        assert_eq!(ForkKind::from_flags(CLONE_FILES), ForkKind::Fork);
        assert_eq!(ForkKind::from_flags(CLONE_VFORK), ForkKind::Fork);
        assert_eq!(ForkKind::from_flags(CLONE_VM | CLONE_VFORK), ForkKind::Vfork);
        assert_eq!(ForkKind::from_flags(CLONE_VM | CLONE_THREAD), ForkKind::Thread);
        assert_eq!(ForkKind::from_flags(CLONE_VM | CLONE_FILES), ForkKind::SharedVm);
    }
}
