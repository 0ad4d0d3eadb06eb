//! read and write in all their forms, and lseek.

use std::borrow::Cow;
use std::ops::Range;
use std::os::fd::RawFd;

use interpose::Call;
use libc::iovec;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Instance};
use rustix::io::Errno;
use stash::{SlotGuard, StashError};
use uffd_pager::View;

use super::{Reply, Served, file_size, transfer_flags};
use crate::file::{self, FileRef, OpenFile, stash_errno};
use crate::process::Process;
use crate::{mount, paging, user};

/// The most that one call transfers (`MAX_RW_COUNT`), bytes.
pub const MOST: usize = 0x7fff_f000;
/// `UIO_MAXIOV`.
const IOV_MAX: usize = 1024;

/// The position that a call names: told to be negative before the FD is looked at.
fn position(offset: u64) -> Result<i64, Errno> {
    let offset = offset as i64;
    if offset < 0 { Err(Errno::INVAL) } else { Ok(offset) }
}

pub fn read(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, length, ..] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    input(&file, &Buffers::one(buffer, length)?, None)
}

pub fn pread(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, length, offset, ..] = call.args;
    let offset = position(offset)?;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    input(&file, &Buffers::one(buffer, length)?, Some(offset))
}

pub fn readv(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, ..] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    input(&file, &Buffers::many(iov, count)?, None)
}

pub fn preadv(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, offset, ..] = call.args;
    let offset = position(offset)?;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    input(&file, &Buffers::many(iov, count)?, Some(offset))
}

pub fn preadv2(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, offset, _, flags] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    transfer_flags::check(flags as u32)?;
    let offset = offset as i64;
    input(&file, &Buffers::many(iov, count)?, (offset != -1).then_some(offset))
}

pub fn write(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, length, ..] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    output(process, &file, &Buffers::one(buffer, length)?, None, 0)
}

pub fn pwrite(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, length, offset, ..] = call.args;
    let offset = position(offset)?;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    output(process, &file, &Buffers::one(buffer, length)?, Some(offset), 0)
}

pub fn writev(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, ..] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    output(process, &file, &Buffers::many(iov, count)?, None, 0)
}

pub fn pwritev(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, offset, ..] = call.args;
    let offset = position(offset)?;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    output(process, &file, &Buffers::many(iov, count)?, Some(offset), 0)
}

pub fn pwritev2(process: &'static Process, call: &Call) -> Served {
    let [fd, iov, count, offset, _, flags] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    let flags = flags as u32;
    transfer_flags::check(flags)?;
    let offset = offset as i64;
    output(process, &file, &Buffers::many(iov, count)?, (offset != -1).then_some(offset), flags)
}

pub fn lseek(process: &'static Process, call: &Call) -> Served {
    let [fd, offset, whence, ..] = call.args;
    let Some(file) = file::served_if_open(process, fd as RawFd)? else { return Ok(Reply::Pass) };
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    let offset = offset as i64;
    let guard = lock_offset(&file)?;
    let target = match whence as u32 {
        sys::SEEK_SET => offset,
        sys::SEEK_CUR if offset == 0 => return Ok(Reply::Value(guard.slot().offset())),
        // A reader who was faster has moved it before; one who is not reads again.
        sys::SEEK_CUR => guard.pin_offset().checked_add(offset).ok_or(Errno::INVAL)?,
        sys::SEEK_END => end_of_file(&file)?.checked_add(offset).ok_or(Errno::INVAL)?,
        sys::SEEK_DATA | sys::SEEK_HOLE => find_extent(&file, offset, whence as u32)?,
        _ => return Err(Errno::INVAL),
    };
    if target < 0 {
        return Err(Errno::INVAL);
    }
    guard.pin_offset();
    guard.set_offset(target).map_err(stash_errno)?;
    Ok(Reply::Value(target))
}

/// Takes the lock of the slot, to work with the offset. What a killed process wrote at the offset without moving it is behind it then:
/// as much as it asked for, or up to the end of a file that it made longer.
pub fn lock_offset(file: &OpenFile) -> Result<SlotGuard<'_>, Errno> {
    let guard = file.shared()?.lock(file.holder()).map_err(stash_errno)?;
    if let Some(written) = guard.unfinished() {
        let end = if written.is_empty() { written.end } else { size_of_file(file)? };
        guard.set_offset(end.clamp(written.start, written.end)).map_err(stash_errno)?;
    }
    Ok(guard)
}

