//! System calls made from our own text: never rewritten, never offered to a handler, `errno` untouched.

use core::arch::{asm, global_asm};

use crate::entry::tls;

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

global_asm!(
    ".pushsection .text.interpose_interruptible,\"ax\",@progbits",
    ".p2align 4",
    // rdi = number, rsi = six arguments.
    ".hidden interpose_interruptible",
    ".globl interpose_interruptible",
    ".type interpose_interruptible,@function",
    "interpose_interruptible:",
    "mov rax, rdi",
    "mov rcx, rsi",
    "mov rdi, [rcx]",
    "mov rsi, [rcx + 8]",
    "mov rdx, [rcx + 16]",
    "mov r10, [rcx + 24]",
    "mov r8, [rcx + 32]",
    "mov r9, [rcx + 40]",
    ".hidden interpose_interruptible_start",
    ".globl interpose_interruptible_start",
    "interpose_interruptible_start:",
    "mov r11, [rip + interpose_tls@gottpoff]",
    "cmp byte ptr fs:[r11 + {pending}], {signal}",
    "je 2f",
    "syscall",
    ".hidden interpose_interruptible_after",
    ".globl interpose_interruptible_after",
    "interpose_interruptible_after:",
    "ret",
    "2:",
    "mov rax, {restart}",
    "ret",
    ".size interpose_interruptible, . - interpose_interruptible",
    ".popsection",
    pending = const tls::PENDING,
    signal = const tls::PENDING_SIGNAL,
    restart = const crate::RESTART,
);

unsafe extern "C" {
    fn interpose_interruptible(nr: u64, args: *const [u64; 6]) -> i64;
    fn interpose_interruptible_start();
    fn interpose_interruptible_after();
}

/// As [`syscall6`], for calls that may wait: a signal of the program that is held back ends it. The result is then
/// `-EINTR`, or [`crate::RESTART`] where the kernel would have begun the call anew or had not begun it. A
/// handler returns either as it is. Does the same whether the signal comes before or during the call.
///
/// # Safety
/// As for [`syscall6`].
pub unsafe fn interruptible(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the caller's promise is the same.
    unsafe { interpose_interruptible(u64::from(nr), &raw const args) }
}

/// Where to continue, with [`crate::RESTART`] as the result, when a signal interrupts at `pc`.
pub(crate) fn interrupted(pc: u64) -> Option<u64> {
    let (start, after) = (
        interpose_interruptible_start as *const () as u64,
        interpose_interruptible_after as *const () as u64,
    );
    (start..after).contains(&pc).then_some(after)
}
