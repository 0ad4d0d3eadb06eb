//! Access to memory that the program named, which may not be there.
//!
//! In the good case a copy is a copy: no system call. A fault is caught by our SIGSEGV or SIGBUS handler, which knows
//! the instructions here and continues at the error path, as the kernel does with its own accesses. Works whatever the
//! program has blocked; needs [`crate::install`] (before it, a fault is fatal).

use core::arch::global_asm;
use core::fmt;
use core::mem::{MaybeUninit, size_of};

use crate::entry::tls;
use crate::raw;

/// The program's pointer is bad: what the kernel reports as EFAULT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Efault;

impl fmt::Display for Efault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot access memory the program named")
    }
}

impl core::error::Error for Efault {}

/// Why [`read_cstr`] gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CstrError {
    /// A byte before the terminator cannot be read.
    Efault,
    /// No terminator within the buffer.
    TooLong,
}

// The C ABI, no stack, so that a fault at any instruction can be continued at the end.
global_asm!(
    ".pushsection .text.interpose_usercopy,\"ax\",@progbits",
    ".p2align 4",
    ".hidden interpose_usercopy_start",
    ".globl interpose_usercopy_start",
    "interpose_usercopy_start:",
    // rdi = to, rsi = from, rdx = length; 0 or 1 in rax.
    ".hidden interpose_copy",
    ".globl interpose_copy",
    "interpose_copy:",
    "cmp rdx, 128",
    "jae 4f",
    "2:",
    "cmp rdx, 8",
    "jb 3f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rdx, 8",
    "jmp 2b",
    "3:",
    "test rdx, rdx",
    "je 5f",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jmp 3b",
    "4:",
    "mov rcx, rdx",
    "rep movsb",
    "5:",
    "xor eax, eax",
    "ret",
    // rdi = first byte, rsi = last byte: one byte of each page.
    ".hidden interpose_probe_read",
    ".globl interpose_probe_read",
    "interpose_probe_read:",
    "mov al, [rdi]",
    "or rdi, 0xfff",
    "inc rdi",
    "je 6f",
    "cmp rdi, rsi",
    "jbe interpose_probe_read",
    "6:",
    "xor eax, eax",
    "ret",
    // Writes without changing anything, also when another thread writes at the same time.
    ".hidden interpose_probe_write",
    ".globl interpose_probe_write",
    "interpose_probe_write:",
    "lock or byte ptr [rdi], 0",
    "or rdi, 0xfff",
    "inc rdi",
    "je 7f",
    "cmp rdi, rsi",
    "jbe interpose_probe_write",
    "7:",
    "xor eax, eax",
    "ret",
    // rdi = to, rsi = from, rdx = length: stops after a zero byte. Length with it in rax, 0 when there is none, -1.
    ".hidden interpose_copy_string",
    ".globl interpose_copy_string",
    "interpose_copy_string:",
    "xor ecx, ecx",
    "mov r8, 0x0101010101010101",
    "mov r9, 0x8080808080808080",
    // Eight bytes at once where they fit in the buffer and do not reach into another page.
    "8:",
    "lea rax, [rcx + 8]",
    "cmp rax, rdx",
    "ja 10f",
    "lea rax, [rsi + rcx]",
    "and eax, 0xfff",
    "cmp eax, 0xff8",
    "ja 10f",
    "mov rax, [rsi + rcx]",
    "mov [rdi + rcx], rax",
    "mov r10, rax",
    "sub rax, r8",
    "not r10",
    "and rax, r10",
    "and rax, r9",
    "jne 9f",
    "add rcx, 8",
    "jmp 8b",
    // The lowest bit set is that of the first zero byte.
    "9:",
    "bsf rax, rax",
    "shr eax, 3",
    "lea rax, [rax + rcx + 1]",
    "ret",
    "10:",
    "cmp rcx, rdx",
    "jae 11f",
    "mov al, [rsi + rcx]",
    "mov [rdi + rcx], al",
    "inc rcx",
    "test al, al",
    "jne 8b",
    "mov rax, rcx",
    "ret",
    "11:",
    "xor eax, eax",
    "ret",
    ".hidden interpose_usercopy_end",
    ".globl interpose_usercopy_end",
    "interpose_usercopy_end:",
    ".hidden interpose_usercopy_failed",
    ".globl interpose_usercopy_failed",
    "interpose_usercopy_failed:",
    "mov rax, -1",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn interpose_usercopy_start();
    fn interpose_usercopy_end();
    fn interpose_usercopy_failed();
    fn interpose_copy(to: *mut u8, from: *const u8, length: usize) -> i64;
    fn interpose_probe_read(first: u64, last: u64) -> i64;
    fn interpose_probe_write(first: u64, last: u64) -> i64;
    fn interpose_copy_string(to: *mut u8, from: *const u8, length: usize) -> i64;
    // The entry's own look at masks.
    fn interpose_peek_rdi();
    fn interpose_peek_rsi();
    fn interpose_peek_r10();
    fn interpose_peek_r8();
    fn interpose_peek_r9();
    fn interpose_peek_r9_mask();
    fn interpose_peek_failed();
    // Its look at paths and at what came out.
    fn interpose_path_start();
    fn interpose_path_end();
    fn interpose_path_failed();
    fn interpose_quick_peek_start();
    fn interpose_quick_peek_end();
    fn interpose_quick_done();
    // Its way of giving the program what it found.
    fn interpose_quick_give();
    fn interpose_quick_give_failed();
}