fn find_extent(file: &OpenFile, offset: i64, whence: u32) -> Result<i64, Errno> {
    let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
    paging::coherent::settle(file)?;
    match file.with_handle(|instance, handle| instance.lseek(handle, from, whence as i32)) {
        Ok(found) => i64::try_from(found).map_err(|_| Errno::OVERFLOW),
        // No plugin of its own mind: all of the file is data, and a hole follows its end.
        Err(Errno::NOSYS) => {
            let size = size_of_file(file)?;
            match offset {
                _ if offset >= size => Err(Errno::NXIO),
                _ if whence == sys::SEEK_DATA => Ok(offset),
                _ => Ok(size),
            }
        }
        Err(error) => Err(error),
    }
}

/// Where `SEEK_END` counts from.
fn end_of_file(file: &OpenFile) -> Result<i64, Errno> {
    if file.is_directory()? { Err(Errno::INVAL) } else { size_of_file(file) }
}

/// The file's length in bytes.
pub fn size_of_file(file: &OpenFile) -> Result<i64, Errno> {
    Ok(file.with_handle(Instance::fgetattr)?.st_size)
}

/// Memory of the program that a call names.
#[derive(Clone)]
pub struct Buffers {
    one: [iovec; 1],
    many: Vec<iovec>,
}

/// What the kernel checks first (`access_ok`): memory that no program can have is `EFAULT`, whatever the file holds.
fn check_range(address: u64, length: u64) -> Result<(), Errno> {
    const TASK_SIZE: u64 = 0x7fff_ffff_f000;
    let end = address.checked_add(length).ok_or(Errno::FAULT)?;
    if end > TASK_SIZE || (address == 0 && length > 0) { Err(Errno::FAULT) } else { Ok(()) }
}

impl Buffers {
    /// One buffer, cut at what one call may transfer.
    pub fn one(address: u64, length: u64) -> Result<Self, Errno> {
        check_range(address, length)?;
        let length = (length as usize).min(MOST);
        Ok(Self { one: [iovec { iov_base: address as *mut _, iov_len: length }], many: Vec::new() })
    }

    /// The buffers of an iovec array in the program's memory.
    pub fn many(address: u64, count: u64) -> Result<Self, Errno> {
        let count = usize::try_from(count).ok().filter(|&count| count <= IOV_MAX).ok_or(Errno::INVAL)?;
        let mut many = Vec::with_capacity(count);
        let mut total = 0usize;
        for index in 0..count {
            let [base, length] = user::read::<[u64; 2]>(address + index as u64 * 16)?;
            let length = usize::try_from(length).ok().filter(|&length| isize::try_from(length).is_ok());
            let length = length.ok_or(Errno::INVAL)?;
            check_range(base, length as u64)?;
            let length = length.min(MOST - total);
            total += length;
            // An empty one may be anywhere, at address zero too, and a plugin makes a slice of each.
            if length > 0 {
                many.push(iovec { iov_base: base as *mut _, iov_len: length });
            }
        }
        Ok(Self { one: [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }], many })
    }

    fn list(&self) -> &[iovec] {
        if self.many.is_empty() { &self.one } else { &self.many }
    }

    fn length(&self) -> usize {
        self.list().iter().map(|iov| iov.iov_len).sum()
    }

    /// Copies what lies at `place` of all buffers taken as one.
    fn read(&self, mut place: usize, mut bytes: &mut [u8]) -> Result<(), Errno> {
        for iov in self.list() {
            if bytes.is_empty() {
                break;
            }
            if place >= iov.iov_len {
                place -= iov.iov_len;
                continue;
            }
            let count = (iov.iov_len - place).min(bytes.len());
            let (now, later) = bytes.split_at_mut(count);
            user::read_bytes(iov.iov_base as u64 + place as u64, now)?;
            (bytes, place) = (later, 0);
        }
        Ok(())
    }

    /// What there is of the buffers up to the first page that `check` does not find: there a transfer of the kernel's ends, too. `EFAULT` if
    /// that is the first one.
    fn present(&self, check: impl Fn(u64, usize) -> Result<(), Errno>) -> Result<Cow<'_, Self>, Errno> {
        const PAGE: u64 = 4096;
        for (index, iov) in self.list().iter().enumerate().filter(|(_, iov)| iov.iov_len > 0) {
            let (start, end) = (iov.iov_base as u64, iov.iov_base as u64 + iov.iov_len as u64);
            if check(start, iov.iov_len).is_ok() {
                continue;
            }
            let mut good = start;
            while good < end {
                let next = (good / PAGE + 1).saturating_mul(PAGE).min(end);
                if check(good, (next - good) as usize).is_err() {
                    break;
                }
                good = next;
            }
            let before: usize = self.list()[..index].iter().map(|iov| iov.iov_len).sum();
            let length = before + (good - start) as usize;
            return if length > 0 { Ok(Cow::Owned(self.first(length))) } else { Err(Errno::FAULT) };
        }
        Ok(Cow::Borrowed(self))
    }

    /// The first `length` bytes, at least one and no more than there are.
    fn first(&self, length: usize) -> Self {
        let mut left = length;
        let mut many = self.list().to_vec();
        for iov in &mut many {
            iov.iov_len = iov.iov_len.min(left);
            left -= iov.iov_len;
        }
        many.retain(|iov| iov.iov_len > 0);
        Self { one: self.one, many }
    }
}

