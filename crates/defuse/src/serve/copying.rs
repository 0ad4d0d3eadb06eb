//! sendfile, splice, copy_file_range: data from one FD to another, one of them served.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::piping::{self, SPLICE_F_NONBLOCK};
use super::transfer::{MOST, lock_offset, read_bytes, size_of_file, write_bytes_at};
use super::{Reply, Served, file_size, places};
use crate::file::{self, FileRef, stash_errno};
use crate::paging::coherent;
use crate::process::Process;
use crate::{native, user};

/// Bytes moved at a time.
const CHUNK: usize = 128 * 1024;

/// One side of a copy: what it is, and where the call reads and writes.
pub struct End {
    fd: RawFd,
    file: Option<FileRef>,
    /// `None`: at the FD's own offset, which moves along.
    pub offset: Option<i64>,
}

impl End {
    fn new(process: &'static Process, fd: u64, offset: Option<i64>) -> Self {
        Self { fd: fd as RawFd, file: file::served(process, fd as RawFd), offset }
    }

    /// Where the call reads or writes next. Of a file of the kernel's that is known only if the call names it.
    pub fn position(&self) -> Result<i64, Errno> {
        match (self.offset, &self.file) {
            (Some(offset), _) => Ok(offset),
            // Where a writer that was killed at the end of its call had moved it to.
            (None, Some(file)) => Ok(lock_offset(file)?.slot().offset()),
            (None, None) => Err(Errno::INVAL),
        }
    }

    /// Reads into `buffer` without moving any offset.
    pub fn fetch(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let at = self.position()? as u64;
        if let Some(file) = &self.file {
            return read_bytes(file, buffer, at);
        }
        let (address, length) = (buffer.as_mut_ptr() as u64, buffer.len() as u64);
        native::checked(sys::__NR_pread64, [self.fd as u64, address, length, at, 0, 0])
            .map(|count| count as usize)
    }

