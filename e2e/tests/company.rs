//! Programs that are not alone, or that trust nobody: other libraries in the process, second C libraries, allocators, sandboxes.

use defuse_e2e::{Case, same_as_plain, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// seccomp in both modes, prctl, code that may not be changed.
    sandboxes: transcript("hostile");

    /// A C library in a link-map namespace of its own.
    second_c_library: transcript("namespaces");

    /// Another library that wraps open and read, and works on files before main.
    another_preloaded_library: script(r#"
        cd "$MNT"; echo hello >config; export LD_PRELOAD=$FIX/preloaded
        cat config; cat <config; bash -c 'cat config; exec cat <config'; (exec 5<config; env -u LD_PRELOAD cat <&5); echo $LD_PRELOAD | sed 's/.*\///'
        env LD_PRELOAD="$LD_PRELOAD:$FIX/preloaded" cat config
        # A program that is on the mount, and a script there.
        cp /bin/cat copy; ./copy config; printf '#!%s/copy\nscript\n' "$MNT" >script; chmod +x script; ./script"#)
        .fixture_with("preloaded", &["-shared", "-fPIC", "-ldl"]);

    /// An allocator that makes system calls, and takes its locks, before any constructor of ours has run.
    another_allocator: script(r#"
        cd "$MNT"; seq 1 20000 >f; export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
        sort -R f | sort -n | cksum; bash -c 'exec 3<f; read line <&3; echo $line; (read line <&3; echo $line) | cat; declare -a a; for i in {1..5000}; do a[i]=$i$i; done; echo ${#a[@]} >g; cat g'
        "$FIX/mixed"; cp /bin/sort copy; ./copy -r f | cksum"#).fixture("mixed").needs(&["/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"]);

    /// A program that clears its environment keeps its files and its session.
    cleared_environment: script(r#"
        cd "$MNT"; echo first >f; echo second >>f; exec 3<f; read line <&3; echo $line
        env -i /bin/cat <&3; env -i /bin/bash -c 'echo made >g; exec env -i /bin/cat g'; env -i LD_PRELOAD= DEFUSE_SESSION=nowhere /bin/cat g; env -u LD_PRELOAD -u DEFUSE_SESSION cat g
        env -i LD_PRELOAD=/nowhere.so LD_LIBRARY_PATH=/nowhere /bin/cat g 2>/dev/null; (unset LD_PRELOAD DEFUSE_SESSION PATH; /bin/cat g; exec -c /bin/cat g)"#);
}
