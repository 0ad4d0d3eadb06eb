//! Waiting for another thread or process that is about to be done: spin, yield, sleep.

use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep, sched_yield};

const SPINS: u32 = 100;
const YIELDS: u32 = 200;
const SLEEP_NS: i64 = 200_000;

/// Grows slower with each call of [`Backoff::pause`]. No futex: the word waited for may be in memory of
/// processes that die.
#[derive(Default)]
pub(crate) struct Backoff {
    pauses: u32,
}

impl Backoff {
    /// Waits a little. True about every 3 ms: time to ask whether the one waited for still lives.
    pub(crate) fn pause(&mut self) -> bool {
        self.pauses += 1;
        if self.pauses < SPINS {
            std::hint::spin_loop();
        } else if self.pauses < YIELDS {
            sched_yield();
        } else {
            let pause = Timespec { tv_sec: 0, tv_nsec: SLEEP_NS };
            // An early return is only an early look.
            let _: NanosleepRelativeResult = nanosleep(&pause);
            return self.pauses.is_multiple_of(16);
        }
        false
    }
}
