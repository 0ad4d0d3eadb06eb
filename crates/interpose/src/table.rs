//! What the entry's assembly looks at to decide about a call.

use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

use crate::{Config, FD_STATES, Interest, NUMBERS};

/// Classes of numbers. 0 goes to the kernel.
pub const NEVER: u8 = 0;
pub const BY_FD: u8 = 1;
pub const WHILE_SERVING: u8 = 2;
pub const ALWAYS: u8 = 3;
/// Only made inside.
pub const INNER_ONLY: u8 = 4;
/// mmap, mprotect, `pkey_mprotect`: with `PROT_EXEC` in the third argument.
pub const EXECUTABLE: u8 = 5;
/// `rt_sigprocmask`.
pub const MASK_CHANGE: u8 = 6;
/// A signal mask to wait with, in the register named.
pub const MASK_RDI: u8 = 7;
pub const MASK_R10: u8 = 8;
pub const MASK_R8: u8 = 9;
/// A pointer to (mask pointer, size) in r9: pselect6.
pub const MASK_PAIR_R9: u8 = 10;
/// By the FD, whose state is forgotten.
pub const CLOSES: u8 = 11;
/// By the text of a path, see [`crate::paths`]: in the first argument if the class is even, in the second if it is odd. These change
/// what is there or take it away.
pub const PATH_ALTER_FIRST: u8 = 12;
pub const PATH_ALTER_SECOND: u8 = 13;
/// ... which only look.
pub const PATH_FIRST: u8 = 14;
pub const PATH_SECOND: u8 = 15;
/// ... which fill in a `struct stat`, the second argument; the third; or a `struct statx`, the fifth.
pub const PATH_STAT: u8 = 16;
pub const PATH_STAT_AT: u8 = 17;
pub const PATH_STATX: u8 = 19;
/// ... which open it.
pub const PATH_OPEN: u8 = 20;
pub const PATH_OPEN_AT: u8 = 21;

/// All flags of open(2) but access mode, `O_CREAT`, `O_EXCL`, `O_NOCTTY`, `O_TRUNC`, `O_APPEND`, `O_NONBLOCK`, `O_LARGEFILE`, `O_DIRECTORY`,
/// `O_CLOEXEC`.
pub const PATH_RARE_FLAGS: u32 = !0x0009_8fc3;

/// Offsets in the table from a number's class: whether calls made inside are of interest,
/// and what the host's interest alone would be.
pub const INNER: usize = NUMBERS;
pub const HOST_CLASS: usize = 2 * NUMBERS;
/// Who wants calls made inside: this crate, the host.
const INNER_OWN: u8 = 1;
pub const INNER_HOST: u8 = 2;

/// Three bytes for each number: class, inner, host class.
pub type Classes = [AtomicU8; 3 * NUMBERS];

static TABLE: Classes = [const { AtomicU8::new(0) }; 3 * NUMBERS];
/// What [`set_alert`] does to a number: nothing, the host's class, or both classes.
static ALERT: [AtomicU8; NUMBERS] = [const { AtomicU8::new(0) }; NUMBERS];
const ALERT_HOST: u8 = 1;
const ALERT_BOTH: u8 = 2;
/// Whether a number is one of [`Interest::Late`].
static LATE: [AtomicU8; NUMBERS] = [const { AtomicU8::new(0) }; NUMBERS];
static LATE_OFFERED: AtomicBool = AtomicBool::new(false);
/// The classes of a number without alert: own, host's.
static CALM: [[AtomicU8; 2]; NUMBERS] = [const { [AtomicU8::new(0), AtomicU8::new(0)] }; NUMBERS];

static NO_STATES: [AtomicU8; FD_STATES] = [const { AtomicU8::new(0) }; FD_STATES];
static NOT_SERVING: AtomicU8 = AtomicU8::new(0);

/// Where the table is (assembly adds to it; it cannot take an address and an index in one register).
pub static CLASSES: AtomicPtr<Classes> = AtomicPtr::new((&raw const TABLE).cast_mut());
pub static FD_STATE_BYTES: AtomicPtr<[AtomicU8; FD_STATES]> =
    AtomicPtr::new((&raw const NO_STATES).cast_mut());
