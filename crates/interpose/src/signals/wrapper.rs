//! The handler the kernel knows.

use core::arch::global_asm;

use crate::hosted;

global_asm!(
    ".pushsection .text.interpose_signal,\"ax\",@progbits",
    ".p2align 4",
    ".hidden interpose_signal",
    ".globl interpose_signal",
    ".type interpose_signal,@function",
    "interpose_signal:",
    ".cfi_startproc",
    // A lodger has no block of its own.
    "cmp byte ptr [rip + {lodger_expected}], 0",
    "je 4f",
    "rdgsbase r11",
    "sub r11, [rip + {lodger_mark}@GOTPCREL]",
    "je 5f",
    // Another signal may come before this one's context is settled, and its handler make calls: leave word of it (`unsettled`).
    "4:",
    "mov r11, [rip + interpose_tls@gottpoff]",
    "mov rcx, fs:[r11 + {unsettled}]",
    "mov [rdx + {link}], rcx",
    "mov fs:[r11 + {unsettled}], rdx",
    ".hidden interpose_signal_noted",
    ".globl interpose_signal_noted",
    "interpose_signal_noted:",
    "5:",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rdx",
    ".cfi_adjust_cfa_offset 8",
    "call {on_signal}",
    "mov r11, rax",
    "mov rdx, [rsp]",
    "mov rsi, [rsp + 8]",
    "mov rdi, [rsp + 16]",
    // As the kernel would: no vector arguments.
    "xor eax, eax",
    "test r11, r11",
    "je 2f",
    "call r11",
    "mov rdi, [rsp]",
    "call {leave_handler}",
    "2:",
    "add rsp, 24",
    ".cfi_adjust_cfa_offset -24",
    "ret",
    ".cfi_endproc",
    ".size interpose_signal, . - interpose_signal",
    // The bytes that unwinders know; in our text, from which dispatch lets calls through.
    ".p2align 4",
    "nop",
    ".hidden interpose_restorer",
    ".globl interpose_restorer",
    ".type interpose_restorer,@function",
    "interpose_restorer:",
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00",
    ".byte 0x0f, 0x05",
    "ud2",
    ".size interpose_restorer, . - interpose_restorer",
    ".p2align 4",
    "nop",
    ".hidden interpose_default_restorer",
    ".globl interpose_default_restorer",
    ".type interpose_default_restorer,@function",
    "interpose_default_restorer:",
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00",
    ".byte 0x0f, 0x05",
    "ud2",
    ".size interpose_default_restorer, . - interpose_default_restorer",
    ".popsection",
    on_signal = sym super::deliver::on_signal,
    leave_handler = sym super::parking::leave_handler,
    unsettled = const crate::entry::tls::UNSETTLED,
    link = const core::mem::offset_of!(super::Context, link),
    lodger_expected = sym crate::lodger::EXPECTED,
    lodger_mark = sym crate::lodger::MARK,
);

unsafe extern "C" {
    fn interpose_signal();
    fn interpose_signal_noted();
    fn interpose_restorer();
    fn interpose_default_restorer();
}

/// Where the kernel delivers.
pub fn address() -> u64 {
    if hosted::active() { hosted::signal::address() } else { interpose_signal as *const () as u64 }
}

/// Whether the wrapper was interrupted before it had put its context in the list of the unsettled; the context is in `rdx` then.
pub fn is_at_start(pc: u64) -> bool {
    (interpose_signal as *const () as u64..interpose_signal_noted as *const () as u64).contains(&pc)
        || hosted::signal::is_at_start(pc)
}

/// Where our own handlers return to.
pub fn restorer() -> u64 {
    interpose_restorer as *const () as u64
}

/// The same where they are called in place of the default action, which is how they know.
pub fn default_restorer() -> u64 {
    interpose_default_restorer as *const () as u64
}
