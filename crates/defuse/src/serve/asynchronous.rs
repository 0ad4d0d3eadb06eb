//! io_submit(2) on served files.
//!
//! The request is done at once. So that the program gets its completion where it waits for it (io_getevents, an eventfd, its
//! own look at the ring), the kernel is then given the same control block as a write of as many bytes to /dev/null, which has
//! the result wanted and changes nothing. An error is one of io_submit itself.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{Reply, Served, metadata, transfer};
use crate::namei::{self, OpenHow};
use crate::process::Process;
use crate::{file, native, user};

/// linux/aio_abi.h: operations.
const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;

/// What poll(2) says of every file: it can be read and written (`DEFAULT_POLLMASK`).
const READY: u64 = 0x145;

/// The parts of a `struct iocb`, in words of 8 bytes.
mod word {
    /// A key that the kernel writes, and flags of preadv2.
    pub const KEY_FLAGS: usize = 1;
    /// Operation (16 bits), priority (16), FD.
    pub const OPERATION: usize = 2;
    pub const BUFFER: usize = 3;
    pub const BYTES: usize = 4;
    pub const OFFSET: usize = 5;
}

type ControlBlock = [u64; 8];

/// A buffer for /dev/null, which does not look at it. No number of bytes from here on leaves user space.
const ANYWHERE: u64 = 0x1000;

pub fn io_submit(process: &'static Process, call: &Call) -> Served {
    let [context, count, blocks, ..] = call.args;
    let count = count as i64;
    if count <= 0 {
        return Ok(Reply::Pass);
    }
    let mut submitted = 0;
    // The kernel's own, one run of them after the other.
    let mut run = 0;
    let submit_run = |first: i64, length: i64| -> Result<i64, Errno> {
        let args = [context, length as u64, blocks + 8 * first as u64, 0, 0, 0];
        native::checked(call.nr, args).map(|done| done as i64)
    };
    for index in 0..count {
        let entry = user::read::<u64>(blocks + 8 * index as u64)
            .and_then(|address| Ok((address, user::read::<ControlBlock>(address)?)));
        // What cannot be read is the kernel's to say, after what comes before it.
        let served = entry.ok().filter(|(_, block)| file::served(process, fd_of(block)).is_some());
        let Some((address, block)) = served else {
            run += 1;
            continue;
        };
        if run > 0 {
            match submit_run(submitted, run) {
                Ok(done) => submitted += done,
                Err(error) => return partial(submitted, error),
            }
            if submitted < index {
                return Ok(Reply::Value(submitted));
            }
            run = 0;
        }
        match serve(process, context, blocks + 8 * index as u64, address, &block) {
            Ok(()) => submitted += 1,
            Err(error) => return partial(submitted, error),
        }
    }
    if submitted == 0 {
        return Ok(Reply::Pass);
    }
    if run > 0 {
        match submit_run(submitted, run) {
            Ok(done) => submitted += done,
            Err(error) => return partial(submitted, error),
        }
    }
    Ok(Reply::Value(submitted))
}

/// An error counts if nothing was submitted before it.
fn partial(submitted: i64, error: Errno) -> Served {
    if submitted > 0 { Ok(Reply::Value(submitted)) } else { Err(error) }
}

fn fd_of(block: &ControlBlock) -> RawFd {
    (block[word::OPERATION] >> 32) as RawFd
}

fn serve(
    process: &'static Process,
    context: u64,
    pointer: u64,
    address: u64,
    block: &ControlBlock,
) -> Result<(), Errno> {
    let how = OpenHow { flags: u64::from(sys::O_WRONLY | sys::O_CLOEXEC), mode: 0, resolve: 0 };
    let null = namei::look_how(sys::AT_FDCWD, b"/dev/null", &how)?;
    // The completion names the program's own block, so that is the one to submit, for a moment with another content.
    let submit = |buffer: u64, count: u64| {
        let mut stand_in = *block;
        stand_in[word::KEY_FLAGS] = 0;
        let priority = block[word::OPERATION] & 0xffff_0000;
        stand_in[word::OPERATION] = (null as u64) << 32 | priority | u64::from(PWRITE);
        stand_in[word::BUFFER] = buffer;
        stand_in[word::BYTES] = count;
        stand_in[word::OFFSET] = 0;
        user::write(address, &stand_in)?;
        let submitted = native::checked(sys::__NR_io_submit, [context, 1, pointer, 0, 0, 0]);
        user::write(address, block)?;
        submitted
    };
    // What the kernel has against the request (no such context, none free, no eventfd) it says before anything is done: the last thing
    // that it looks at is the buffer, which nobody can have.
    let done = match submit(u64::MAX, 1) {
        Err(Errno::FAULT) => perform(process, block).and_then(|count| submit(ANYWHERE, count).map(drop)),
        Err(error) => Err(error),
        Ok(_) => Err(Errno::IO),
    };
    native::close(null);
    done
}

/// Does what the block asks for; the number of bytes.
fn perform(process: &'static Process, block: &ControlBlock) -> Result<u64, Errno> {
    if (block[word::OFFSET] as i64) < 0 {
        return Err(Errno::INVAL);
    }
    let fd = fd_of(block) as u64;
    let flags = block[word::KEY_FLAGS] >> 32;
    let (buffer, bytes, offset) = (block[word::BUFFER], block[word::BYTES], block[word::OFFSET]);
    let single = [buffer, bytes];
    let one = (single.as_ptr() as u64, 1);
    let vector =
        |call: u32, (pieces, count): (u64, u64)| Call::new(call, [fd, pieces, count, offset, 0, flags]);
    let reply = match block[word::OPERATION] as u16 {
        PREAD => transfer::preadv2(process, &vector(sys::__NR_preadv2, one)),
        PWRITE => transfer::pwritev2(process, &vector(sys::__NR_pwritev2, one)),
        PREADV => transfer::preadv2(process, &vector(sys::__NR_preadv2, (buffer, bytes))),
        PWRITEV => transfer::pwritev2(process, &vector(sys::__NR_pwritev2, (buffer, bytes))),
        POLL if bytes == 0 && offset == 0 && flags == 0 && buffer & READY != 0 => {
            Ok(Reply::Value((buffer & READY) as i64))
        }
        FSYNC => metadata::fsync(process, &Call::new(sys::__NR_fsync, [fd, 0, 0, 0, 0, 0])),
        FDSYNC => metadata::fdatasync(process, &Call::new(sys::__NR_fdatasync, [fd, 0, 0, 0, 0, 0])),
        _ => Err(Errno::INVAL),
    };
    match reply? {
        Reply::Value(value) if value >= 0 => Ok(value as u64),
        Reply::Value(value) => Err(Errno::from_raw_os_error(-value as i32)),
        // Closed or replaced meanwhile.
        Reply::Pass | Reply::PassWith(_) => Err(Errno::BADF),
    }
}
