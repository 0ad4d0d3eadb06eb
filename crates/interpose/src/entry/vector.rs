//! Which vector state there is, and by which instruction it is kept.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// `fxsave`.
pub const FXSAVE: u32 = 0;
/// `xsave`: CPUs without `xsavec`.
pub const XSAVE: u32 = 1;
/// `xsavec`: writes only what is in use.
pub const XSAVEC: u32 = 2;

/// One of the three.
pub static KIND: AtomicU32 = AtomicU32::new(FXSAVE);
/// Components kept across a served call.
pub static MASK: AtomicU32 = AtomicU32::new(0);
/// Components put into a signal frame.
pub static SIGNAL_MASK: AtomicU32 = AtomicU32::new(0);
/// Bytes of a signal frame's vector state, without the magic number that ends it.
pub static SIGNAL_SIZE: AtomicU32 = AtomicU32::new(512);

// x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM. AMX tiles are left alone: neither we nor a handler touch them.
const KEPT: u32 = 0b1110_0111;
// Protection keys: the kernel resets what a signal frame does not hold.
const PKRU: u32 = 1 << 9;

/// Asks the CPU. Called once, before the first call is served.
pub fn detect() {
    let features = __cpuid(1).ecx;
    let osxsave = features & (1 << 27) != 0;
    if !osxsave {
        return;
    }
    // SAFETY: the operating system enabled XSAVE, so xgetbv exists.
    let enabled = unsafe { _xgetbv(0) } as u32;
    let extended = __cpuid_count(0xd, 1).eax;
    MASK.store(enabled & KEPT, Relaxed);
    let signal = enabled & (KEPT | PKRU);
    SIGNAL_MASK.store(signal, Relaxed);
    let size = (2..32)
        .filter(|component| signal & (1 << component) != 0)
        .map(|component| __cpuid_count(0xd, component))
        .map(|leaf| leaf.ebx + leaf.eax)
        .max()
        .unwrap_or(576);
    SIGNAL_SIZE.store(size, Relaxed);
    KIND.store(if extended & 2 != 0 { XSAVEC } else { XSAVE }, Relaxed);
}
