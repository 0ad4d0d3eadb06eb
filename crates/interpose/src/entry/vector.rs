//! Which vector state there is.
//!
//! Measured on an AMD EPYC with AVX-512: `xsavec` and `xrstor` take 155 ns whatever is in use, `fxsave` and `fxrstor`
//! 74; storing and loading 16 ymm registers takes 4, 32 zmm registers 17, half of them and 16 xmm 13, and `xgetbv`, which says which, 13. So the
//! entry moves registers itself, those that are in use. `fxsave` alone takes 23 and is made only when the x87 unit is in use; it is put back
//! only when there was a value in it.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// `fxsave` in signal frames.
pub const FXSAVE: u32 = 0;
/// `xsave`.
pub const XSAVE: u32 = 1;

/// One of the two.
pub static KIND: AtomicU32 = AtomicU32::new(FXSAVE);
/// Components kept across a served call, as bits of XCR0.
pub static ENABLED: AtomicU32 = AtomicU32::new(0b11);
/// Whether `xgetbv` with ecx = 1 tells what is in use.
pub static TELLS: AtomicU8 = AtomicU8::new(0);
/// Components put into a signal frame.
pub static SIGNAL_MASK: AtomicU32 = AtomicU32::new(0);
/// See [`signal_size`]; 0 before the first signal.
static SIGNAL_SIZE: AtomicU32 = AtomicU32::new(0);

/// For `xrstor`: everything in its initial state. The legacy area and the header; no component is present.
#[repr(C, align(64))]
pub struct Initial([u8; 576]);
pub static INITIAL: Initial = Initial([0; 576]);

// x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM. AMX tiles are left alone: neither we nor a handler touch them.
const KEPT: u32 = 0b1110_0111;
const AVX512: u32 = 0b1110_0000;
// Protection keys: the kernel resets what a signal frame does not hold.
const PKRU: u32 = 1 << 9;
const OSXSAVE: u32 = 1 << 27;
const XGETBV1: u32 = 1 << 2;
const AVX512BW: u32 = 1 << 30;

/// Called once, before the first call is served. In a virtual machine each `cpuid` is an exit that takes microseconds, so what ld.so
/// has asked is not asked again.
pub fn detect() {
    if leaf(LEAF_1, 1, 0).ecx & OSXSAVE == 0 {
        return;
    }
    // SAFETY: the operating system enabled XSAVE, so xgetbv exists.
    let enabled = unsafe { _xgetbv(0) } as u32;
    let extended = leaf(LEAF_D_1, 0xd, 1).eax;
    let mut kept = enabled & KEPT;
    if enabled & AVX512 != 0 && leaf(LEAF_7, 7, 0).ebx & AVX512BW == 0 {
        // Mask registers of 16 bits: no such CPU is made any more.
        kept &= !AVX512;
    }
    ENABLED.store(kept, Relaxed);
    TELLS.store(u8::from(extended & XGETBV1 != 0), Relaxed);
    let signal = enabled & (KEPT | PKRU);
    SIGNAL_MASK.store(signal, Relaxed);
    KIND.store(XSAVE, Relaxed);
}

/// Numbers of what `__x86_get_cpuid_feature_leaf` keeps, from `sys/platform/x86.h`.
const LEAF_1: u32 = 0;
const LEAF_7: u32 = 1;
const LEAF_D_1: u32 = 3;

/// What `cpuid` says with these in eax and ecx: as glibc from 2.33 on has kept it under the number `kept`, else by asking.
fn leaf(kept: u32, eax: u32, ecx: u32) -> CpuidResult {
    let address: usize;
    // SAFETY: loads an address; 0 where the C library has no such function.
    unsafe {
        asm!(
            ".weak __x86_get_cpuid_feature_leaf",
            "mov {}, [rip + __x86_get_cpuid_feature_leaf@GOTPCREL]",
            out(reg) address,
            options(nostack, readonly, preserves_flags),
        );
    }
    if address != 0 {
        // SAFETY: glibc's function of that name, which answers with a structure that begins with what `cpuid` said, in static
        // memory; zeros for a leaf that the CPU does not have.
        let [eax, ebx, ecx, edx] = unsafe {
            let get = core::mem::transmute::<usize, extern "C" fn(u32) -> *const [u32; 4]>(address);
            *get(kept)
        };
        if (eax, ebx, ecx, edx) != (0, 0, 0, 0) {
            return CpuidResult { eax, ebx, ecx, edx };
        }
    }
    __cpuid_count(eax, ecx)
}

/// Bytes of a signal frame's vector state ([`XSAVE`]), without the magic number that ends it. Asks the CPU the first time.
pub fn signal_size() -> u32 {
    let known = SIGNAL_SIZE.load(Relaxed);
    if known != 0 {
        return known;
    }
    let signal = SIGNAL_MASK.load(Relaxed);
    let ends = (2..32).filter(|component| signal & (1 << component) != 0).map(|component| {
        let leaf = __cpuid_count(0xd, component);
        leaf.ebx + leaf.eax
    });
    let size = ends.max().unwrap_or(0).max(576);
    SIGNAL_SIZE.store(size, Relaxed);
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_the_cpu_says() {
        for (kept, eax, ecx) in [(LEAF_1, 1, 0), (LEAF_7, 7, 0), (LEAF_D_1, 0xd, 1)] {
            let (found, expected) = (leaf(kept, eax, ecx), __cpuid_count(eax, ecx));
            // ebx of leaf 1 names the CPU one runs on, that of leaf 13 depends on what is enabled now.
            assert_eq!(
                (found.eax, found.ecx, found.edx),
                (expected.eax, expected.ecx, expected.edx),
                "{eax}"
            );
        }
        assert_eq!(leaf(LEAF_7, 7, 0).ebx, __cpuid_count(7, 0).ebx);
    }
}
