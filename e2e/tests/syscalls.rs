//! Each system call with its errors: C fixtures print a transcript of calls and results, and the transcript must be the same
//! on the mount.

use defuse_e2e::{Case, same_as_plain, same_as_plain_served, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// Positions, vectors, flags and bad buffers.
    reads_and_writes: transcript("readwrite");

    /// Holes, lengths and copies inside the kernel.
    space_and_copies: transcript("space");

    /// stat, statx, modes, times, extended attributes.
    attributes: transcript("attributes");

    /// Record locks, open file description locks and flock, between processes.
    locks: transcript("locks");

    /// poll, select, epoll and what a terminal would be asked.
    readiness: transcript("readiness");

    /// fork, exec, vfork, posix_spawn and passing over a socket.
    processes_share_descriptions: transcript("processes");

    /// Files that go through exec as they stand, and all that may happen to them then.
    exec_keeps_open_files: transcript("exec");

    /// The same from a program that lies on the mount.
    exec_of_a_program_on_the_mount: script("cd \"$MNT\"; cp \"$FIX/exec\" .; ./exec").fixture("exec");

    /// What threads do to one table of descriptors.
    threads_share_the_table: transcript("threads");
}

same_as_plain_served! {
    /// 26 calls that only look, each with some 150 paths.
    paths_that_are_looked_at: script("cd \"$MNT\"; \"$FIX/paths\" look").fixture("paths").needs_other_device();

    /// 29 calls that change something, each with the same paths on a tree laid anew every time.
    #[ignore = "issue 2: of 4,000 lines those differ in which link and rename meet names beside the mount, which is a file \
                system of its own (EXDEV) where a plain directory is not; the fixture has to leave them out"]
    paths_that_are_changed: script("cd \"$MNT\"; \"$FIX/paths\" change").fixture("paths").needs_other_device();

    /// Numbers, duplicates, flags, close-on-exec, /proc/self/fd.
    descriptors_are_the_kernels: transcript("descriptors");

    /// Entries, cookies, links, renames and working directories.
    directories_and_names: transcript("directories").needs_other_device();
}