    /// Records that `count` bytes were taken from (or put to) this end.
    pub fn advance(&mut self, count: usize) -> Result<(), Errno> {
        match (&self.file, &mut self.offset) {
            (_, Some(offset)) => *offset += count as i64,
            (Some(file), None) => {
                let guard = lock_offset(file)?;
                let offset = guard.pin_offset();
                guard.set_offset(offset + count as i64).map_err(stash_errno)?;
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Writes what it can of `bytes`, moving the FD's own offset. A signal ends a wait (for a socket).
    pub fn store(&self, process: &Process, bytes: &[u8]) -> Result<usize, Errno> {
        let (address, length) = (bytes.as_ptr() as u64, bytes.len() as u64);
        match (&self.file, self.offset) {
            (Some(file), Some(offset)) => write_bytes_at(file, bytes, offset as u64),
            (Some(file), None) => super::transfer::write_bytes(process, file, address, bytes.len()),
            (None, Some(offset)) => {
                native::checked(sys::__NR_pwrite64, [self.fd as u64, address, length, offset as u64, 0, 0])
                    .map(|count| count as usize)
            }
            (None, None) => {
                native::checked_interruptible(sys::__NR_write, [self.fd as u64, address, length, 0, 0, 0])
                    .map(|count| count as usize)
            }
        }
    }
}

/// Copies up to `count` bytes; stops at the source's end or when the target takes less. An error after some bytes
/// were copied is not lost: the next call meets it.
fn copy(process: &Process, from: &mut End, to: &mut End, count: usize) -> Result<usize, Errno> {
    let mut buffer = vec![0; CHUNK.min(count)];
    let mut copied = 0;
    while copied < count {
        let want = buffer.len().min(count - copied);
        let got = match from.fetch(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if copied == 0 => return Err(error),
            Err(_) => break,
        };
        let stored = match to.store(process, &buffer[..got]) {
            Ok(stored) => stored,
            Err(error) if copied == 0 => return Err(error),
            Err(_) => break,
        };
        from.advance(stored)?;
        if to.offset.is_some() {
            to.advance(stored)?;
        }
        copied += stored;
        if stored < got || (got < want && from.file.is_none()) {
            break;
        }
    }
    Ok(copied)
}

pub fn sendfile(process: &'static Process, call: &Call) -> Served {
    let [output, input, offset_address, count, ..] = call.args;
    let offset = offset_at(offset_address)?;
    let mut from = End::new(process, input, offset);
    let mut to = End::new(process, output, None);
    if from.file.is_none() && to.file.is_none() {
        return Ok(Reply::Pass);
    }
    check_input(&from)?;
    check_output(&to, true)?;
    if offset.is_some_and(|offset| offset < 0) {
        return Err(Errno::INVAL);
    }
    if from.file.is_none() && offset.is_none() {
        return copy_from_seekable(process, &mut from, &mut to, count);
    }
    let count = (count as usize).min(MOST);
    let copied = if to.file.is_none() && kind_of(&to)? == sys::S_IFIFO && may_make_more_calls(process) {
        piping::from_file(&mut from, to.fd, count, false)?
    } else {
        copy(process, &mut from, &mut to, count)?
    };
    store_offset(offset_address, from.offset)?;
    Ok(Reply::Value(copied as i64))
}

/// The source is a kernel file at its own offset: what the target did not take must not be skipped.
fn copy_from_seekable(process: &Process, from: &mut End, to: &mut End, count: u64) -> Served {
    let seek = |offset: i64, whence: u32| {
        native::checked(sys::__NR_lseek, [from.fd as u64, offset as u64, u64::from(whence), 0, 0, 0])
    };
    let start = seek(0, sys::SEEK_CUR).map_err(|_| Errno::INVAL)? as i64;
    let mut source = End { fd: from.fd, file: None, offset: Some(start) };
    let copied = copy(process, &mut source, to, (count as usize).min(MOST))?;
    seek(start + copied as i64, sys::SEEK_SET)?;
    Ok(Reply::Value(copied as i64))
}

pub fn copy_file_range(process: &'static Process, call: &Call) -> Served {
    let [input, input_offset, output, output_offset, count, flags] = call.args;
    let mut from = End::new(process, input, offset_at(input_offset)?);
    let mut to = End::new(process, output, offset_at(output_offset)?);
    if from.file.is_none() && to.file.is_none() {
        return Ok(Reply::Pass);
    }
    if flags as u32 != 0 || from.offset.is_some_and(|at| at < 0) || to.offset.is_some_and(|at| at < 0) {
        return Err(Errno::INVAL);
    }
    for end in [&from, &to] {
        match kind_of(end)? {
            sys::S_IFREG => {}
            sys::S_IFDIR => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
    }
    let same_mount = match (&from.file, &to.file) {
        (Some(source), Some(target)) => source.mount == target.mount,
        _ => false,
    };
    check_input(&from)?;
    check_output(&to, false)?;
    if !same_mount {
        return Err(Errno::XDEV); // As between any two file systems; programs then read and write.
    }
    let count = length_of_copy(&from, &to, (count as usize).min(MOST))?;
    let count = match &to.file {
        Some(file) => file_size::room(file.instance()?, || to.position().map(|at| at as u64), count)?,
        None => count,
    };
    let copied = match copy_inside(&mut from, &mut to, count) {
        Some(done) => done?,
        None => copy(process, &mut from, &mut to, count)?,
    };
    store_offset(input_offset, from.offset)?;
    store_offset(output_offset, to.offset)?;
    Ok(Reply::Value(copied as i64))
}

/// What there is to copy between files of one mount, up to `count`: what lies behind the source's end does not overlap with anything. `EINVAL` if the
/// rest does.
fn length_of_copy(from: &End, to: &End, count: usize) -> Result<usize, Errno> {
    let (Some(source), Some(target)) = (&from.file, &to.file) else { return Ok(count) };
    let identity = |file: &FileRef| {
        let found = file.with_handle(plugin_abi::Instance::fgetattr)?;
        Ok::<_, Errno>((found.st_dev, found.st_ino))
    };
    if identity(source)? != identity(target)? {
        return Ok(count);
    }
    let (first, second) = (from.position()?, to.position()?);
    let count = size_of_file(source)?.saturating_sub(first).clamp(0, count as i64);
    let overlap = first < second.saturating_add(count) && second < first.saturating_add(count);
    if overlap { Err(Errno::INVAL) } else { Ok(count as usize) }
}

/// A copy from file to file of one mount, by the plugin; `None` if it has no way of its own.
fn copy_inside(from: &mut End, to: &mut End, count: usize) -> Option<Result<usize, Errno>> {
    let (source, target) = (from.file.as_ref()?, to.file.as_ref()?);
    if source.mount != target.mount {
        return None;
    }
    let (first, second) = match (from.position(), to.position()) {
        (Ok(first), Ok(second)) => (first as u64, second as u64),
        (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
    };
    let copy = || {
        let copied = source.with_handle(|instance, handle| {
            target
                .with_handle(|_, other| instance.copy_range(handle, first, other, second, count))
                .map_err(|error| plugin_abi::Errno::from_raw(error.raw_os_error()))
        })?;
        Ok((copied, second..second + copied as u64))
    };
    let done = coherent::settle(source).and_then(|()| coherent::change(target, copy));
    match done {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV) => None,
        Err(error) => Some(Err(error)),
        Ok(copied) => Some(from.advance(copied).and_then(|()| to.advance(copied)).map(|()| copied)),
    }
}

pub fn splice(process: &'static Process, call: &Call) -> Served {
    let [input, input_offset, output, output_offset, count, flags] = call.args;
    let flags = flags as u32;
    if count == 0 || flags & !SPLICE_FLAGS != 0 {
        return Ok(Reply::Pass); // Neither FD is looked at.
    }
    let mut from = End::new(process, input, offset_at(input_offset)?);
    let mut to = End::new(process, output, offset_at(output_offset)?);
    if from.file.is_none() && to.file.is_none() {
        return Ok(Reply::Pass);
    }
    if [&from, &to].iter().any(|end| end.file.as_ref().is_some_and(|file| file.is_place())) {
        return Err(Errno::BADF);
    }
    // One side must be a pipe, and a pipe has no offset.
    let pipe = if from.file.is_some() { &to } else { &from };
    if pipe.file.is_some() || kind_of(pipe)? != sys::S_IFIFO {
        return Err(Errno::INVAL);
    }
    if pipe.offset.is_some() {
        return Err(Errno::SPIPE);
    }
    check_input(&from)?;
    check_output(&to, true)?;
    let count = (count as usize).min(MOST);
    let copied = if !may_make_more_calls(process) {
        copy(process, &mut from, &mut to, count)?
    } else if to.file.is_none() {
        piping::from_file(&mut from, to.fd, count, flags & SPLICE_F_NONBLOCK != 0)?
    } else {
        piping::to_file(process, from.fd, &mut to, count, flags)?
    };
    store_offset(input_offset, from.offset)?;
    store_offset(output_offset, to.offset)?;
    Ok(Reply::Value(copied as i64))
}

/// Whether the program has no filter that may know of read(2) and write(2) only.
fn may_make_more_calls(process: &Process) -> bool {
    !process.restricted.load(Ordering::Relaxed)
}

/// fcntl.h: `SPLICE_F_MOVE`, `SPLICE_F_NONBLOCK`, `SPLICE_F_MORE`, `SPLICE_F_GIFT`.
const SPLICE_FLAGS: u32 = 15;

pub fn tee(process: &'static Process, call: &Call) -> Served {
    let [input, output, ..] = call.args;
    only_pipes(process, &[input, output])
}

pub fn vmsplice(process: &'static Process, call: &Call) -> Served {
    match file::served(process, call.args[0] as RawFd) {
        Some(_) => Err(Errno::BADF),
        None => Ok(Reply::Pass),
    }
}

fn only_pipes(process: &'static Process, fds: &[u64]) -> Served {
    fds.iter().try_for_each(|&fd| places::check(process, fd as RawFd))?;
    let any_served = fds.iter().any(|&fd| file::served(process, fd as RawFd).is_some());
    if any_served { Err(Errno::INVAL) } else { Ok(Reply::Pass) }
}

fn check_input(end: &End) -> Result<(), Errno> {
    let Some(file) = &end.file else { return Ok(()) };
    if !file.readable() {
        return Err(Errno::BADF);
    }
    if file.kind()? == sys::S_IFREG { Ok(()) } else { Err(Errno::INVAL) }
}

fn check_output(end: &End, append_is_invalid: bool) -> Result<(), Errno> {
    let append = match &end.file {
        Some(file) if !file.writable() => return Err(Errno::BADF),
        Some(file) => file.shared()?.status_flags() & sys::O_APPEND != 0,
        None => {
            let args = [end.fd as u64, u64::from(sys::F_GETFL), 0, 0, 0, 0];
            let flags = native::checked(sys::__NR_fcntl, args)? as u32;
            if flags & sys::O_ACCMODE == sys::O_RDONLY {
                return Err(Errno::BADF);
            }
            flags & sys::O_APPEND != 0
        }
    };
    match (append, append_is_invalid) {
        (true, true) => Err(Errno::INVAL),
        (true, false) => Err(Errno::BADF),
        _ => Ok(()),
    }
}

fn kind_of(end: &End) -> Result<u32, Errno> {
    match &end.file {
        Some(file) => file.kind(),
        None => Ok(native::fstat(end.fd)?.st_mode & sys::S_IFMT),
    }
}

fn offset_at(address: u64) -> Result<Option<i64>, Errno> {
    if address == 0 { Ok(None) } else { user::read::<i64>(address).map(Some) }
}

fn store_offset(address: u64, offset: Option<i64>) -> Result<(), Errno> {
    match offset {
        Some(offset) if address != 0 => user::write(address, &offset),
        _ => Ok(()),
    }
}
