//! The userfaultfd itself: `ioctl_userfaultfd(2)`, made by rustix so that errno stays as it is.

use linux_raw_sys::{general as kernel, ioctl as request};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, Ordering};

/// `_IOWR(0xAA, 8, struct uffdio_poison)`; newer than linux-raw-sys' list of request codes.
#[cfg(feature = "monitor")]
const UFFDIO_POISON: Opcode = 3 << 30 | (size_of::<kernel::uffdio_poison>() as u32) << 16 | 0xAA << 8 | 8;
const WRITEPROTECT_MODE_WP: u64 = 1;
const CONTINUE_MODE_WP: u64 = 1 << 1;
const COPY_MODE_WP: u64 = 1 << 1;

/// Bits of `UFFDIO_API`'s features that the kernel has. Linux 6.1 has all that the pager cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    const NEEDED: u64 = (kernel::UFFD_FEATURE_MISSING_SHMEM
        | kernel::UFFD_FEATURE_MINOR_SHMEM
        | kernel::UFFD_FEATURE_WP_HUGETLBFS_SHMEM) as u64;

    /// Faults become SIGBUS in the faulting thread (4.14).
    pub fn sigbus(self) -> bool {
        self.has(kernel::UFFD_FEATURE_SIGBUS)
    }

    /// A page can be made to give SIGBUS by `UFFDIO_POISON` (6.6).
    pub fn poison(self) -> bool {
        self.has(kernel::UFFD_FEATURE_POISON)
    }

    /// Shared memory can be served (4.11), its resident pages too (5.14), and write-protected (5.19).
    pub fn shared_memory(self) -> bool {
        self.0 & Self::NEEDED == Self::NEEDED
    }

    /// Resident pages can be entered into the page table protected against stores (6.4: `UFFDIO_CONTINUE_MODE_WP` has no
    /// bit of its own and came with `UFFD_FEATURE_WP_UNPOPULATED`).
    pub fn enters_protected(self) -> bool {
        self.has(kernel::UFFD_FEATURE_WP_UNPOPULATED)
    }

    /// What Linux 6.1 has of them.
    pub(crate) fn as_on_6_1(self) -> Self {
        Self(self.0 & (Self::NEEDED | u64::from(kernel::UFFD_FEATURE_SIGBUS)))
    }

    fn has(self, bit: u32) -> bool {
        self.0 & u64::from(bit) != 0
    }
}

/// Which faults of a range are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// Those on pages that are not resident.
    Missing,
    /// And stores to protected ones, and those on resident pages that are not in the page table.
    All,
}

/// What may be done with a page that is entered into the page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// What the mapping allows.
    AsMapped,
    /// A store is a fault that is reported. Where stores are reported at all.
    Protected,
}

/// A userfaultfd of this process's memory. The number can be replaced after a fork; readers in other
/// threads do not exist then.
#[derive(Debug)]
pub(crate) struct Uffd {
    /// -1 if there is none.
    fd: AtomicI32,
}

impl Uffd {
    /// Asks the system call, then `/dev/userfaultfd` (6.1), for a userfaultfd with `features`.
    pub(crate) fn open(features: u64, user_mode_only: bool) -> Result<Self, Errno> {
        let fd = create(user_mode_only)?;
        handshake(fd.as_fd(), features)?;
        Ok(Self::from(fd))
    }

    /// None: whatever is asked of it fails with ENODEV.
    pub(crate) fn none() -> Self {
        Self { fd: AtomicI32::new(-1) }
    }

    /// What the kernel offers; of a userfaultfd made for the question, as one can be asked only once.
    pub(crate) fn probe(user_mode_only: bool) -> Result<Features, Errno> {
        handshake(create(user_mode_only)?.as_fd(), 0)
    }

    /// The same, which there is, by the descriptor that `home` makes of its own.
    pub(crate) fn moved(mut self, home: fn(OwnedFd) -> OwnedFd) -> Self {
        let fd = std::mem::replace(self.fd.get_mut(), -1);
        // SAFETY: it was this structure's, and is not any more.
        Self::from(home(unsafe { rustix::fd::FromRawFd::from_raw_fd(fd) }))
    }

    /// Puts `other` in this one's place and closes the FD used so far. Only where no other thread uses it.
    pub(crate) fn replace(&self, mut other: Self) {
        // What was used so far goes with `other`.
        *other.fd.get_mut() = self.fd.swap(*other.fd.get_mut(), Ordering::Relaxed);
    }

    /// Has none from now on, and leaves that which there was open.
    pub(crate) fn leave(&self) {
        self.fd.store(-1, Ordering::Relaxed);
    }