const SYS_MADVISE: u32 = 28;
const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;
const PAGE: u64 = 4096;

/// While a virtual signal is really blocked ([`crate::signals::parking`]) no fault may happen: the pages are made present
/// beforehand. Another thread that unmaps them meanwhile ends the process, as it might without us.
fn ready(address: u64, length: usize, advice: u64) -> Result<(), Efault> {
    // SAFETY: the block is this thread's.
    if unsafe { (*tls::current()).parked } == 0 || length == 0 {
        return Ok(());
    }
    let start = address & !(PAGE - 1);
    let end = address.checked_add(length as u64).ok_or(Efault)?.next_multiple_of(PAGE);
    // SAFETY: changes no content.
    ok(unsafe { raw::syscall3(SYS_MADVISE, start, end - start, advice) })
}

/// How much of `length` bytes at `address` is there, from the first on; all if a fault does no harm.
fn present(address: u64, length: usize) -> Option<usize> {
    // SAFETY: the block is this thread's.
    if unsafe { (*tls::current()).parked } == 0 {
        return Some(length);
    }
    let up_to =
        |pages: u64| ((address / PAGE + pages) * PAGE).saturating_sub(address).min(length as u64) as usize;
    (1..=length as u64 / PAGE + 2)
        .map(up_to)
        .take_while(|&length| ready(address, length, MADV_POPULATE_READ).is_ok())
        .last()
}

/// Copies `from.len()` bytes to `to` in the program's memory.
///
/// # Safety
/// `to` is where the program asked for it, or at least not memory that Rust code believes its own. On error part of it
/// may have been written.
pub unsafe fn copy_to(to: u64, from: &[u8]) -> Result<(), Efault> {
    ready(to, from.len(), MADV_POPULATE_WRITE)?;
    // SAFETY: faults are caught; the caller vouches for the place.
    ok(unsafe { interpose_copy(to as *mut u8, from.as_ptr(), from.len()) })
}

/// Fills `to` from `from` in the program's memory. On error part of it may have been filled.
pub fn copy_from(to: &mut [u8], from: u64) -> Result<(), Efault> {
    ready(from, to.len(), MADV_POPULATE_READ)?;
    // SAFETY: faults are caught; the destination is a slice.
    ok(unsafe { interpose_copy(to.as_mut_ptr(), from as *const u8, to.len()) })
}

/// Types that are any bytes.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers.
unsafe impl Plain for i64 {}
// SAFETY: an array of such.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: four words.
unsafe impl Plain for crate::signals::actions::Action {}
// SAFETY: three words.
unsafe impl Plain for crate::signals::StackDescription {}

