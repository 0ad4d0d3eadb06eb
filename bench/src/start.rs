//! The shortest life of a process.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::time::Instant;

const TRUE: &CStr = c"/bin/true";

/// What one start and its end took.
#[derive(Clone, Copy)]
pub struct Time {
    /// Microseconds from spawn to end.
    pub wall: f64,
    /// Microseconds of processor time of the child.
    pub cpu: f64,
}

/// Starts `/bin/true` with just those variables, and waits for its end.
pub fn run(environment: &[&CStr]) -> io::Result<Time> {
    let arguments = [TRUE.as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut variables: Vec<_> = environment.iter().map(|variable| variable.as_ptr().cast_mut()).collect();
    variables.push(std::ptr::null_mut());
    let mut pid = 0;
    let begin = Instant::now();
    // SAFETY: null-terminated arrays of C strings that live until the call returns; no attributes.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            TRUE.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            variables.as_ptr(),
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::uninit());
    // SAFETY: our own child; the call fills both.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    let wall = begin.elapsed().as_secs_f64() * 1e6;
    if waited != pid || status != 0 {
        return Err(io::Error::other("/bin/true failed"));
    }
    // SAFETY: wait4 succeeded.
    let usage = unsafe { usage.assume_init() };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    Ok(Time { wall, cpu: micros(usage.ru_utime) + micros(usage.ru_stime) })
}
