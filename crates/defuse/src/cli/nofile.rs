//! Room for FDs that the program never sees.
//!
//! Plugins keep FDs of their own; they live at numbers that the program cannot get: above its limit of open files, below
//! the hard one.

use defuse::session::Nofile;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::failure::{Failure, RUN_FAILED};

/// The least number of FDs that are set aside where the program has few, if the limits allow that many at all.
const LEAST_ROOM: u64 = 256;

/// How FD numbers are divided in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// The limits that its processes really have: the program's FDs are below the soft one, all below the hard one.
    pub real: Nofile,
    /// The limits that the program is to see.
    pub shown: Nofile,
    /// The first FD that is not the program's.
    pub private_fd_base: u32,
}

/// Sets the limit of open files for this process and those it starts, and tells how the numbers are divided.
///
/// # Errors
///
/// When the limits cannot be read, or leave no room at all.
pub fn divide() -> Result<Division, Failure> {
    let failed = |verb: &str, errno: Errno| {
        Failure::new(RUN_FAILED, format!("cannot {verb} the limit of open files: {}", errno.desc()))
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| failed("read", errno))?;
    let now = Nofile { soft, hard };
    for division in candidates(now, highest_limit()) {
        match setrlimit(Resource::RLIMIT_NOFILE, division.real.soft, division.real.hard) {
            Ok(()) => return Ok(division),
            // Raising the hard limit is for the privileged.
            Err(Errno::EPERM) => {}
            Err(errno) => return Err(failed("raise", errno)),
        }
    }
    Err(Failure::new(
        RUN_FAILED,
        format!("the limit of open files ({soft}) is too low; try 'ulimit -n 1024'"),
    ))
}

/// The highest limit of open files that the kernel allows anybody.
fn highest_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    // The kernel's default where it does not say.
    text.trim().parse().unwrap_or(1 << 20)
}

/// The divisions that are possible, the best first: above the soft limit where there is room below the hard one; above a hard limit that is raised,
/// which takes a privilege; in the upper half of what the program believes to have. There is always one for each of the program's, as a
/// file that a plugin serves may take two: what stands at the program's number, and the plugin's own.
fn candidates(now: Nofile, highest: u64) -> Vec<Division> {
    let mut candidates = Vec::new();
    // FDs are 32 bits wide, whatever the limit says.
    let hard = now.hard.min(highest).min(1 << 30);
    let soft = now.soft.min(hard);
    let mut add = |real_hard: u64, base: u64, shown: Nofile| {
        if base > 2 && base < real_hard {
            let real = Nofile { soft: base, hard: real_hard };
            candidates.push(Division { real, shown, private_fd_base: base as u32 });
        }
    };
    let enough = soft.max(LEAST_ROOM);
    if hard - soft >= enough {
        add(hard, soft, now);
    }
    let raised = (soft + enough).max(hard).min(highest);
    if raised - soft >= enough {
        add(raised, soft, now);
    }
    add(hard, (hard - hard / 2).min(soft), now);
    candidates
}

#[cfg(test)]
mod tests {
    use super::{Division, candidates};
    use defuse::session::Nofile;
    use proptest::prelude::*;

    fn limits(soft: u64, hard: u64) -> Nofile {
        Nofile { soft, hard }
    }

    fn best(now: Nofile, highest: u64) -> Division {
        candidates(now, highest)[0]
    }

    #[test]
    fn room_above_the_soft_limit_is_taken_first() {
        let division = best(limits(1024, 524_288), 1 << 20);
        assert_eq!(division.private_fd_base, 1024);
        assert_eq!(division.real, limits(1024, 524_288));
        assert_eq!(division.shown, limits(1024, 524_288));
    }

    #[test]
    fn without_room_the_hard_limit_is_raised_or_the_program_gets_less() {
        let [raised, less] = candidates(limits(20_000, 20_000), 1 << 20)[..] else { panic!("two ways") };
        assert_eq!((raised.real, raised.private_fd_base), (limits(20_000, 40_000), 20_000));
        assert_eq!(raised.shown, limits(20_000, 20_000));
        assert_eq!((less.real, less.private_fd_base), (limits(10_000, 20_000), 10_000));
        assert_eq!(less.shown, limits(20_000, 20_000));
    }

    #[test]
    fn the_highest_limit_is_not_exceeded() {
        let ways = candidates(limits(1 << 20, 1 << 20), 1 << 20);
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0].private_fd_base, 1 << 19);
    }

    #[test]
    fn a_limit_that_leaves_nothing_has_no_division() {
        assert_eq!(candidates(limits(3, 3), 3), []);
    }

    proptest! {
        #[test]
        fn the_private_range_lies_outside_of_what_the_program_gets(
            soft in 0_u64..2_000_000, more in 0_u64..2_000_000, above in 0_u64..2_000_000,
        ) {
            let highest = soft + more + above;
            for division in candidates(limits(soft, soft + more), highest) {
                let base = u64::from(division.private_fd_base);
                prop_assert!(base == division.real.soft && base < division.real.hard);
                prop_assert!(base <= division.shown.soft);
                prop_assert_eq!(division.shown, limits(soft, soft + more));
                prop_assert!(division.real.hard <= highest);
                prop_assert!(division.private_fd_base > 2);
                prop_assert!(division.real.hard - base + 1 >= base, "one for each of the program's");
            }
        }
    }
}