/// Reads a value from the program's memory, aligned or not.
pub fn read<T: Plain>(from: u64) -> Result<T, Efault> {
    ready(from, size_of::<T>(), MADV_POPULATE_READ)?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: faults are caught; all bytes are written when it succeeds, and any bytes are a value.
    unsafe {
        ok(interpose_copy(value.as_mut_ptr().cast(), from as *const u8, size_of::<T>()))?;
        Ok(value.assume_init())
    }
}

pub(crate) fn write<T: Plain>(to: u64, value: &T) -> Result<(), Efault> {
    ready(to, size_of::<T>(), MADV_POPULATE_WRITE)?;
    // SAFETY: faults are caught; callers write where the program asked for it.
    ok(unsafe { interpose_copy(to as *mut u8, (&raw const *value).cast(), size_of::<T>()) })
}

/// Whether `length` bytes at `address` can be read now. Another thread may unmap them at any time.
pub fn probe_read(address: u64, length: usize) -> Result<(), Efault> {
    let Some(last) = last(address, length)? else { return Ok(()) };
    ready(address, length, MADV_POPULATE_READ)?;
    // SAFETY: only reads; faults are caught.
    ok(unsafe { interpose_probe_read(address, last) })
}

/// Whether `length` bytes at `address` can be written now. Pages are made present, their content stays.
pub fn probe_write(address: u64, length: usize) -> Result<(), Efault> {
    let Some(last) = last(address, length)? else { return Ok(()) };
    ready(address, length, MADV_POPULATE_WRITE)?;
    // SAFETY: changes nothing, atomically; faults are caught.
    ok(unsafe { interpose_probe_write(address, last) })
}

fn last(address: u64, length: usize) -> Result<Option<u64>, Efault> {
    match length {
        0 => Ok(None),
        _ => address.checked_add(length as u64 - 1).map(Some).ok_or(Efault),
    }
}

/// Copies a zero-terminated string into `buffer`; the result is without the terminator.
pub fn read_cstr(from: u64, buffer: &mut [MaybeUninit<u8>]) -> Result<&[u8], CstrError> {
    let to = buffer.as_mut_ptr().cast::<u8>();
    let whole = buffer.len();
    let length = present(from, whole).ok_or(CstrError::Efault)?;
    // SAFETY: faults are caught; at most the buffer is written.
    match unsafe { interpose_copy_string(to, from as *const u8, length) } {
        -1 => Err(CstrError::Efault),
        0 if length < whole => Err(CstrError::Efault),
        0 => Err(CstrError::TooLong),
        // SAFETY: so many bytes of the buffer were written.
        length => Ok(unsafe { core::slice::from_raw_parts(to, length as usize - 1) }),
    }
}

fn ok(result: i64) -> Result<(), Efault> {
    if result == 0 { Ok(()) } else { Err(Efault) }
}

type Label = unsafe extern "C" fn();

/// Where to continue after a fault at `pc`, if it is one of ours.
pub(crate) fn recovery(pc: u64) -> Option<u64> {
    let at = |label: unsafe extern "C" fn()| label as usize as u64;
    let ranges: [[Label; 3]; 3] = [
        [interpose_usercopy_start, interpose_usercopy_end, interpose_usercopy_failed],
        [interpose_path_start, interpose_path_end, interpose_path_failed],
        [interpose_quick_peek_start, interpose_quick_peek_end, interpose_quick_done],
    ];
    for [start, end, continued] in ranges {
        if (at(start)..at(end)).contains(&pc) {
            return Some(at(continued));
        }
    }
    if at(interpose_quick_give) == pc {
        return Some(at(interpose_quick_give_failed));
    }
    let peeks = [
        interpose_peek_rdi,
        interpose_peek_rsi,
        interpose_peek_r10,
        interpose_peek_r8,
        interpose_peek_r9,
        interpose_peek_r9_mask,
    ];
    peeks.iter().any(|peek| at(*peek) == pc).then(|| at(interpose_peek_failed))
}
