//! System calls made from our own text: never rewritten, never offered to a handler, `errno` untouched.

use core::arch::asm;

/// Makes system call `nr`; the result is a value or `-errno`.
///
/// # Safety
/// What the kernel does with these arguments must be sound for the caller.
#[inline]
pub unsafe fn syscall6(nr: u32, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; the caller vouches for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") i64::from(nr) => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

macro_rules! shorter {
    ($($name:ident($($arg:ident),*);)*) => {$(
        /// As [`syscall6`], the arguments not given being 0.
        ///
        /// # Safety
        /// As for [`syscall6`].
        #[inline]
        pub unsafe fn $name(nr: u32 $(, $arg: u64)*) -> i64 {
            let given = [$($arg),*];
            let mut args = [0; 6];
            let mut at = 0;
            while at < given.len() {
                args[at] = given[at];
                at += 1;
            }
            // SAFETY: the caller's promise is the same.
            unsafe { syscall6(nr, args) }
        }
    )*};
}

shorter! {
    syscall1(a);
    syscall2(a, b);
    syscall3(a, b, c);
    syscall4(a, b, c, d);
    syscall5(a, b, c, d, e);
}
