//! The program's signal actions, as it set them and as the kernel has them.

use core::mem::size_of;
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use super::{SIGBUS, SIGNALS, SIGSEGV, SIGSYS, SYS_RT_SIGACTION, VIRTUAL, bit, raise};
use super::{ending, wrapper};
use crate::InstallError;
use crate::entry::tls::Tls;
use crate::hosted;
use crate::raw;
use crate::spin::{self, Spin};
use crate::usercopy;

const EFAULT: i64 = -14;
const EINVAL: i64 = -22;

pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;
const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;
const SA_NOCLDSTOP: u64 = 1;
const SA_NOCLDWAIT: u64 = 2;
const SA_EXPOSE_TAGBITS: u64 = 0x800;
/// What the kernel keeps of a program's flags.
const SA_KNOWN: u64 = SA_SIGINFO
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_EXPOSE_TAGBITS;
/// SIGKILL and SIGSTOP cannot be blocked.
const UNBLOCKABLE: u64 = bit(9) | bit(19);

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

struct Entry {
    handler: AtomicU64,
    flags: AtomicU64,
    restorer: AtomicU64,
    mask: AtomicU64,
    /// The handler set last: for a signal that the kernel handed out just before the action was changed.
    last_handler: AtomicU64,
}

static TABLE: [Entry; SIGNALS] = [const {
    Entry {
        handler: AtomicU64::new(SIG_DFL),
        flags: AtomicU64::new(0),
        restorer: AtomicU64::new(0),
        mask: AtomicU64::new(0),
        last_handler: AtomicU64::new(SIG_DFL),
    }
}; SIGNALS];

impl Entry {
    fn load(&self) -> Action {
        Action {
            handler: self.handler.load(Relaxed),
            flags: self.flags.load(Relaxed),
            restorer: self.restorer.load(Relaxed),
            mask: self.mask.load(Relaxed),
        }
    }

    fn store(&self, action: &Action) {
        self.flags.store(action.flags, Relaxed);
        self.restorer.store(action.restorer, Relaxed);
        self.mask.store(action.mask, Relaxed);
        if action.handler > SIG_IGN {
            self.last_handler.store(action.handler, Relaxed);
        }
        self.handler.store(action.handler, Release);
    }
}

/// Whether [`renew_faults`] was called. Changes under the lock.
static LETTING_THROUGH: AtomicBool = AtomicBool::new(false);

/// Held while table and kernel are brought in step, and around fork.
static LOCK: Spin = Spin::new();

pub fn lock() -> spin::Guard<'static> {
    LOCK.lock()
}

unsafe fn set_native(signal: u32, action: &Action) -> i64 {
    // SAFETY: the structure is the kernel's; the caller vouches for the handler.
    unsafe { raw::syscall4(SYS_RT_SIGACTION, u64::from(signal), (&raw const *action) as u64, 0, 8) }
}

fn native(signal: u32) -> Result<Action, i64> {
    let mut action = Action::default();
    // SAFETY: the kernel fills our structure.
    let result =
        unsafe { raw::syscall4(SYS_RT_SIGACTION, u64::from(signal), 0, (&raw mut action) as u64, 8) };
    if result < 0 { Err(result) } else { Ok(action) }
}

/// What the kernel is told for what the program asked.
fn kernel_action(signal: u32, action: &Action) -> Action {
    let asked = wanted_of_kernel(signal, action);
    let ours = asked.handler == wrapper::address();
    if !ours || !hosted::active() {
        return asked;
    }
    // A guest's restorer would be caught; and see `hosted::signal`.
    let by_default = asked.restorer == wrapper::default_restorer();
    let restorer = if by_default { asked.restorer } else { wrapper::restorer() };
    let flags = asked.flags | SA_ONSTACK | SA_RESTORER;
    Action { flags, restorer, mask: asked.mask | !VIRTUAL, ..asked }
}

fn wanted_of_kernel(signal: u32, action: &Action) -> Action {
    if bit(signal) & VIRTUAL != 0 {
        let handled = action.handler > SIG_IGN;
        let own_restorer = signal == SIGSYS || !handled || action.flags & SA_RESTORER == 0;
        let flags = if handled { action.flags & !SA_RESETHAND } else { SA_ONSTACK };
        let alone = !LETTING_THROUGH.load(Relaxed);
        return Action {
            handler: wrapper::address(),
            // All are blocked in the wrapper (but SIGSYS where the program's own restorer may be caught), and no NODEFER: one that is sent again and again would be delivered again and again, the kernel putting frame on frame,
            // before the first instruction. A fault or a dispatch while the host is asked about a fault, or the program's own handler runs, must be
            // served, too: both begin by letting through what may come. (Not where a filter may forbid it, or answer our own calls by SIGSYS.)
            flags: if alone { flags & !SA_NODEFER } else { flags | SA_NODEFER } | SA_SIGINFO | SA_RESTORER,
            restorer: if own_restorer { wrapper::restorer() } else { action.restorer },
            mask: match handled {
                _ if alone && signal == SIGSYS => u64::MAX,
                _ if alone => !bit(SIGSYS),
                true => action.mask & !VIRTUAL,
                false => 0,
            },
        };
    }
    if action.handler == SIG_DFL && ending::is_watched(signal) {
        return Action {
            handler: wrapper::address(),
            flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
            restorer: wrapper::default_restorer(),
            mask: 0,
        };
    }
    if action.handler <= SIG_IGN {
        return *action;
    }
    Action {
        handler: wrapper::address(),
        flags: (action.flags & !SA_RESETHAND) | SA_SIGINFO,
        restorer: action.restorer,
        mask: action.mask & !VIRTUAL,
    }
}

