//! Which threads of the guest's have ended: it has been told so, and our thread, on which that one ran, has the C library's and the plugins' part of its end still before
//! it.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

/// By the remainder of their numbers, 0 for none. If two that end at once meet, the first is taken to run on until it is gone.
static ENDED: [AtomicU32; 64] = [const { AtomicU32::new(0) }; 64];

fn place(number: u32) -> &'static AtomicU32 {
    &ENDED[number as usize % ENDED.len()]
}

/// The thread `number` begins.
pub fn begins(number: u32) {
    let _ = place(number).compare_exchange(number, 0, SeqCst, SeqCst);
}

/// The thread `number` is about to tell the guest that it has ended.
pub fn ends(number: u32) {
    place(number).store(number, SeqCst);
}

/// Whether the thread `number` of this process runs no instruction of the guest's any more. Any thread may ask.
pub fn guest_thread_has_ended(number: u32) -> bool {
    number != 0 && place(number).load(SeqCst) == number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_given_again_is_another_threads() {
        assert!(!guest_thread_has_ended(0) && !guest_thread_has_ended(1000));
        ends(1000);
        assert!(guest_thread_has_ended(1000) && !guest_thread_has_ended(1064));
        begins(1064);
        assert!(guest_thread_has_ended(1000));
        begins(1000);
        assert!(!guest_thread_has_ended(1000));
    }
}
