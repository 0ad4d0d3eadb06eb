//! Locks on one open file description and on one inode.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::layout::INODE_LOCKS;
use crate::map::low_half;
use crate::robust::{self, Acquired, Waiting};
use crate::{Arena, Image, ProcessId, Slot, StashError, elsewhere, offset, process_status};

/// How long a waiter sleeps before it looks whether the holder is still alive.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many such looks at most pass by before one at a holder of another pid namespace, which is a look at every process there is.
const LOOKS_FROM_AFAR: u32 = 64;

/// Who takes a lock: a registered process and one of its threads.
///
/// A forked child needs a registration of its own. A vfork child, which is on its parent's memory and may not live to take its
/// registration back, names the parent's and itself as the thread. A lock is freed when its holding thread, or that child, is
/// gone while the process lives on; what it was doing is then as unfinished as after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    process: ProcessId,
    image: Image,
    thread: u32,
}

/// Of a thread's number: `PID_MAX_LIMIT` in linux/threads.h. Above it is the image, and above that the mark of waiters.
const THREAD_BITS: u32 = 22;
const _: () = assert!(1 << (THREAD_BITS + Image::BITS) == robust::WAITERS);

impl Holder {
    /// In the image that has registered. `thread` is the caller's thread id (gettid(2), cached by the caller, as asking costs more than locking).
    pub fn new(process: ProcessId, thread: u32) -> Self {
        Self { process, image: Image::default(), thread: thread & ((1 << THREAD_BITS) - 1) }
    }

    /// In an image that goes on with the registration ([`Arena::begin_image`]).
    #[must_use]
    pub fn of_image(self, image: Image) -> Self {
        Self { image, ..self }
    }

    /// The calling thread; makes a system call.
    pub fn current(process: ProcessId) -> Self {
        Self::new(process, rustix::thread::gettid().as_raw_pid() as u32)
    }

    /// The registered process.
    pub fn process(self) -> ProcessId {
        self.process
    }

    fn word(self) -> u64 {
        let low = self.image.to_bits() << THREAD_BITS | self.thread;
        (self.process.to_bits() as u64) << 32 | low as u64
    }
}

/// The lock on one slot: for writes, seeks, and changes of path and blob. Released on drop.
///
/// Not to be held across fork(2): the child's copy would release the parent's lock. Not `Send`, as the holder is a
/// thread.
pub struct SlotGuard<'a> {
    pub(crate) slot: Slot<'a>,
    me: Holder,
    acquired: Acquired,
    pinned: Cell<bool>,
    of_this_thread: PhantomData<*const ()>,
}

impl<'a> Slot<'a> {
    /// Takes the slot's lock. Uncontended 5-10 ns; otherwise waits for the holder, and takes over from a dead one
    /// within some 20 ms (within seconds, or never, from one of another pid namespace: see the README). [`StashError::WouldDeadlock`] if this thread holds it already (a signal handler).
    #[inline]
    pub fn lock(&self, me: Holder) -> Result<SlotGuard<'a>, StashError> {
        self.lock_patiently(me, None)
    }

    /// As [`Slot::lock`], but gives up with [`StashError::Locked`] after about `timeout`, in steps of 20 ms.
    pub fn lock_for(&self, me: Holder, timeout: Duration) -> Result<SlotGuard<'a>, StashError> {
        self.lock_patiently(me, Some(timeout))
    }

    /// Takes the slot's lock if it is free; [`StashError::Locked`] if not, whoever holds it.
    pub fn try_lock(&self, me: Holder) -> Result<SlotGuard<'a>, StashError> {
        if robust::try_acquire(&self.raw().lock, me.word()) {
            self.guard(me, Acquired::Free)
        } else {
            Err(StashError::Locked)
        }
    }

    #[inline]
    fn lock_patiently(&self, me: Holder, timeout: Option<Duration>) -> Result<SlotGuard<'a>, StashError> {
        let word = &self.raw().lock;
        let waiting = || FutexWaiting { left: timeout, ..FutexWaiting::new(self.arena(), word) };
        let acquired = robust::acquire(word, me.word(), waiting)?;
        self.guard(me, acquired)
    }

    #[inline]
    fn guard(&self, me: Holder, acquired: Acquired) -> Result<SlotGuard<'a>, StashError> {
        let guard =
            SlotGuard { slot: *self, me, acquired, pinned: Cell::new(false), of_this_thread: PhantomData };
        // The slot may have been freed while this thread waited.
        self.check_live()?;
        Ok(guard)
    }
}

