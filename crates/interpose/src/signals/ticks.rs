//! A thread that a signal struck between two calls is struck again until it waits, and can be ended there.
//!
//! By a timer of the kernel's, whose signals go to this thread only. How many it gets counts, and not the time: on a busy machine a thread that has not
//! run gets one. While a call is served they are few, and fewer from one to the next: a plugin that waits, and begins anew whenever a signal ends that, must
//! get done.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

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
/// The same inside: at first, and at most.
const INSIDE_FIRST: u64 = 100_000_000;
const INSIDE_MOST: u64 = 800_000_000;
/// After so many the thread does not wait: it computes.
const MOST: u32 = 50;

/// Those that came. Its address is the mark of a tick.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The timer, as one more than the kernel's number; 0 for none.
static TIMER: AtomicU32 = AtomicU32::new(0);
/// Nanoseconds from one to the next, now.
static PACE: AtomicU64 = AtomicU64::new(0);
/// There are to be no more.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Has this thread, which is `inside` or not, struck by `signal` again and again. In a signal handler. Where the kernel has no timer for us it is not.
pub fn begin(signal: u32, inside: bool) {
    let mark = (&raw const COUNT) as u64;
    // struct sigevent: value, signal and kind, thread.
    let event = [mark, u64::from(signal) | SIGEV_THREAD_ID << 32, hosted::tid() as u64, 0, 0, 0, 0, 0];
    let mut timer = 0_u32;
    COUNT.store(0, Relaxed);
    // SAFETY: the kernel reads and writes our variables.
    unsafe {
        let made = (&raw mut timer) as u64;
        if raw::syscall3(SYS_TIMER_CREATE, CLOCK_MONOTONIC, (&raw const event) as u64, made) != 0 {
            return;
        }
    }
    set_pace(timer, if inside { INSIDE_FIRST } else { INTERVAL });
    TIMER.store(timer + 1, SeqCst);
    if ENDED.load(SeqCst) {
        // Who set that may have found no timer yet.
        delete();
    }
}

fn set_pace(timer: u32, pace: u64) {
    PACE.store(pace, Relaxed);
    let times = [0, pace, 0, pace];
    // SAFETY: the kernel reads our variable; without that timer it does nothing.
    unsafe { raw::syscall4(SYS_TIMER_SETTIME, timer.into(), 0, (&raw const times) as u64, 0) };
}

/// One of them came, and found the thread `inside` or not: when the next ones are to come.
pub fn came(inside: bool) {
    let pace = PACE.load(Relaxed);
    let next = if inside { (pace * 2).clamp(INSIDE_FIRST, INSIDE_MOST) } else { INTERVAL };
    let timer = TIMER.load(Acquire);
    if timer != 0 && next != pace {
        set_pace(timer - 1, next);
    }
}

/// No more of them, now or later.
pub fn end() {
    ENDED.store(true, SeqCst);
    delete();
}

fn delete() {
    let timer = TIMER.swap(0, SeqCst);
    if timer != 0 {
        // SAFETY: the kernel's number of a timer of ours.
        unsafe { raw::syscall1(SYS_TIMER_DELETE, u64::from(timer - 1)) };
    }
}

/// Whether this signal is one of them.
pub fn is_one(info: &SigInfo) -> bool {
    info.code == SI_TIMER && info.timer_value() == (&raw const COUNT) as u64
}

/// Counts one. Whether the thread is not to get another, and is still to be struck at all.
pub fn was_last() -> bool {
    COUNT.fetch_add(1, AcqRel) >= MOST && !ENDED.load(SeqCst)
}

/// In a forked child, which has none of its parent's timers.
pub fn in_forked_child() {
    if TIMER.load(Acquire) != 0 {
        TIMER.store(0, Relaxed);
    }
    if ENDED.load(Acquire) {
        ENDED.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_come_once_they_have_been_ended() {
        const SIGURG: u32 = 23;
        end();
        begin(SIGURG, false);
        assert_eq!(TIMER.load(Relaxed), 0);
        COUNT.store(MOST, Relaxed);
        assert!(!was_last());
        in_forked_child();
        begin(SIGURG, false);
        assert_ne!(TIMER.load(Relaxed), 0);
        COUNT.store(MOST, Relaxed);
        assert!(was_last());
        end();
    }
}
