//! Signals whose default action ends the process: the host may have something to do before.
//!
//! The thread that is struck may have locks of its allocator or of libc, which what the host does may need. So nothing is done where it
//! was: the host waits for the next call that is offered to it. A call that waited and was ended by the signal is known to hold none; there
//! the thread is led to `_exit` at once. One that was struck elsewhere may come to wait by a call that is not the host's (`pthread_join`): it is struck again
//! and again until then ([`super::ticks`]).

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::{
    Context, SIG_UNBLOCK, SYS_RT_SIGPROCMASK, SigInfo, actions, bit, queue_to_self, raise, ticks, wrapper,
};
use crate::entry::tls::{INSIDE, INTERNAL_THREAD, OUTSIDE, PENDING_NONE, PHASE_CALL, Tls};
use crate::{End, RESTART, hosted, lodger, raw, serve, usercopy};

/// SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR. After those that
/// tell of a broken program (SIGABRT, SIGSEGV...) none of its memory is to be trusted, and the real-time ones are hardly ever sent to a program that
/// does not handle them.
const ENDING: [u32; 15] = [1, 2, 3, 10, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30];

const EINTR: i64 = -4;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

static WATCHED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

/// From now on the handler is asked ([`crate::Handler::struck`]) before a signal that is sent to the process ends it by its default action. Inside,
/// and not in a vfork child.
pub fn watch_endings() {
    if !WATCHED.swap(true, AcqRel) {
        ENDING.into_iter().for_each(actions::watch);
    }
}

pub fn is_watched(signal: u32) -> bool {
    WATCHED.load(Relaxed) && ENDING.contains(&signal)
}

/// Whether the kernel delivered because of what [`actions::watch`] told it: the frame returns to the restorer that is for nothing else.
pub fn came_by_default(context: &Context) -> bool {
    // SAFETY: the kernel's frame has the restorer's address just before the context.
    let restorer = unsafe { (&raw const *context).cast::<u64>().sub(1).read() };
    restorer == wrapper::default_restorer()
}

/// Such a signal struck this thread.
///
/// `cut_short`: [`was_cut_short`], before the context was settled.
pub fn strike(signal: u32, info: &SigInfo, context: &mut Context, tls: &mut Tls, cut_short: bool) {
    let inside = tls.inside;
    let waited = cut_short && inside == OUTSIDE && tls.pending == PENDING_NONE && tls.phase == PHASE_CALL;
    let again = ticks::is_one(info);
    if again {
        ticks::came(inside == INSIDE);
    } else {
        let alone = tls.vfork_depth > 0 || inside == INTERNAL_THREAD || lodger::is_current();
        match if alone { End::AtOnce } else { serve::handler().struck(signal) } {
            End::AtOnce => return end_at_once(signal, info),
            // Also inside: not every call is one in which the host looks.
            End::Postponed if !waited => ticks::begin(signal, inside == INSIDE),
            End::Postponed | End::Begun => {}
        }
    }
    if inside == INSIDE {
        if let Some(after) = raw::interrupted(context.rip) {
            context.rip = after;
            context.rax = RESTART as u64;
        }
    } else if waited {
        leave_to_exit(signal, context);
    } else if again && inside == OUTSIDE && ticks::was_last() {
        end_at_once(signal, info);
    }
}

/// By its default action, as the signal's frame is left: it is blocked until then.
fn end_at_once(signal: u32, info: &SigInfo) {
    actions::set_default(signal);
    // SAFETY: it is to end the process.
    unsafe { queue_to_self(info) };
}

fn leave_to_exit(signal: u32, context: &mut Context) {
    context.rip = _exit as *const () as u64;
    context.rdi = u64::from(128 + signal);
    context.rsp = ((context.rsp - 128) & !15) - 8;
    hosted::stays_ours(context);
}

/// Whether a call that waited came back because of the signal.
pub fn was_cut_short(context: &Context) -> bool {
    context.rax as i64 == EINTR
        && usercopy::read::<[u8; 2]>(context.rip - 2).is_ok_and(|bytes| bytes == SYSCALL)
}

/// The handler has begun to end the process: no signal that it has postponed cuts short what is done for that.
pub fn begin_end() {
    ticks::end();
}

/// Ends the process by this signal. Inside, where nobody waits for anything of this thread's any more.
pub fn end_by(signal: u32) -> ! {
    actions::set_default(signal);
    let mask = bit(signal);
    loop {
        // SAFETY: the signal is to end the process.
        unsafe {
            raise(signal);
            raw::syscall4(SYS_RT_SIGPROCMASK, SIG_UNBLOCK, (&raw const mask) as u64, 0, 8);
        }
    }
}
