//! Threads by their numbers, in any context: no memory of theirs is looked at.

use std::arch::asm;

use rustix::io::Errno;

/// The calling thread's number, gettid(2).
pub(crate) fn this_thread() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Whether this process has a thread of that number, one that is ending included.
pub(crate) fn is_of_this_process(thread: u32) -> bool {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    let mut result = linux_raw_sys::general::__NR_tgkill as isize;
    // SAFETY: tgkill with signal 0 looks whether there is the thread, and does nothing to it; the kernel clobbers rcx and r11, and
    // nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") i64::from(process),
            in("rsi") u64::from(thread),
            in("rdx") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result != -(Errno::SRCH.raw_os_error() as isize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_this_process_are_told_from_others() {
        assert!(is_of_this_process(this_thread()));
        let parent = rustix::process::getppid().expect("a parent").as_raw_nonzero().get();
        assert!(!is_of_this_process(parent as u32));
        let ended = std::thread::spawn(|| {
            assert!(is_of_this_process(this_thread()));
            this_thread()
        });
        let ended = ended.join().expect("no panic");
        // Its join comes a moment before its end.
        while is_of_this_process(ended) {
            std::thread::yield_now();
        }
    }
}
