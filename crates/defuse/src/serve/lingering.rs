//! Descriptors of the kernel's whose close waits: a socket with `SO_LINGER` until its data is sent, a terminal until its output is, a file of a network file
//! system until it is written back.
//!
//! Calls that close such a one together with what is ours do so under `Process::descriptors`, so that no other thread gets the number in between. There nobody must wait
//! for a peer, who may be another thread that needs the lock. So what waits at the last close is kept open until the lock is given back, and what waits at
//! each is closed once by another number before it is taken.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;

use crate::process::Process;
use crate::{listing, native, private_fd};

/// asm-generic/socket.h
const SO_LINGER: u64 = 13;
const SOL_SOCKET: u64 = 1;
/// asm-generic/ioctls.h
const TCGETS: u64 = 0x5401;

/// Keeps the last close of some descriptors until it is dropped, which is where to wait for it.
#[derive(Default)]
pub struct Lingering(Vec<RawFd>);

impl Lingering {
    /// Of the numbers from `first` to `last`, which are about to be closed. Where nobody else runs nobody waits for the lock; and a filter of the program's may
    /// end it for a call that it does not make itself.
    pub fn among(process: &Process, first: u32, last: u32) -> Self {
        let mut lingering = Self::default();
        if !process.threaded.load(Ordering::Relaxed) || process.restricted.load(Ordering::Relaxed) {
            return lingering;
        }
        for fd in open_numbers(first, last) {
            // What is ours, or none of the program's, is given up in other ways.
            if process.files.get(fd).is_none() && !private_fd::is_hidden(fd) {
                lingering.keep_if_it_waits(fd);
            }
        }
        lingering
    }

    fn keep_if_it_waits(&mut self, fd: RawFd) {
        let Ok(stat) = native::fstat(fd) else { return };
        match stat.st_mode & sys::S_IFMT {
            sys::S_IFREG => {
                if let Ok(again) = private_fd::duplicate(fd) {
                    private_fd::close(again);
                }
            }
            sys::S_IFSOCK if lingers(fd) => self.0.extend(private_fd::duplicate(fd)),
            sys::S_IFCHR if is_terminal(fd) => self.0.extend(private_fd::duplicate(fd)),
            sys::S_IFBLK => self.0.extend(private_fd::duplicate(fd)),
            _ => {}
        }
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.drain(..).for_each(private_fd::close);
    }
}

/// Those from `first` to `last` that are open. One number alone need not be.
fn open_numbers(first: u32, last: u32) -> Vec<RawFd> {
    if first == last {
        return vec![first as RawFd];
    }
    let flags = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let args = [c"/proc/self/fd".as_ptr() as u64, flags, 0, 0, 0, 0];
    let Ok(directory) = native::new_fd(sys::__NR_open, args) else { return Vec::new() };
    let mut found: Vec<RawFd> = Vec::new();
    let listed = listing::for_each_name(directory, |name| {
        let fd = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        found.extend(fd.filter(|&fd: &RawFd| fd != directory && (first..=last).contains(&(fd as u32))));
        Ok(())
    });
    native::close(directory);
    if listed.is_ok() { found } else { Vec::new() }
}

fn lingers(socket: RawFd) -> bool {
    // `struct linger`: whether, and for how many seconds.
    let (mut linger, mut length) = ([0_i32; 2], size_of::<[i32; 2]>() as u32);
    let (value, size) = (linger.as_mut_ptr() as u64, &raw mut length as u64);
    native::checked(sys::__NR_getsockopt, [socket as u64, SOL_SOCKET, SO_LINGER, value, size, 0]).is_ok()
        && linger.iter().all(|&part| part != 0)
}

fn is_terminal(fd: RawFd) -> bool {
    let mut termios = [0_u8; 64];
    native::checked(sys::__NR_ioctl, [fd as u64, TCGETS, termios.as_mut_ptr() as u64, 0, 0, 0]).is_ok()
}