pub static SERVING: AtomicPtr<AtomicU8> = AtomicPtr::new((&raw const NOT_SERVING).cast_mut());
/// Not zero when sites that are not ours have to be kept from dispatch.
pub static DISPATCHING: AtomicU8 = AtomicU8::new(0);
/// The text from which dispatch lets calls through.
pub static DISPATCH_START: AtomicU64 = AtomicU64::new(0);
pub static DISPATCH_LENGTH: AtomicU64 = AtomicU64::new(0);
static NO_PREFIXES: [u64; 2] = [0; 2];
static NO_INODES: u64 = 0;
static NO_LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static OF_INTEREST: AtomicU32 = AtomicU32::new(0);
static NO_EXCHANGES: AtomicU32 = AtomicU32::new(2);
/// The parts of the [`crate::PathFilter`].
pub static PATH_PREFIXES: AtomicPtr<[u64; 2]> = AtomicPtr::new((&raw const NO_PREFIXES).cast_mut());
pub static PATH_INODES: AtomicPtr<u64> = AtomicPtr::new((&raw const NO_INODES).cast_mut());
pub static PATH_RELATIVE: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const OF_INTEREST).cast_mut());
pub static PATH_FD_LIMIT: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const NO_LIMIT).cast_mut());
pub static PATH_EXCHANGES: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const NO_EXCHANGES).cast_mut());
/// Where `errno` is, relative to the thread pointer.
pub static ERRNO_OFFSET: AtomicU64 = AtomicU64::new(0);

/// What this crate itself has to do with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// `rt_sigaction`.
    Action,
    /// `rt_sigprocmask`.
    Mask,
    /// sigaltstack.
    AltStack,
    /// Waits with a signal mask named by this argument, directly or by a pair.
    Wait { argument: usize, pair: bool },
    /// fork, vfork, clone, clone3.
    Fork,
    /// execve, execveat.
    Exec,
    /// exit.
    Exit,
    /// mmap, mprotect, `pkey_mprotect`.
    Executable,
    /// brk, `arch_prctl`, `set_tid_address`: only those of a guest, see [`crate::hosted`].
    Guest,
}

/// See [`Own`].
#[inline]
pub const fn own(nr: u32) -> Option<Own> {
    Some(match nr {
        9 | 10 | 329 => Own::Executable,
        12 | 158 | 218 => Own::Guest,
        13 => Own::Action,
        14 => Own::Mask,
        56 | 57 | 58 | 435 => Own::Fork,
        59 | 322 => Own::Exec,
        60 => Own::Exit,
        130 => Own::Wait { argument: 0, pair: false },
        131 => Own::AltStack,
        270 => Own::Wait { argument: 5, pair: true },
        271 => Own::Wait { argument: 3, pair: false },
        281 | 441 => Own::Wait { argument: 4, pair: false },
        _ => return None,
    })
}

const fn own_class(own: Own) -> u8 {
    match own {
        Own::Executable => EXECUTABLE,
        Own::Mask => MASK_CHANGE,
        Own::Wait { pair: true, .. } => MASK_PAIR_R9,
        Own::Wait { argument: 0, .. } => MASK_RDI,
        Own::Wait { argument: 3, .. } => MASK_R10,
        Own::Wait { .. } => MASK_R8,
        Own::Action | Own::AltStack | Own::Fork | Own::Exec | Own::Exit => ALWAYS,
        Own::Guest => NEVER,
    }
}

const fn host_class(interest: Interest) -> u8 {
    match interest {
        Interest::Never | Interest::WhileAlert | Interest::Late => NEVER,
        Interest::ByFd => BY_FD,
        Interest::Closes => CLOSES,
        Interest::WhileServing => WHILE_SERVING,
        Interest::Always => ALWAYS,
    }
}

/// The class of calls that look up one path, if the host has a [`crate::PathFilter`] and would be offered all of them.
const fn path_class(nr: u32) -> Option<u8> {
    Some(match nr {
        2 => PATH_OPEN,
        4 | 6 => PATH_STAT,
        21 | 89 => PATH_FIRST,
        // truncate, unlink, chmod, chown, lchown
        76 | 87 | 90 | 92 | 94 => PATH_ALTER_FIRST,
        // fchownat, unlinkat (but with AT_REMOVEDIR: then it is always offered), fchmodat, utimensat, fchmodat2
        260 | 263 | 268 | 280 | 452 => PATH_ALTER_SECOND,
        257 => PATH_OPEN_AT,
        262 => PATH_STAT_AT,
        267 | 269 | 439 => PATH_SECOND,
        332 => PATH_STATX,
        _ => return None,
    })
}

/// Whether a call of this class that the entry made with this result has to be made or offered once more. If it only looks it may be
/// in any case.
pub const fn to_be_offered(class: u8, result: i64) -> bool {
    match class {
        ..PATH_FIRST => matches!(result, -2 | -20 | -121 | -95),
        PATH_FIRST..PATH_OPEN => true,
        PATH_OPEN.. => matches!(result, -40 | -22 | -38 | -1 | -2 | -20),
    }
}

