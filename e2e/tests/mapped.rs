//! Files that are mapped: by a fixture that does so in every way, and by programs that live from it.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{Case, same_as_plain_mapped, script};

/// One part of the fixture, in the mount's root.
fn part(name: &str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/mapped\" {name}")).fixture_with("mapped", &["-pthread"])
}

same_as_plain_mapped! {
    /// Protections, kinds of sharing, and what mmap refuses.
    arguments: part("arguments");

    /// read, write, truncate, fallocate and copies meet mappings, in both directions.
    descriptors_and_mappings_agree: part("descriptors");

    /// `MAP_PRIVATE`.
    private_copies: part("private");

    /// munmap, mprotect, mremap, msync, madvise, mlock, and mappings over mappings.
    calls_about_memory: part("memory");

    /// Memory that system calls read and write.
    arguments_of_system_calls: part("kernel");

    /// fork, vfork, posix_spawn, exec, four processes that count together, and kill -9.
    processes: part("processes");

    /// Threads that store while others write back.
    threads: part("threads");
}
