//! Threads and processes that write at the same time never lose or mix a byte.

use defuse_e2e::session::same_beside_the_mount;
use defuse_e2e::{Case, Session, same_as_plain, script};

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
    threads_append_vectors_through_descriptions_of_their_own: writers("threads pieces");
    a_reader_and_a_seeker_share_the_position: writers("threads seek");

    /// What a program wrote when it was ended stays where it is: the next one goes on behind it.
    an_ended_writer_moved_the_position: script(r#"
        cd "$MNT"
        for i in 1 2 3 4 5 6 7 8; do { timeout 0.05 yes || :; echo done; } >f; tail -c 5 f; tr -d 'y\n' <f; echo; done
        { timeout 0.05 yes || :; stat -c %s g >size; head -c 1000 <&1; echo end; } 1<>g
        test "$(($(stat -c %s g) - $(cat size)))" = 4 && tail -c 4 g
        printf 'copied\n' >source
        for i in 1 2 3 4; do { timeout 0.05 yes || :; cat source; } >f; tail -c 7 f; done
        rm f g size source
    "#);
}

/// A plugin whose appends are its own affair, and that takes several buffers at once.
#[test]
fn threads_append_vectors_in_memory() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("writers", &["-pthread"]);
    same_beside_the_mount(&session, "memory:", r#"cd "$1"; "$FIX/writers" threads pieces"#);
}