/// An error between the plugin and the arena, of either.
struct Failure(Errno);

impl From<StashError> for Failure {
    fn from(error: StashError) -> Self {
        Self(stash_errno(error))
    }
}

fn input(file: &FileRef, buffers: &Buffers, offset: Option<i64>) -> Served {
    if !file.readable() {
        return Err(Errno::BADF);
    }
    if offset.is_some_and(|offset| offset < 0) {
        return Err(Errno::INVAL);
    }
    let in_kernel = mount::copies_in_kernel(file.instance()?);
    let buffers = if in_kernel { Cow::Borrowed(buffers) } else { buffers.present(user::check_writable)? };
    let buffers = &*buffers;
    let count = if let Some(offset) = offset {
        read_at(file, buffers, offset)?
    } else {
        let read = |offset| read_at(file, buffers, offset).map_err(Failure);
        match file.shared()?.try_advance_read(read).map_err(|Failure(error)| error)? {
            Some(count) => count,
            None => lock_offset(file)?.advance(read).map_err(|Failure(error)| error)?,
        }
    };
    Ok(Reply::Value(count as i64))
}

#[allow(unsafe_code)]
fn read_at(file: &OpenFile, buffers: &Buffers, offset: i64) -> Result<usize, Errno> {
    let offset = offset as u64;
    if let Some(view) = paging::view(file)? {
        return read_with_pages(file, &view, buffers, offset);
    }
    file.with_handle(|instance, handle| match buffers.list() {
        // SAFETY: the program's own buffer: it was found writable, or the plugin has the kernel check it.
        [one] => unsafe { instance.read_raw(handle, one.iov_base.cast(), one.iov_len, offset) },
        // SAFETY: as above, for each buffer.
        many => unsafe { instance.readv_raw(handle, many, offset) },
    })
}

