//! Language runtimes with file interfaces of their own, threads and just-in-time compilers: the JVM and Node.js.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{Case, same_as_plain, script};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// Channels, mappings, locks, tree walks, watches, processes, threads and sockets of Java.
fn java() -> Case {
    script(
        r#"
        javac -d "$OUT/classes" "$SOURCES/Runtime.java"; cd "$MNT"
        java -XX:-UsePerfData -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx128m -cp "$OUT/classes" Runtime
        rm -r "$OUT/classes"
    "#,
    )
    .env("SOURCES", SOURCES)
    .needs(&["java", "javac", "flock"])
}

/// Calls in all three styles, streams, processes, workers, watches and sockets of Node.js. It asks for io_uring, and gets by
/// without.
fn node() -> Case {
    script(r#"cd "$MNT"; UV_USE_IO_URING=1 node "$SOURCES/runtime.mjs""#)
        .env("SOURCES", SOURCES)
        .needs(&["node"])
        .needs_other_device()
}

same_as_plain! {
    java_behaves_the_same: java();

    node_behaves_the_same: node();
}
