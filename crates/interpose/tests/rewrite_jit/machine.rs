//! Runs generated code from one full set of registers to another.

use std::arch::global_asm;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use interpose::rewrite::{AddressMap, NearMemory, Patched, Plan, Threads, apply};

global_asm!(
    // run(code, state): loads every register from the state, calls the code, stores every register.
    ".globl rewrite_jit_run",
    "rewrite_jit_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rsi",
    "sub rsp, 72",
    "mov [rsp + 64], rdi",
    "mov r11, rsi",
    "lea rsi, [r11 + 144]",
    "mov rdi, rsp",
    "mov ecx, 8",
    "rep movsq",
    // What the code finds in its red zone.
    "lea rdi, [rsp - 136]",
    "mov eax, 0x5ed",
    "mov ecx, 16",
    "rep stosq",
    "mov rax, [r11 + 208]",
    "pushfq",
    "or [rsp], rax",
    "popfq",
    "movups xmm0, [r11 + 128]",
    "mov rax, [r11]",
    "mov rcx, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov rbx, [r11 + 24]",
    "mov rbp, [r11 + 40]",
    "mov rsi, [r11 + 48]",
    "mov rdi, [r11 + 56]",
    "mov r8, [r11 + 64]",
    "mov r9, [r11 + 72]",
    "mov r10, [r11 + 80]",
    "mov r12, [r11 + 96]",
    "mov r13, [r11 + 104]",
    "mov r14, [r11 + 112]",
    "mov r15, [r11 + 120]",
    "mov r11, [r11 + 88]",
    "call [rsp + 64]",
    "mov r11, [rsp + 72]",
    "mov [r11], rax",
    "mov [r11 + 16], rdx",
    "mov [r11 + 24], rbx",
    "mov [r11 + 40], rbp",
    "mov [r11 + 48], rsi",
    "mov [r11 + 56], rdi",
    "mov [r11 + 64], r8",
    "mov [r11 + 72], r9",
    "mov [r11 + 80], r10",
    "mov [r11 + 96], r12",
    "mov [r11 + 104], r13",
    "mov [r11 + 112], r14",
    "mov [r11 + 120], r15",
    "movups [r11 + 128], xmm0",
    "pushfq",
    "and dword ptr [rsp], 0xfffffeff",
    "popfq",
    "lea rdi, [r11 + 144]",
    "mov rsi, rsp",
    "mov ecx, 8",
    "rep movsq",
    "add rsp, 72",
    "pop rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // The entry: counts, then has the call made by the stub, or makes it and says it is done.
    ".globl rewrite_jit_entry",
    "rewrite_jit_entry:",
    "lock inc qword ptr [rip + {arrivals}]",
    "cmp qword ptr [rip + {serve}], 0",
    "jne 2f",
    "jmp rcx",
    "2:",
    "mov [rip + {resume}], rcx",
    "syscall",
    "mov rcx, [rip + {resume}]",
    "jmp [rcx - 8]",
    arrivals = sym ARRIVALS,
    serve = sym SERVE,
    resume = sym RESUME,
);

unsafe extern "C" {
    fn rewrite_jit_run(code: *const u8, state: *mut State);
    pub fn rewrite_jit_entry();
}

pub static ARRIVALS: AtomicU64 = AtomicU64::new(0);
pub static SERVE: AtomicU64 = AtomicU64::new(0);
/// One test at a time: the entry counts in one place.
pub static ALONE: Mutex<()> = Mutex::new(());
static RESUME: AtomicU64 = AtomicU64::new(0);

pub const TRAP_FLAG: u64 = 0x100;
const RCX: usize = 1;
const R11: usize = 11;

#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// rax rcx rdx rbx (rsp) rbp rsi rdi r8 to r15
    pub registers: [u64; 16],
    pub vector: [u64; 2],
    /// At 8(%rsp) of the code.
    pub scratch: [u64; 8],
    /// Flags to set.
    pub flags: u64,
}

impl State {
    pub fn new() -> Self {
        let mut registers = core::array::from_fn(|n| 0x0101_0101_0101_0101 * (n as u64 + 0x11));
        registers[0] = 39;
        // An FD that is not open, for read; and a number that some code copies to rax.
        registers[7] = 0x7fff_ffff;
        registers[14] = 39;
        Self { registers, vector: [5, 6], scratch: core::array::from_fn(|n| 0xabc0 + n as u64), flags: 0 }
    }

    /// Runs `code` from this state.
    pub fn after(mut self, code: &Text) -> Self {
        // SAFETY: generated code, which ends in ret and writes only registers, its red zone and scratch.
        unsafe { rewrite_jit_run(code.start, &raw mut self) };
        // A system call leaves its own traces there.
        self.registers[RCX] = 0;
        self.registers[R11] = 0;
        self.flags = 0;
        self
    }
}

/// A page of code of our own.
pub struct Text {
    pub start: *mut u8,
}

pub const PAGE: usize = 4096;

impl Text {
    pub fn new(code: &[u8]) -> Self {
        // SAFETY: a new mapping, filled before it is executed.
        unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            // Behind the code something to read, different everywhere.
            let content: Vec<u8> =
                (0..PAGE).map(|at| code.get(at).copied().unwrap_or((at * 7) as u8)).collect();
            start.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), PAGE);
            assert_eq!(libc::mprotect(start, PAGE, libc::PROT_READ | libc::PROT_EXEC), 0);
            Self { start: start.cast() }
        }
    }

    pub fn rewrite(&self, plan: &Plan, threads: Threads) -> Patched {
        let start = self.start as u64;
        let mut memory = NearMemory::new(&AddressMap::read().unwrap());
        let entry = rewrite_jit_entry as *const () as u64;
        // SAFETY: our own mapping, planned for, not in use.
        unsafe { apply(plan, start..start + PAGE as u64, entry, &mut memory, threads) }.unwrap()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, no longer executed.
        unsafe { libc::munmap(self.start.cast(), PAGE) };
    }
}
