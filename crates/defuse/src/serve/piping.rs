//! Data between a served file and a pipe: splice, and sendfile to a pipe.
//!
//! What fits into a pipe, and whether to wait for it, is the kernel's to say. So the file's bytes go into the pipe by vmsplice(2), which waits and
//! stops short as splice(2) does; and a pipe's bytes are taken out of it by splice(2) into a pipe of our own, so that nobody else who reads it
//! gets them, too. What the file then does not take goes back to where it was, before what has come since, if there is room: a writer that waits for
//! some may have filled it.

use std::os::fd::RawFd;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::copying::End;
use crate::process::Process;
use crate::{native, nofile, private_fd};

/// fcntl.h
pub const SPLICE_F_NONBLOCK: u32 = 2;
const PAGE: usize = 4096;

/// Moves up to `count` bytes of the file `from` into `pipe`: as many as there is room for, once there is some.
pub fn from_file(from: &mut End, pipe: RawFd, count: usize, nonblocking: bool) -> Result<usize, Errno> {
    let status = native::checked(sys::__NR_fcntl, [pipe as u64, sys::F_GETFL.into(), 0, 0, 0, 0])? as u32;
    let nonblocking = nonblocking || status & sys::O_NONBLOCK != 0;
    if count == 0 {
        return Ok(0);
    }
    // A full one has room for a page at least when the wait is over.
    let count = count.min(size(pipe)?.saturating_sub(held(pipe)?).max(PAGE));
    // The pages of the file and those of the pipe end at the same bytes.
    let place = from.position()? as usize % PAGE;
    let mut pages = Pages::new(place + count)?;
    let bytes = &mut pages.bytes()[place..];
    let got = from.fetch(&mut bytes[..count])?;
    if got == 0 {
        return Ok(0);
    }
    let pieces = [bytes.as_ptr() as u64, got as u64];
    let flags = if nonblocking { SPLICE_F_NONBLOCK } else { 0 };
    let args = [pipe as u64, pieces.as_ptr() as u64, 1, flags.into(), 0, 0];
    let moved = native::checked_interruptible(sys::__NR_vmsplice, args)? as usize;
    from.advance(moved)?;
    Ok(moved)
}

/// Moves up to `count` bytes that are in `pipe` to the file `to`; waits for the first of them, unless `flags` say otherwise. An error after
/// some is for the next call.
pub fn to_file(
    process: &Process,
    pipe: RawFd,
    to: &mut End,
    count: usize,
    flags: u32,
) -> Result<usize, Errno> {
    let side = SidePipe::new()?;
    let mut buffer = vec![0; size(side.input)?.min(count)];
    let mut moved = 0;
    while moved < count {
        let flags = if moved > 0 { flags | SPLICE_F_NONBLOCK } else { flags };
        let want = buffer.len().min(count - moved);
        let step = side.take(pipe, &mut buffer[..want], flags).and_then(|taken| {
            let taken = &buffer[..taken];
            let stored = if taken.is_empty() { Ok(0) } else { to.store(process, taken) };
            let rest = &taken[*stored.as_ref().unwrap_or(&0)..];
            if !rest.is_empty() {
                // Without room it is lost, beside the error or a count that is too small.
                let _ = side.give_back(pipe, rest);
            }
            Ok((taken.len(), stored?))
        });
        let (taken, stored) = match step {
            Ok(step) => step,
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        };
        if to.offset.is_some() {
            to.advance(stored)?;
        }
        moved += stored;
        if taken == 0 || stored < taken {
            break;
        }
    }
    Ok(moved)
}

/// How many bytes a pipe has room for when it is empty.
fn size(pipe: RawFd) -> Result<usize, Errno> {
    let args = [pipe as u64, sys::F_GETPIPE_SZ.into(), 0, 0, 0, 0];
    native::checked(sys::__NR_fcntl, args).map(|size| size as usize)
}

/// How many bytes are in a pipe.
fn held(pipe: RawFd) -> Result<usize, Errno> {
    let mut held = 0_i32;
    let request = u64::from(linux_raw_sys::ioctl::FIONREAD);
    native::checked(sys::__NR_ioctl, [pipe as u64, request, &raw mut held as u64, 0, 0, 0])?;
    Ok(held as usize)
}

/// Pages to be given to a pipe. Nobody may change them from then on: when they are dropped they are the pipe's alone.
struct Pages {
    address: u64,
    length: usize,
}

impl Pages {
    fn new(length: usize) -> Result<Self, Errno> {
        let protection = u64::from(sys::PROT_READ | sys::PROT_WRITE);
        let flags = u64::from(sys::MAP_PRIVATE | sys::MAP_ANONYMOUS);
        let args = [0, length as u64, protection, flags, u64::MAX, 0];
        Ok(Self { address: native::checked(sys::__NR_mmap, args)?, length })
    }

    #[allow(unsafe_code)]
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped by `new` for this value alone, zeros at first, and lent as long as the value is.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        native::raw_call(sys::__NR_munmap, [self.address, self.length as u64, 0, 0, 0, 0]);
    }
}

/// A pipe of our own, empty but for moments.
struct SidePipe {
    output: RawFd,
    input: RawFd,
}

impl SidePipe {
    fn new() -> Result<Self, Errno> {
        let mut ends = [0_i32; 2];
        let args = [ends.as_mut_ptr() as u64, sys::O_CLOEXEC.into(), 0, 0, 0, 0];
        nofile::with_room(|| native::checked(sys::__NR_pipe2, args))?;
        // Out of the way of the program's numbers, as this call may wait.
        let [output, input] = ends.map(|end| private_fd::take(end).unwrap_or(end));
        Ok(Self { output, input })
    }

    /// Reads what is in it: as many bytes as `buffer` has.
    fn drain(&self, mut buffer: &mut [u8]) -> Result<(), Errno> {
        while !buffer.is_empty() {
            let args = [self.output as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0];
            let count = native::checked(sys::__NR_read, args)? as usize;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    /// Takes up to as many bytes as `buffer` has out of `pipe`. A signal ends a wait.
    fn take(&self, pipe: RawFd, buffer: &mut [u8], flags: u32) -> Result<usize, Errno> {
        let args = [pipe as u64, 0, self.input as u64, 0, buffer.len() as u64, flags.into()];
        let taken = native::checked_interruptible(sys::__NR_splice, args)? as usize;
        self.drain(&mut buffer[..taken])?;
        Ok(taken)
    }

    /// Puts `bytes` back into `pipe`, before what is in it by now, if there is room for them.
    fn give_back(&self, pipe: RawFd, bytes: &[u8]) -> Result<(), Errno> {
        let later = held(pipe)?;
        if later + bytes.len() > size(pipe)? {
            return Err(Errno::AGAIN);
        }
        let name = format!("/proc/self/fd/{pipe}\0");
        let flags = sys::O_WRONLY | sys::O_NONBLOCK | sys::O_CLOEXEC;
        let input = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags.into(), 0, 0, 0, 0])?;
        let mut all = bytes.to_vec();
        all.resize(bytes.len() + later, 0);
        let mut end = bytes.len();
        while end < all.len()
            && let Ok(count @ 1..) = self.take(pipe, &mut all[end..], SPLICE_F_NONBLOCK)
        {
            end += count;
        }
        let args = [input as u64, all.as_ptr() as u64, end as u64, 0, 0, 0];
        native::raw_call(sys::__NR_write, args);
        native::close(input);
        Ok(())
    }
}

impl Drop for SidePipe {
    fn drop(&mut self) {
        private_fd::close(self.output);
        private_fd::close(self.input);
    }
}
