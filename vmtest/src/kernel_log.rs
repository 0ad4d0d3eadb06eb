//! Which lines of a kernel log mean that the kernel found something wrong.

/// Text that the kernel prints in a warning, an oops or a report of one of its checkers.
const ALARMS: &[&str] = &[
    "WARNING:",
    "Oops:",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "Unable to handle",
    "KASAN:",
    "KCSAN:",
    "UBSAN:",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "trying to register non-static key",
    "turning off the locking correctness validator",
    "lock held when returning to user space",
    "suspicious RCU usage",
    "sleeping function called from invalid context",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "VFS: Busy inodes",
    "Objects remaining",
    "still has objects",
    "new suspected memory leaks",
    "INFO: task ",
    "soft lockup",
    "Dentry still in use",
];

/// Loading a module that the distribution did not sign says this; it is no alarm.
const HARMLESS: &[&str] = &["module verification failed"];

/// Whether the line reports a fault of the kernel or of the module.
pub fn is_alarm(line: &str) -> bool {
    let alarms = names_a_bug(line) || ALARMS.iter().any(|alarm| line.contains(alarm));
    alarms && !HARMLESS.iter().any(|text| line.contains(text))
}

/// Whether the line has the word `BUG`: behind it is a colon, a place, or the name of a slab cache. `DEBUG` is another word.
fn names_a_bug(line: &str) -> bool {
    let of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("BUG").any(|(at, word)| {
        let (before, behind) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(of_a_word) && behind.starts_with([':', ' '])
    })
}

#[cfg(test)]
mod tests {
    use super::is_alarm;

    #[rstest::rstest]
    #[case("WARNING: CPU: 0 PID: 1 at fs/dcache.c:365", true)]
    #[case("BUG: KASAN: slab-use-after-free in defuse_open", true)]
    #[case(
        "BUG defuse_inode (Tainted: G): Objects remaining in defuse_inode on __kmem_cache_shutdown()",
        true
    )]
    #[case("BUG defuse_desc (Tainted: G           OE     ): Poison overwritten", true)]
    #[case("[   12.345678] BUG defuse_inode (Tainted: G  OE): Object already free", true)]
    #[case("kernel BUG at fs/inode.c:612!", true)]
    #[case("INFO: trying to register non-static key.", true)]
    #[case("turning off the locking correctness validator.", true)]
    #[case("**  This is a DEBUG kernel, slow by design  **", false)]
    #[case("CONFIG_BUG is set, FOO_BUG too", false)]
    #[case("VFS: Busy inodes after unmount of defuse (defuse)", true)]
    #[case("INFO: task vmtest:12 blocked for more than 120 seconds.", true)]
    #[case("defuse: loading out-of-tree module taints kernel.", false)]
    #[case(
        "defuse: module verification failed: signature and/or required key missing - tainting kernel",
        false
    )]
    fn alarms_are_told_from_chatter(#[case] line: &str, #[case] alarm: bool) {
        assert_eq!(is_alarm(line), alarm);
    }
}