/// Takes over the actions that are set already, and those of the virtual signals.
///
/// # Safety
/// The entry's tables are ready; called once.
pub unsafe fn adopt() -> Result<(), InstallError> {
    let _guard = lock();
    for signal in 1..SIGNALS as u32 {
        let Ok(action) = native(signal) else { continue };
        TABLE[signal as usize].store(&action);
        if action.handler > SIG_IGN || bit(signal) & VIRTUAL != 0 {
            // SAFETY: the wrapper passes on to the handler just stored.
            let result = unsafe { set_native(signal, &kernel_action(signal, &action)) };
            if result < 0 {
                return Err(InstallError::System("rt_sigaction", -result as i32));
            }
        }
    }
    Ok(())
}

/// As a new program finds them: what was ignored is ignored, all else is the default. A positive errno when the kernel refuses.
///
/// # Safety
/// As for [`adopt`], which was called before.
pub unsafe fn begin_anew() -> Result<(), i32> {
    let _guard = lock();
    for signal in 1..SIGNALS as u32 {
        let entry = &TABLE[signal as usize];
        let handled = entry.handler.load(Relaxed) > SIG_IGN;
        if handled {
            entry.store(&Action::default());
        }
        if handled || bit(signal) & VIRTUAL != 0 || ending::is_watched(signal) {
            // SAFETY: the wrapper, or the default.
            let result = unsafe { set_native(signal, &kernel_action(signal, &entry.load())) };
            if result < 0 {
                return Err(-result as i32);
            }
        }
    }
    Ok(())
}

/// The program's `rt_sigaction`.
pub fn serve(tls: &mut Tls, args: [u64; 6]) -> i64 {
    let [signal, new, old, size, ..] = args;
    if size != size_of::<u64>() as u64 || signal == 0 || signal >= SIGNALS as u64 {
        return EINVAL;
    }
    let signal = signal as u32;
    let wanted = if new == 0 {
        None
    } else {
        match usercopy::read::<Action>(new) {
            Ok(action) => Some(action),
            Err(_) => return EFAULT,
        }
    };
    let previous =
        if tls.vfork_depth > 0 { in_vfork_child(tls, signal, wanted) } else { exchange(signal, wanted) };
    match previous {
        Err(errno) => errno,
        Ok(previous) if old != 0 && usercopy::write(old, &previous).is_err() => EFAULT,
        Ok(_) => 0,
    }
}

fn sanitized(mut action: Action) -> Action {
    action.flags &= SA_KNOWN;
    action.mask &= !UNBLOCKABLE;
    action
}

fn exchange(signal: u32, wanted: Option<Action>) -> Result<Action, i64> {
    let _guard = lock();
    let entry = &TABLE[signal as usize];
    let previous = entry.load();
    let Some(wanted) = wanted.map(sanitized) else { return Ok(previous) };
    // The table first when a handler comes, the kernel first when it goes: the wrapper never finds nothing to call.
    let handled = wanted.handler > SIG_IGN;
    if handled {
        entry.store(&wanted);
    }
    if bit(signal) & VIRTUAL != 0 && wanted.handler == SIG_IGN {
        // What is pending goes; the kernel sees that only if it is told so.
        // SAFETY: for a moment as the program asked.
        unsafe { set_native(signal, &Action { handler: SIG_IGN, ..Action::default() }) };
    }
    // SAFETY: what the program asked, by way of the wrapper.
    let result = unsafe { set_native(signal, &kernel_action(signal, &wanted)) };
    if result < 0 {
        entry.store(&previous);
        return Err(result);
    }
    if !handled {
        entry.store(&wanted);
    }
    Ok(previous)
}

/// A vfork child has its own actions in the kernel, but the table is its parent's. It sets none but the default and
/// ignore before it execs, as a rule; a handler it sets is called by the kernel directly.
fn in_vfork_child(tls: &mut Tls, signal: u32, wanted: Option<Action>) -> Result<Action, i64> {
    let kernel = native(signal)?;
    let ours = kernel.handler == wrapper::address();
    let virtually = bit(signal) & VIRTUAL != 0;
    let default_bit = virtual_bit(signal);
    let previous = if !ours {
        kernel
    } else if tls.vfork_default & default_bit != 0 {
        Action::default()
    } else {
        TABLE[signal as usize].load()
    };
    if let Some(wanted) = wanted.map(sanitized) {
        if virtually && wanted.handler == SIG_DFL {
            // exec makes our handler the default; until then we need it.
            tls.vfork_default |= default_bit;
        } else {
            // SAFETY: what the program asked.
            let result = unsafe { set_native(signal, &wanted) };
            if result < 0 {
                return Err(result);
            }
        }
    }
    Ok(previous)
}

