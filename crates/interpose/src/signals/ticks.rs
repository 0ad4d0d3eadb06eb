//! A thread that a signal struck between two calls is struck again until it waits, and can be ended there.
//!
//! By a timer of the kernel's, whose signals go to this thread only. How many it gets counts, and not the time: on a busy machine a thread that has not
//! run gets one.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::SigInfo;
use crate::{hosted, raw};

const SYS_TIMER_CREATE: u32 = 222;
const SYS_TIMER_SETTIME: u32 = 223;
const SYS_TIMER_DELETE: u32 = 226;
const CLOCK_MONOTONIC: u64 = 1;
const SIGEV_THREAD_ID: u64 = 4;
const SI_TIMER: i32 = -2;

/// Nanoseconds from one to the next.
const INTERVAL: u64 = 2_000_000;
/// After so many the thread does not wait: it computes.
const MOST: u32 = 50;

/// Those that came. Its address is the mark of a tick.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The timer, as one more than the kernel's number; 0 for none.
static TIMER: AtomicU32 = AtomicU32::new(0);

/// Has this thread struck by `signal` again and again. In a signal handler. Where the kernel has no timer for us it is not.
pub fn begin(signal: u32) {
    let mark = (&raw const COUNT) as u64;
    // struct sigevent: value, signal and kind, thread.
    let event = [mark, u64::from(signal) | SIGEV_THREAD_ID << 32, hosted::tid() as u64, 0, 0, 0, 0, 0];
    let times = [0, INTERVAL, 0, INTERVAL];
    let mut timer = 0_u32;
    COUNT.store(0, Relaxed);
    // SAFETY: the kernel reads and writes our variables.
    unsafe {
        let made = (&raw mut timer) as u64;
        if raw::syscall3(SYS_TIMER_CREATE, CLOCK_MONOTONIC, (&raw const event) as u64, made) != 0 {
            return;
        }
        TIMER.store(timer + 1, Release);
        raw::syscall4(SYS_TIMER_SETTIME, timer.into(), 0, (&raw const times) as u64, 0);
    }
}

/// No more of them.
pub fn end() {
    let timer = TIMER.swap(0, AcqRel);
    if timer != 0 {
        // SAFETY: the kernel's number of a timer of ours.
        unsafe { raw::syscall1(SYS_TIMER_DELETE, u64::from(timer - 1)) };
    }
}

/// Whether this signal is one of them.
pub fn is_one(info: &SigInfo) -> bool {
    info.code == SI_TIMER && info.timer_value() == (&raw const COUNT) as u64
}

/// Counts one. Whether the thread is not to get another.
pub fn was_last() -> bool {
    COUNT.fetch_add(1, AcqRel) >= MOST
}

/// In a forked child, which has none of its parent's timers.
pub fn in_forked_child() {
    if TIMER.load(Acquire) != 0 {
        TIMER.store(0, Release);
    }
}
