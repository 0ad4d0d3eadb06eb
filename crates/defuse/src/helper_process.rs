//! A process for the constructor's own purposes, of which the program learns nothing: its end raises no SIGCHLD and no `wait` finds it.

use std::ffi::CStr;

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::native;

/// wait4(2): also children whose end raises no signal.
const WALL: u64 = 0x4000_0000;

/// Starts `program` with the words `arguments` and the strings that `environment` points to, a null at its end, and waits for it. Returns its exit status, or 128 and
/// more when a signal ended it.
///
/// # Errors
///
/// When there can be no process.
///
/// # Safety
/// The pointers in `environment` lead to C strings. There is one thread.
pub unsafe fn run(program: &CStr, arguments: &[&CStr], environment: &[u64]) -> Result<i32, Errno> {
    let mut words: Vec<u64> = arguments.iter().map(|word| word.as_ptr() as u64).collect();
    words.push(0);
    debug_assert_eq!(environment.last(), Some(&0));
    // A fork whose exit signal is 0. The child has a copy of this thread and its stack, and does nothing but execve.
    let child = native::checked(sys::__NR_clone, [0; 6])?;
    if child == 0 {
        let args = [program.as_ptr() as u64, words.as_ptr() as u64, environment.as_ptr() as u64, 0, 0, 0];
        native::raw_call(sys::__NR_execve, args);
        native::raw_call(sys::__NR_exit_group, [126, 0, 0, 0, 0, 0]);
    }
    let mut status = 0_i32;
    let mut wait = || native::checked(sys::__NR_wait4, [child, (&raw mut status) as u64, WALL, 0, 0, 0]);
    while let Err(errno) = wait() {
        if errno != Errno::INTR {
            return Err(errno);
        }
    }
    Ok(match (status & 0x7f, status >> 8 & 0xff) {
        (0, code) => code,
        (signal, _) => 128 + signal,
    })
}