    /// Reports the faults that `faults` says.
    pub(crate) fn register(&self, memory: &Range<usize>, faults: Faults) -> Result<(), Errno> {
        let mode = kernel::UFFDIO_REGISTER_MODE_MISSING
            | match faults {
                Faults::Missing => 0,
                Faults::All => kernel::UFFDIO_REGISTER_MODE_WP | kernel::UFFDIO_REGISTER_MODE_MINOR,
            };
        let mut arg = kernel::uffdio_register { range: range(memory), mode: mode.into(), ioctls: 0 };
        self.call::<{ request::UFFDIO_REGISTER }, _>(&mut arg)
    }

    /// Enters the pages of `memory` into the page table, as the mapping allows. Returns how far it came: to the end, or to a page that
    /// is there already or is not resident, or for which there is no memory.
    pub(crate) fn enter_open(&self, memory: &Range<usize>) -> usize {
        self.enter_until(memory, 0, false)
    }

    /// Enters the resident pages of `memory` into the page table as far as they are not there. Returns how far it came: to the end, or to
    /// one that is not resident, or for which there is no memory. [`Access::Protected`]: since 6.4 ([`Features::enters_protected`]).
    pub(crate) fn enter_each(&self, memory: &Range<usize>, access: Access) -> usize {
        self.enter_until(memory, if access == Access::Protected { CONTINUE_MODE_WP } else { 0 }, true)
    }

    fn enter_until(&self, memory: &Range<usize>, mode: u64, past_those_there: bool) -> usize {
        let mut rest = Rest::of(memory);
        while let Some(part) = rest.part() {
            match self.enter(&part, mode) {
                Ok(()) => rest.done(part.len()),
                Err((Errno::EXIST, _)) if past_those_there => rest.done(crate::PAGE),
                Err((Errno::AGAIN, entered)) => rest.done(entered),
                Err((Errno::NOENT, _)) if rest.halve() => {}
                Err(_) => return part.start,
            }
        }
        memory.end
    }

    /// EAGAIN, and the bytes that were entered: a part was done, or the memory map was being changed.
    fn enter(&self, memory: &Range<usize>, mode: u64) -> Result<(), (Errno, usize)> {
        let mut arg = kernel::uffdio_continue { range: range(memory), mode, mapped: 0 };
        self.call::<{ request::UFFDIO_CONTINUE }, _>(&mut arg)
            .map_err(|errno| (errno, arg.mapped.max(0) as usize))
    }