/// As [`read_at`], of a file that may be mapped.
#[allow(unsafe_code)]
fn read_with_pages(file: &OpenFile, view: &View, buffers: &Buffers, offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    for iov in buffers.list() {
        // SAFETY: the program's own buffer: it was found writable, or the kernel checks it.
        let place = |place: Range<usize>| unsafe {
            std::slice::from_raw_parts_mut(iov.iov_base.cast::<u8>().add(place.start), place.len())
        };
        let at = offset + done as u64;
        let resident = |at: u64, range| view.read(at, place(range)).map_err(|error| error.errno());
        let plugin = |at: u64, range: Range<usize>| {
            // SAFETY: as above.
            file.with_handle(|instance, handle| unsafe {
                instance.read_raw(handle, iov.iov_base.cast::<u8>().add(range.start), range.len(), at)
            })
        };
        match paging::coherent::read(view, at, iov.iov_len, resident, plugin) {
            Ok(count) => {
                done += count;
                if count < iov.iov_len {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads into our own memory at `offset`.
pub fn read_bytes(file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let buffers = Buffers::one(buffer.as_mut_ptr() as u64, buffer.len() as u64)?;
    read_at(file, &buffers, i64::try_from(offset).map_err(|_| Errno::INVAL)?)
}

/// Writes our own memory at `offset`.
pub fn write_bytes_at(file: &OpenFile, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    let buffers = Buffers::one(bytes.as_ptr() as u64, bytes.len() as u64)?;
    write_at(file, &buffers, offset, false).map(|(count, _)| count)
}

/// Writes `length` bytes of our own memory at the file's offset (or its end), as write(2) does.
pub fn write_bytes(process: &Process, file: &FileRef, address: u64, length: usize) -> Result<usize, Errno> {
    match output(process, file, &Buffers::one(address, length as u64)?, None, 0)? {
        Reply::Value(count) => Ok(count as usize),
        _ => Err(Errno::IO),
    }
}

fn output(process: &Process, file: &FileRef, buffers: &Buffers, offset: Option<i64>, flags: u32) -> Served {
    if !file.writable() {
        return Err(Errno::BADF);
    }
    if offset.is_some_and(|offset| offset < 0) {
        return Err(Errno::INVAL);
    }
    let instance = file.instance()?;
    let shared = file.shared()?;
    let append = flags & sys::RWF_APPEND != 0
        || flags & transfer_flags::NOAPPEND == 0 && shared.status_flags() & sys::O_APPEND != 0;
    // Several pieces of an append may be put together for the plugin.
    let in_kernel = mount::copies_in_kernel(instance) && !(append && buffers.many.len() > 1);
    let buffers = if in_kernel { Cow::Borrowed(buffers) } else { buffers.present(user::check_readable)? };
    let buffers = &*buffers;
    let count = match (offset, append) {
        (Some(_), true) => append_to(process, file, instance, buffers)?.0,
        (None, true) => {
            let guard = shared.lock(file.holder()).map_err(stash_errno)?;
            let (count, end) = append_to(process, file, instance, buffers)?;
            if count > 0 {
                guard.pin_offset();
                guard.set_offset(end as i64).map_err(stash_errno)?;
            }
            count
        }
        (Some(offset), false) => write_at(file, buffers, offset as u64, false)?.0,
        (None, false) => lock_offset(file)?
            .advance_by(buffers.length(), |offset| {
                write_at(file, buffers, offset as u64, false).map(|(count, _)| count).map_err(Failure)
            })
            .map_err(|Failure(error)| error)?,
    };
    if flags & (sys::RWF_SYNC | sys::RWF_DSYNC) != 0 {
        let datasync = flags & sys::RWF_SYNC == 0;
        paging::coherent::settle(file)?;
        file.with_handle(|instance, handle| instance.fsync(handle, datasync))?;
    }
    Ok(Reply::Value(count as i64))
}

/// Writes at the end of the file, wherever other descriptions have put it. Returns the count and the new end.
fn append_to(
    process: &Process,
    file: &FileRef,
    instance: &Instance,
    buffers: &Buffers,
) -> Result<(usize, u64), Errno> {
    if instance.capabilities().contains(Capabilities::APPEND) {
        return write_at(file, buffers, 0, true);
    }
    let at_end = || {
        let end = size_of_file(file)?;
        write_to_plugin(file, buffers, end as u64, false)
    };
    if paging::key_of(file)?.is_some() {
        // Takes the lock of the inode.
        return paging::coherent::write(file, at_end, |place, bytes| buffers.read(place, bytes));
    }
    let attributes = file.with_handle(Instance::fgetattr)?;
    let key = attributes.st_ino ^ attributes.st_dev.rotate_left(32);
    let _alone = process.arena.inode_lock(key, file.holder()).map_err(stash_errno)?;
    at_end()
}

fn write_at(file: &OpenFile, buffers: &Buffers, offset: u64, append: bool) -> Result<(usize, u64), Errno> {
    let write = || write_to_plugin(file, buffers, offset, append);
    paging::coherent::write(file, write, |place, bytes| buffers.read(place, bytes))
}

#[allow(unsafe_code)]
fn write_to_plugin(
    file: &OpenFile,
    buffers: &Buffers,
    offset: u64,
    append: bool,
) -> Result<(usize, u64), Errno> {
    let (length, at) =
        (buffers.length(), || if append { size_of_file(file).map(|end| end as u64) } else { Ok(offset) });
    let room = file_size::room(file.instance()?, at, length)?;
    let buffers = &*if room < length { Cow::Owned(buffers.first(room)) } else { Cow::Borrowed(buffers) };
    let written = file.with_handle(|instance, handle| match buffers.list() {
        // SAFETY: the program's own buffer: it was found readable, or the plugin has the kernel check it.
        [one] => unsafe { instance.write_raw(handle, one.iov_base.cast(), one.iov_len, offset, append) },
        // SAFETY: as above, for each buffer.
        many => unsafe { instance.writev_raw(handle, many, offset, append) },
    })?;
    Ok((written.count, written.end))
}
