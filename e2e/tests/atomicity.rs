//! Threads and processes that write at the same time never lose or mix a byte.

use defuse_e2e::{Case, same_as_plain, script};

/// Runs the writers fixture in one of its modes.
fn writers(arguments: &str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/writers\" {arguments}; ls -A | wc -l")).fixture("writers")
}

same_as_plain! {
    threads_append_through_one_description: writers("threads one");
    threads_append_through_descriptions_of_their_own: writers("threads own");
    threads_write_through_one_description_at_its_position: writers("threads position");
    processes_append_through_one_description: writers("processes one");
    processes_append_through_descriptions_of_their_own: writers("processes own");
    processes_write_through_one_description_at_its_position: writers("processes position");
    threads_write_vectors_whole: writers("threads vectors");
    programs_started_by_exec_append: writers("programs own");
    programs_started_by_exec_share_the_position: writers("programs position");
    readers_of_one_description_take_each_record_once: writers("processes read");
    killed_writers_do_not_block_the_others: writers("killed own");
    killed_writers_at_one_position_do_not_block_the_others: writers("killed position");
}
