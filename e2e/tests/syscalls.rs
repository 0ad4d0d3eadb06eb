//! Each system call with its errors: C fixtures print a transcript of calls and results, and the transcript must be the same
//! on the mount.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::session::same_beside_the_mount;
use defuse_e2e::{Case, Serving, Session, same_as_plain, same_as_plain_by, same_as_plain_served, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// Positions, vectors, flags and bad buffers.
    reads_and_writes: transcript("readwrite");

    /// Where files and buffers end.
    bounds: transcript("bounds");

    /// Holes, lengths and copies inside the kernel.
    space_and_copies: transcript("space");

    /// What goes from a file to a pipe and back, and who waits.
    files_and_pipes: script("cd \"$MNT\"; \"$FIX/piping\"").fixture_with("piping", &["-pthread", "-lrt"]);

    /// stat, statx, modes, times, extended attributes.
    attributes: transcript("attributes");

    /// Record locks, open file description locks and flock, between processes.
    locks: transcript("locks");

    /// The same through exec.
    locks_through_exec: transcript("locks_exec");

    /// Both ends of a FIFO.
    fifos: transcript("fifos");

    /// poll, select, epoll and what a terminal would be asked.
    readiness: transcript("readiness");

    /// fork, exec, vfork, posix_spawn and passing over a socket.
    processes_share_descriptions: transcript("processes");

    /// Files that go through exec as they stand, and all that may happen to them then.
    exec_keeps_open_files: transcript("exec");

    /// The same from a program that lies on the mount.
    exec_of_a_program_on_the_mount: script("cd \"$MNT\"; cp \"$FIX/exec\" .; ./exec").fixture("exec");
    /// Names, connections and datagrams of Unix sockets.
    sockets_have_names: transcript("sockets");

    /// ETXTBSY.
    running_programs_are_busy: transcript("running");

    /// POSIX AIO, the kernel's AIO, watches and leases.
    asynchronous: script("cd \"$MNT\"; \"$FIX/asynchronous\"").fixture_with("asynchronous", &["-lrt"]);

    /// A mount is met for the first time by two threads, one of them inside dlopen.
    first_use_inside_dlopen: script(r#"
        echo text >"$MNT/f"; export FILE_TO_OPEN="$MNT/f"
        "$FIX/loading" "$FIX/in_dlopen"
        "$FIX/loading" "$FIX/in_dlopen" 3 3<"$MNT/f"
    "#).fixture_with("loading", &["-rdynamic", "-ldl"]).fixture_with("in_dlopen", &["-shared", "-fPIC"]);

    /// Directories that the plugin keeps open, in processes that share memory, descriptors, or neither.
    kept_folders: transcript("folders");

    /// What threads do to one table of descriptors.
    threads_share_the_table: transcript("threads");

    /// A number that no call of another thread gives out is free.
    numbers_nobody_has: transcript("numbers");

    /// What is there is found while another thread changes the directory.
    paths_below_a_directory_that_changes: transcript("wandering");
}

same_as_plain_by! {
    [session: SessionLocks]

    /// The same with a plugin that keeps no locks.
    locks_of_the_session: transcript("locks");

    /// The same through exec.
    locks_of_the_session_through_exec: transcript("locks_exec");
}

same_as_plain_by! {
    [served: Plugin, native: BackingFd, paged: Paged, session: SessionLocks]

    /// Record locks that only the program's own close takes away.
    record_locks_are_not_lost: transcript("kept_locks");
}

same_as_plain_served! {
    /// 32 calls that only look, each with some 150 paths.
    paths_that_are_looked_at: script("cd \"$MNT\"; \"$FIX/paths\" look").fixture("paths").needs_other_device();

    /// 31 calls that change something, each with the same paths on a tree laid anew every time.
    paths_that_are_changed: script("cd \"$MNT\"; \"$FIX/paths\" change").fixture("paths").needs_other_device();

    /// ETXTBSY, the other way round; of what is handed over nothing is known.
    written_programs_are_busy: transcript("written");

    /// Numbers, duplicates, flags, close-on-exec, /proc/self/fd.
    descriptors_are_the_kernels: transcript("descriptors");

    /// Whatever a seed says, with paths through links, dots, slashes and descriptors, from one side to the other.
    paths_by_chance: script(r#"cd "$MNT"; for seed in $(seq 10); do echo "seed $seed"; "$FIX/paths_by_chance" $seed 400; done"#)
        .fixture("paths_by_chance").needs_other_device();

    /// The order in which errors are seen, empty paths, links to the mount point.
    what_is_wrong_with_paths: transcript("path_errors").needs_other_device();

    /// Entries, cookies, links, renames and working directories.
    directories_and_names: transcript("directories").needs_other_device();
}

/// A plugin that copies by itself is told only of memory that is there.
#[test]
fn bounds_of_files_in_memory() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("bounds", &[]);
    same_beside_the_mount(&session, "memory:", r#"cd "$1"; "$FIX/bounds""#);
}

/// A plain directory is none; a mount of the kernel's says the same.
#[test]
fn statx_knows_the_root_of_a_mount() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("attributes", &[]);
    let outcome = session.script(Serving::Plugin, "cd \"$MNT\"; \"$FIX/attributes\" roots");
    assert_eq!(outcome.stderr_text(), "");
    assert_eq!(outcome.stdout_text(), ". 1 1\nd 0 0\nd/.. 1 1\nf 0 0\nd/up 1 1\nd/up/f 0 0\n");
    session.assert_nothing_left();
}