    /// Gives the shmem file mapped at `memory` the pages in `data`, each of them at once and only where there
    /// is none yet, and enters them into the page table. Calls `there` with the address of each that was there.
    ///
    /// ENOENT: not registered (any more). EFAULT: past the end of the file.
    pub(crate) fn fill(
        &self,
        mut memory: usize,
        mut data: &[u8],
        access: Access,
        mut there: impl FnMut(usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        while !data.is_empty() {
            let copied = self.copy(memory, data, access)?;
            if copied == data.len() {
                break;
            }
            there(memory + copied)?;
            memory += copied + crate::PAGE;
            data = &data[copied + crate::PAGE..];
        }
        Ok(())
    }

    /// The bytes copied before a page that was there already (EEXIST, no error).
    fn copy(&self, memory: usize, data: &[u8], access: Access) -> Result<usize, Errno> {
        let mode = if access == Access::Protected { COPY_MODE_WP } else { 0 };
        let mut done = 0;
        while done < data.len() {
            let mut arg = kernel::uffdio_copy {
                dst: (memory + done) as u64,
                src: data[done..].as_ptr() as u64,
                len: (data.len() - done) as u64,
                mode,
                copy: 0,
            };
            match self.call::<{ request::UFFDIO_COPY }, _>(&mut arg) {
                Ok(()) => done = data.len(),
                // A part was copied, or the memory map was being changed.
                Err(Errno::AGAIN) => done += arg.copy.max(0) as usize,
                Err(Errno::EXIST) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Write-protects the pages, absent ones too, or ends the protection and wakes who waits for that.
    pub(crate) fn write_protect(&self, memory: &Range<usize>, protect: bool) -> Result<(), Errno> {
        let mode = if protect { WRITEPROTECT_MODE_WP } else { 0 };
        let mut rest = Rest::of(memory);
        while let Some(part) = rest.part() {
            let mut arg = kernel::uffdio_writeprotect { range: range(&part), mode };
            match self.call::<{ request::UFFDIO_WRITEPROTECT }, _>(&mut arg) {
                Ok(()) => rest.done(part.len()),
                Err(Errno::AGAIN) => {}
                Err(Errno::NOENT) if rest.halve() => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Makes the absent pages give SIGBUS, in kernel mode EHWPOISON, until they are unmapped (6.6).
    #[cfg(feature = "monitor")]
    pub(crate) fn poison(&self, memory: &Range<usize>) -> Result<(), Errno> {
        let mut arg = kernel::uffdio_poison { range: range(memory), mode: 0, updated: 0 };
        self.call::<{ UFFDIO_POISON }, _>(&mut arg)
    }

    fn call<const REQUEST: Opcode, T>(&self, arg: &mut T) -> Result<(), Errno> {
        // SAFETY: every caller in this file pairs the request with the structure that
        // <linux/userfaultfd.h> gives for it. What the ioctls do to memory is that of the ranges
        // named, which the pager has mapped itself (`window`, `map`).
        unsafe { ioctl(self.fd()?, Updater::<REQUEST, T>::new(arg)) }
    }

    /// ENODEV if there is none.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        let fd = self.fd.load(Ordering::Relaxed);
        // SAFETY: if there is one it is open from construction to drop; `replace` leaves another open one.
        if fd < 0 { Err(Errno::NODEV) } else { Ok(unsafe { BorrowedFd::borrow_raw(fd) }) }
    }
}

/// Memory that is gone through a part at a time. The kernel takes a range only within one of its own mappings (write protection: before 6.4), else
/// it is ENOENT; mlock(2) and madvise(2) of a part make two of one of ours.
struct Rest {
    memory: Range<usize>,
    /// What is tried at once reaches up to here.
    end: usize,
}

impl Rest {
    fn of(memory: &Range<usize>) -> Self {
        Self { memory: memory.clone(), end: memory.end }
    }

    /// What is to be tried next.
    fn part(&self) -> Option<Range<usize>> {
        (!self.memory.is_empty()).then_some(self.memory.start..self.end)
    }

    fn done(&mut self, bytes: usize) {
        self.memory.start += bytes;
        if self.memory.start >= self.end {
            self.end = self.memory.end;
        }
    }

    /// Tries the first half alone. Whether there is one.
    fn halve(&mut self) -> bool {
        let pages = (self.end - self.memory.start) / crate::PAGE;
        self.end = self.memory.start + pages.div_ceil(2) * crate::PAGE;
        pages > 1
    }
}

impl From<OwnedFd> for Uffd {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: AtomicI32::new(rustix::fd::IntoRawFd::into_raw_fd(fd)) }
    }
}

impl Drop for Uffd {
    fn drop(&mut self) {
        let fd = *self.fd.get_mut();
        if fd >= 0 {
            // SAFETY: owned by this structure since construction, closed nowhere else.
            unsafe { rustix::io::close(fd) };
        }
    }
}

fn create(user_mode_only: bool) -> Result<OwnedFd, Errno> {
    use rustix::mm::{UserfaultfdFlags, userfaultfd};
    // poll(2) tells only an error of a userfaultfd that blocks.
    let mut flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    if user_mode_only {
        flags |= UserfaultfdFlags::from_bits_retain(kernel::UFFD_USER_MODE_ONLY);
    }
    // SAFETY: the FD stays in this crate, which uses it on memory that it has mapped itself.
    match unsafe { userfaultfd(flags) } {
        Err(Errno::PERM) => from_device(flags).map_err(|_| Errno::PERM),
        other => other,
    }
}

/// `ioctl(open("/dev/userfaultfd"), USERFAULTFD_IOC_NEW, flags)`: for whom the device's mode allows it.
fn from_device(flags: rustix::mm::UserfaultfdFlags) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, open};
    let device = open(c"/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: USERFAULTFD_IOC_NEW takes the flags as its argument and returns a new FD.
    unsafe { ioctl(device, NewUffd(flags.bits())) }
}

struct NewUffd(u32);

// SAFETY: `_IO(0xAA, 0)` takes an integer in place of the pointer, changes no memory and returns an FD.
unsafe impl rustix::ioctl::Ioctl for NewUffd {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        kernel::USERFAULTFD_IOC << 8
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(
        fd: rustix::ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the ioctl has just returned this FD to us alone.
        Ok(unsafe { rustix::fd::FromRawFd::from_raw_fd(fd) })
    }
}

fn handshake(fd: BorrowedFd<'_>, features: u64) -> Result<Features, Errno> {
    let mut arg = kernel::uffdio_api { api: kernel::UFFD_API.into(), features, ioctls: 0 };
    // SAFETY: UFFDIO_API takes this structure and touches nothing else.
    unsafe { ioctl(fd, Updater::<{ request::UFFDIO_API }, _>::new(&mut arg)) }?;
    Ok(Features(arg.features))
}

fn range(memory: &Range<usize>) -> kernel::uffdio_range {
    kernel::uffdio_range { start: memory.start as u64, len: memory.len() as u64 }
}