impl<'a> SlotGuard<'a> {
    /// The locked slot.
    pub fn slot(&self) -> Slot<'a> {
        self.slot
    }

    /// Whether the previous holder died with the lock. Path, blob and offset are whole nevertheless (but see
    /// [`unfinished`](Self::unfinished)); the flag is for what the caller itself keeps under this lock.
    pub fn recovered(&self) -> bool {
        self.acquired == Acquired::FromDead
    }

    /// What a holder left that died while it advanced the offset: where its transfer was to begin, and where to end if it was made in
    /// full. The offset is the former still. To be asked before the guard pins the offset or sets it, which forgets it.
    pub fn unfinished(&self) -> Option<Range<i64>> {
        if self.pinned.get() {
            return None;
        }
        let start = offset::marked(&self.slot.raw().offset)?;
        let length = i64::try_from(self.slot.raw().advance.load(Ordering::Relaxed)).unwrap_or(0);
        Some(start..start.saturating_add(length))
    }

    /// The file offset, which readers ([`Slot::advance_read`]) leave alone until this guard sets it or is dropped.
    #[inline]
    pub fn pin_offset(&self) -> i64 {
        self.pin_for(0)
    }

    /// The length is there before the mark, without which nobody looks at it.
    #[inline]
    fn pin_for(&self, length: usize) -> i64 {
        self.pinned.set(true);
        self.slot.raw().advance.store(length as u64, Ordering::Relaxed);
        offset::pin(&self.slot.raw().offset)
    }

    /// Sets the file offset (bytes, not negative) and lets readers go on.
    #[inline]
    pub fn set_offset(&self, offset: i64) -> Result<(), StashError> {
        if offset < 0 {
            return Err(StashError::OffsetOverflow);
        }
        offset::set(&self.slot.raw().offset, offset);
        self.pinned.set(false);
        Ok(())
    }

    /// Runs `transfer` at the current offset and advances it by the number of bytes returned.
    pub fn advance<E: From<StashError>>(
        &self,
        transfer: impl FnOnce(i64) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.advance_by(0, transfer)
    }

    /// As [`advance`](Self::advance), for a transfer whose effect outlives the caller: who takes the lock over is told of the up to
    /// `length` bytes ([`unfinished`](Self::unfinished)).
    pub fn advance_by<E: From<StashError>>(
        &self,
        length: usize,
        transfer: impl FnOnce(i64) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let offset = self.pin_for(length);
        let count = transfer(offset)?;
        let end = crate::slot::end_of_transfer(offset, count)?;
        self.set_offset(end)?;
        Ok(count)
    }
}

impl fmt::Debug for SlotGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lock on {:?}", self.slot)
    }
}

impl Drop for SlotGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let raw = self.slot.raw();
        if self.pinned.get() {
            offset::unpin(&raw.offset);
        }
        let waiting = || FutexWaiting::new(self.slot.arena(), &raw.lock);
        robust::release(&raw.lock, self.me.word(), waiting);
    }
}

/// The lock on one inode (and on whatever else shares its word). Released on drop; see [`SlotGuard`] for fork.
pub struct InodeGuard<'a> {
    arena: &'a Arena,
    word: &'a AtomicU64,
    me: Holder,
    acquired: Acquired,
    of_this_thread: PhantomData<*const ()>,
}

impl Arena {
    /// Takes the lock of the inode whose key hashes to `key_hash`, for what must be atomic per inode (appending).
    ///
    /// There are 1,024 words, so two inodes may share one: never hold two. Taken after a slot's lock, never before.
    #[inline]
    pub fn inode_lock(&self, key_hash: u64, me: Holder) -> Result<InodeGuard<'_>, StashError> {
        // The upper bits of a product depend on all bits of the key: callers may pass a plain inode number.
        let spread = key_hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let word = &self.map.inode_locks()[spread as usize % INODE_LOCKS].word;
        let waiting = || FutexWaiting::new(self, word);
        let acquired = robust::acquire(word, me.word(), waiting)?;
        Ok(InodeGuard { arena: self, word, me, acquired, of_this_thread: PhantomData })
    }
}

impl InodeGuard<'_> {
    /// Whether the previous holder died with the lock.
    pub fn recovered(&self) -> bool {
        self.acquired == Acquired::FromDead
    }
}

impl fmt::Debug for InodeGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode lock of {:?}", self.me.process())
    }
}

impl Drop for InodeGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let waiting = || FutexWaiting::new(self.arena, self.word);
        robust::release(self.word, self.me.word(), waiting);
    }
}

/// Waits on the low half of a lock word by futex(2), shared between processes.
struct FutexWaiting<'a> {
    arena: &'a Arena,
    word: &'a AtomicU64,
    /// What is left of the caller's patience; `None` is endless.
    left: Option<Duration>,
    /// How often it was asked whether the holder is alive.
    looks: u32,
}

impl<'a> FutexWaiting<'a> {
    fn new(arena: &'a Arena, word: &'a AtomicU64) -> Self {
        Self { arena, word, left: None, looks: 0 }
    }
}

impl Waiting for FutexWaiting<'_> {
    fn wait(&mut self, low: u32) -> bool {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
        let answer = futex::wait(low_half(self.word), futex::Flags::empty(), low, Some(&timeout));
        answer != Err(Errno::TIMEDOUT)
    }

    fn wake(&mut self) {
        let _ = futex::wake(low_half(self.word), futex::Flags::empty(), 1);
    }

    fn holder_alive(&mut self, holder: u64) -> bool {
        self.looks += 1;
        let id = ProcessId::from_bits((holder >> 32) as u32);
        let Ok(process) = self.arena.process(id) else { return false };
        if self.arena.image_of(id) != Some(Image::new(holder >> THREAD_BITS)) {
            return false;
        }
        if process_status::same_namespace(&process) {
            return process_status::is_alive(&process)
                && process_status::thread_is_alive(&process, holder as u32 & ((1 << THREAD_BITS) - 1));
        }
        // Most have what they wait for before that.
        let is_time = self.looks.is_power_of_two() || self.looks.is_multiple_of(LOOKS_FROM_AFAR);
        !is_time || !elsewhere::has_ended(&process)
    }

    fn patient(&mut self) -> bool {
        let Some(left) = &mut self.left else { return true };
        *left = left.saturating_sub(LOOK_EVERY);
        !left.is_zero()
    }

    fn spin(&mut self) {
        core::hint::spin_loop();
    }
}