/// Fills the table. Called before any site leads to the entry.
pub fn fill(config: &Config) {
    if let Some(states) = config.fd_states {
        FD_STATE_BYTES.store((&raw const *states).cast_mut(), Relaxed);
    }
    if let Some(serving) = config.serving {
        SERVING.store((&raw const *serving).cast_mut(), Relaxed);
    }
    if let Some(paths) = config.paths {
        PATH_PREFIXES.store(paths.prefixes.as_ptr().cast_mut(), Relaxed);
        PATH_INODES.store(paths.inodes.as_ptr().cast_mut(), Relaxed);
        PATH_RELATIVE.store((&raw const *paths.relative).cast_mut(), Relaxed);
        PATH_FD_LIMIT.store((&raw const *paths.fd_limit).cast_mut(), Relaxed);
        PATH_EXCHANGES.store((&raw const *paths.exchanges).cast_mut(), Relaxed);
    }
    for (nr, (interest, inner)) in config.interests.iter().zip(config.inner).enumerate() {
        let host = host_class(*interest);
        let class = match own(nr as u32) {
            // The host's interest is looked at again once it is known that ours is not all.
            Some(Own::Wait { .. }) if host != NEVER => ALWAYS,
            Some(Own::Guest) => host,
            Some(own) => own_class(own),
            None if host == NEVER && inner => INNER_ONLY,
            None if host == ALWAYS && config.paths.is_some() => path_class(nr as u32).unwrap_or(host),
            None => host,
        };
        let own_inner = matches!(own(nr as u32), Some(Own::Action | Own::Mask | Own::Fork | Own::Executable));
        TABLE[nr].store(class, Relaxed);
        TABLE[INNER + nr].store((u8::from(inner) * INNER_HOST) | (u8::from(own_inner) * INNER_OWN), Relaxed);
        TABLE[HOST_CLASS + nr].store(host, Relaxed);
        let asked = config.alert[nr] || *interest == Interest::WhileAlert;
        let alert = match own(nr as u32) {
            _ if !asked => 0,
            None | Some(Own::Wait { .. } | Own::Guest) => ALERT_BOTH,
            Some(Own::Executable) => ALERT_HOST,
            Some(_) => 0,
        };
        ALERT[nr].store(alert, Relaxed);
        LATE[nr].store(u8::from(*interest == Interest::Late), Relaxed);
        CALM[nr][0].store(class, Relaxed);
        CALM[nr][1].store(host, Relaxed);
    }
}

/// Has all calls of the numbers that [`Config::alert`] and [`Interest::WhileAlert`] name offered to the handler from now on, or
/// no longer. Calls that are being decided about meanwhile go either way; those that other threads begin after this has returned
/// go the new one. As long as it is off, it costs those calls nothing. Any thread, inside or not.
pub fn set_alert(on: bool) {
    for nr in 0..NUMBERS {
        let (class, host) = if on {
            match ALERT[nr].load(Relaxed) {
                ALERT_BOTH => (ALWAYS, ALWAYS),
                ALERT_HOST => (CALM[nr][0].load(Relaxed), ALWAYS),
                _ => continue,
            }
        } else if is_offered_late(nr) {
            continue;
        } else {
            (CALM[nr][0].load(Relaxed), CALM[nr][1].load(Relaxed))
        };
        offer(nr, class, host);
        // Another thread has begun to offer it since, perhaps before that.
        if !on && is_offered_late(nr) {
            offer(nr, ALWAYS, ALWAYS);
        }
    }
}

fn offer(nr: usize, class: u8, host: u8) {
    // The host's first: who finds the other is to find this.
    TABLE[HOST_CLASS + nr].store(host, SeqCst);
    TABLE[nr].store(class, SeqCst);
}

/// Has the calls of [`Interest::Late`] offered to the handler from now on. Any thread, inside or not; cheap when it was called before.
pub fn offer_late() {
    if LATE_OFFERED.swap(true, SeqCst) {
        return;
    }
    for nr in (0..NUMBERS).filter(|&nr| is_offered_late(nr)) {
        offer(nr, ALWAYS, ALWAYS);
    }
}

fn is_offered_late(nr: usize) -> bool {
    LATE_OFFERED.load(SeqCst) && LATE[nr].load(Relaxed) != 0
}

/// From now on the calls of [`Own::Guest`] are looked at.
pub fn watch_guest() {
    for nr in (0..NUMBERS as u32).filter(|nr| own(*nr) == Some(Own::Guest)) {
        TABLE[nr as usize].store(ALWAYS, Relaxed);
        CALM[nr as usize][0].store(ALWAYS, Relaxed);
    }
}

/// Whether the host wants a call of this number with these arguments.
pub fn host_interested(nr: u32, args: &[u64; 6]) -> bool {
    match TABLE[HOST_CLASS + nr as usize].load(Relaxed) {
        NEVER => false,
        BY_FD | CLOSES => !foreign(args[0] as u32),
        // SAFETY: the host's byte, static.
        WHILE_SERVING => unsafe { (*SERVING.load(Relaxed)).load(Relaxed) != 0 },
        _ => true,
    }
}