/// The bit of a virtual signal in [`Tls::vfork_default`].
fn virtual_bit(signal: u32) -> u8 {
    match signal {
        SIGBUS => 1,
        SIGSEGV => 2,
        SIGSYS => 4,
        _ => 0,
    }
}

/// What is to happen with a signal that the kernel handed to the wrapper.
pub fn disposition(tls: &Tls, signal: u32) -> Action {
    let entry = &TABLE[signal as usize];
    let mut action = entry.load();
    let virtually = bit(signal) & VIRTUAL != 0;
    if virtually && tls.vfork_default & virtual_bit(signal) != 0 {
        action.handler = SIG_DFL;
    } else if !virtually && action.handler <= SIG_IGN {
        action.handler = entry.last_handler.load(Relaxed);
    }
    action
}

/// `SA_RESETHAND`: the first to call this gets to run the handler.
pub fn reset(signal: u32, action: &Action) -> bool {
    let entry = &TABLE[signal as usize];
    if entry.handler.compare_exchange(action.handler, SIG_DFL, AcqRel, Relaxed).is_err() {
        return false;
    }
    if bit(signal) & VIRTUAL == 0 {
        // SAFETY: the default, as the program asked.
        unsafe { set_native(signal, &kernel_action(signal, &Action { handler: SIG_DFL, ..*action })) };
        let now = entry.load();
        if now.handler > SIG_IGN {
            // Somebody set a new handler meanwhile, and we may have undone it.
            // SAFETY: what the program asked.
            unsafe { set_native(signal, &kernel_action(signal, &now)) };
        }
    }
    true
}

/// For the virtual signals the kernel is told something else from now on: the process is about to be restrained.
pub fn renew_faults() {
    let _guard = lock();
    LETTING_THROUGH.store(true, Relaxed);
    for signal in [SIGSEGV, SIGBUS, SIGSYS] {
        // SAFETY: ours, for what the program asked.
        unsafe { set_native(signal, &kernel_action(signal, &TABLE[signal as usize].load())) };
    }
}

/// Has the wrapper called in place of the default action of this signal, which [`ending`] watches from now on.
pub fn watch(signal: u32) {
    let _guard = lock();
    let action = TABLE[signal as usize].load();
    if action.handler == SIG_DFL {
        // SAFETY: the wrapper does what the default would, or the host knows better.
        unsafe { set_native(signal, &kernel_action(signal, &action)) };
    }
}

/// Makes the kernel's action the default, for a signal that is to end the process.
pub fn set_default(signal: u32) {
    // SAFETY: the process is about to end by it.
    unsafe { set_native(signal, &Action::default()) };
}

/// In a child whose handlers the kernel has reset, ours among them.
pub fn cleared() {
    let _guard = lock();
    for entry in &TABLE {
        if entry.handler.load(Relaxed) > SIG_IGN {
            entry.store(&Action::default());
        }
    }
    for signal in virtual_signals() {
        // SAFETY: ours.
        unsafe { set_native(signal, &kernel_action(signal, &TABLE[signal as usize].load())) };
    }
}

/// The same in a vfork child, where the table is the parent's.
pub fn cleared_in_vfork_child(tls: &mut Tls) {
    for signal in virtual_signals() {
        if TABLE[signal as usize].handler.load(Relaxed) > SIG_IGN {
            tls.vfork_default |= virtual_bit(signal);
        }
        // SAFETY: ours.
        unsafe { set_native(signal, &kernel_action(signal, &Action::default())) };
    }
}

/// Before exec: the signals the program ignores stay ignored in the new image.
pub fn ignore_for_exec(tls: &Tls) {
    for signal in virtual_signals().filter(|signal| ignored(tls, *signal)) {
        // SAFETY: as the program asked; other threads end with the exec.
        unsafe { set_native(signal, &Action { handler: SIG_IGN, ..Action::default() }) };
        if tls.parked & bit(signal) != 0 {
            // That has discarded it, as the program's own call would not: it is blocked.
            // SAFETY: the caller has blocked it.
            unsafe { raise(signal) };
        }
    }
}

/// After an exec that failed.
pub fn restore_after_exec(tls: &Tls) {
    for signal in virtual_signals().filter(|signal| ignored(tls, *signal)) {
        // SAFETY: back to what `exchange` set.
        unsafe { set_native(signal, &kernel_action(signal, &TABLE[signal as usize].load())) };
    }
}

fn ignored(tls: &Tls, signal: u32) -> bool {
    TABLE[signal as usize].handler.load(Relaxed) == SIG_IGN && tls.vfork_default & virtual_bit(signal) == 0
}

fn virtual_signals() -> impl Iterator<Item = u32> {
    (1..SIGNALS as u32).filter(|signal| bit(*signal) & VIRTUAL != 0)
}
