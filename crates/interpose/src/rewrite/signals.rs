//! Blocks all signals of the calling thread for a while.

/// While it lives, the calling thread receives no signal that can be blocked (libc's internal ones included).
pub struct SignalsBlocked {
    before: u64,
}

impl SignalsBlocked {
    pub fn new() -> Self {
        const SIG_BLOCK: usize = 0;
        let all = u64::MAX;
        let mut before = 0;
        sigprocmask(SIG_BLOCK, all, &mut before);
        Self { before }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        const SIG_SETMASK: usize = 2;
        let mut ignored = 0;
        sigprocmask(SIG_SETMASK, self.before, &mut ignored);
    }
}

/// `rt_sigprocmask(2)`, past libc (which keeps its own signals out of it). Cannot fail with valid pointers.
fn sigprocmask(how: usize, set: u64, old: &mut u64) {
    const SYS_RT_SIGPROCMASK: usize = 14;
    // SAFETY: both pointers are valid for the eight bytes that r10 says.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") SYS_RT_SIGPROCMASK => _,
            in("rdi") how,
            in("rsi") &raw const set,
            in("rdx") &raw mut *old,
            in("r10") size_of::<u64>(),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
}