/// Whether the host wants calls of this number that are made inside.
pub fn host_inner(nr: u32) -> bool {
    TABLE[INNER + nr as usize].load(Relaxed) & INNER_HOST != 0
}

fn foreign(fd: u32) -> bool {
    // SAFETY: the host's array, static.
    let states = unsafe { &*FD_STATE_BYTES.load(Relaxed) };
    states.get(fd as usize).is_some_and(|state| state.load(Relaxed) == crate::FD_FOREIGN)
}

/// Sites of all numbers are rewritten: dispatch catches what is not, which costs far more.
pub static ALL_SITES: AtomicBool = AtomicBool::new(false);

/// Whether sites of this number are to be rewritten.
pub fn rewritten(nr: u32) -> bool {
    ALL_SITES.load(Relaxed) || of_interest(nr)
}

/// A hash of which numbers' sites are rewritten.
pub fn numbers_rewritten() -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    (0..NUMBERS as u32).fold(BASIS, |hash, nr| (hash ^ u64::from(rewritten(nr))).wrapping_mul(PRIME))
}

/// Whether a call of this number is of interest to anybody, whatever its arguments.
pub fn of_interest(nr: u32) -> bool {
    let sometimes = |nr: usize| nr < NUMBERS && (ALERT[nr].load(Relaxed) != 0 || LATE[nr].load(Relaxed) != 0);
    must_be_caught(nr) || sometimes(nr as usize)
}

/// Whether a call of this number is of interest when there is no alert, too.
pub fn must_be_caught(nr: u32) -> bool {
    (nr as usize) < NUMBERS && CALM[nr as usize][0].load(Relaxed) != NEVER
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 0;
    const MPROTECT: u32 = 10;
    const MUNMAP: u32 = 11;
    const FORK: u32 = 57;
    const FUTEX: u32 = 202;
    const GETPPID: u32 = 110;
    const POLL: u32 = 7;
    const PPOLL: u32 = 271;

    fn classes(nr: u32) -> (u8, u8) {
        (TABLE[nr as usize].load(Relaxed), TABLE[HOST_CLASS + nr as usize].load(Relaxed))
    }

    /// One test, since the table is the process's.
    #[test]
    fn an_alert_has_calls_offered_and_its_end_puts_all_back_but_what_is_offered_late() {
        let config = Config::new()
            .interest(READ, Interest::ByFd)
            .interest(MUNMAP, Interest::WhileAlert)
            .interest(GETPPID, Interest::Always)
            .interest(POLL, Interest::Late)
            .interest(PPOLL, Interest::Late);
        let config = [POLL, READ, MPROTECT, FORK, FUTEX].into_iter().fold(config, Config::alert);
        fill(&config);
        let calm = [
            (READ, (BY_FD, BY_FD)),
            (MPROTECT, (EXECUTABLE, NEVER)),
            (MUNMAP, (NEVER, NEVER)),
            (FORK, (ALWAYS, NEVER)),
            (FUTEX, (NEVER, NEVER)),
            (GETPPID, (ALWAYS, ALWAYS)),
            (POLL, (NEVER, NEVER)),
            (PPOLL, (MASK_R10, NEVER)),
        ];
        for (nr, expected) in calm {
            assert_eq!(classes(nr), expected, "{nr}");
        }
        assert!(of_interest(FUTEX) && !must_be_caught(FUTEX) && must_be_caught(READ));
        assert!(!host_interested(FUTEX, &[0; 6]));
        set_alert(true);
        for nr in [READ, MUNMAP, FUTEX, GETPPID] {
            assert_eq!(classes(nr), (ALWAYS, ALWAYS), "{nr}");
        }
        assert_eq!((classes(MPROTECT), classes(FORK)), ((EXECUTABLE, ALWAYS), (ALWAYS, NEVER)));
        assert!(host_interested(FUTEX, &[0; 6]));
        set_alert(false);
        for (nr, expected) in calm {
            assert_eq!(classes(nr), expected, "{nr}");
        }
        assert!(of_interest(POLL) && !must_be_caught(POLL));
        offer_late();
        for _ in 0..2 {
            for (nr, expected) in calm {
                let late = [POLL, PPOLL].contains(&nr);
                assert_eq!(classes(nr), if late { (ALWAYS, ALWAYS) } else { expected }, "{nr}");
            }
            set_alert(true);
            set_alert(false);
        }
        assert!(host_interested(PPOLL, &[0; 6]) && !must_be_caught(POLL));
    }
}
