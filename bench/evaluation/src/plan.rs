//! What is measured through what, and how often.

use defuse_bench::FOREIGN;

use crate::interface::Interface::{
    Defuse, DefuseBacking, DefuseModule, DefusePager, Direct, Fuse, FuseDirectIo, FusePassthrough, FuseUring,
    FuseWriteback, LibfuseFh, LibfuseHp, LibfuseLl, Memory, Preload,
};
use crate::interface::{Interface, Store};

/// Pieces of work that belong together, done by the same processes.
pub struct Section {
    /// Name in results and on the command line.
    pub id: &'static str,
    /// The pieces of work, in their order.
    pub works: &'static [&'static str],
    /// Where.
    pub stores: &'static [Store],
    /// Through what; the first is what the others are compared with.
    pub interfaces: &'static [Interface],
    /// Rounds that count, in a full and in a quick run.
    pub rounds: [usize; 2],
    /// A quick run does that part of each piece of work.
    pub quick_divisor: usize,
    /// Seconds of a round in a full run, roughly: for the time left.
    pub seconds: f64,
}

/// Random accesses, one pass through all, stores and msync, stores to pages that are there.
pub const MAPPED: &[&str] = &["map-read", "map-write", "map-scan", "map-write+msync", "map-write-again"];

/// Works whose data is read back: the kernel's caches are cleared before, as the paper does.
pub fn is_cold(work: &str) -> bool {
    matches!(
        work,
        "small-read"
            | "large-read"
            | "mixed-read"
            | "map-read"
            | "map-write"
            | "map-scan"
            | "map-write+msync"
    )
}

/// What a section does; nothing if there is no such section.
pub fn works(section: &str) -> &'static [&'static str] {
    SECTIONS.iter().find(|known| known.id == section).map_or(&[], |known| known.works)
}

/// Calls on data in memory, and single layers.
const LAYERS: [&str; 11] = [
    "read-128",
    "read-4096",
    "write-128",
    "write-4096",
    "memcpy-1",
    "lseek",
    "pread-1",
    "stat-shallow",
    "stat-deep",
    "dup-close",
    "open-close",
];

const CALLS: [&str; FOREIGN.len() + LAYERS.len()] = {
    let mut all = [""; FOREIGN.len() + LAYERS.len()];
    all.split_at_mut(FOREIGN.len()).0.copy_from_slice(&FOREIGN);
    all.split_at_mut(FOREIGN.len()).1.copy_from_slice(&LAYERS);
    all
};

/// Everything that the workload program does.
pub const SECTIONS: [Section; 8] = [
    Section {
        id: "throughput",
        works: &[
            "small-write+fsync",
            "small-read",
            "large-write+fsync",
            "large-read",
            "mixed-write+fsync",
            "mixed-read",
        ],
        stores: &Store::ALL,
        interfaces: &[
            Direct,
            Defuse,
            DefuseBacking,
            DefuseModule,
            Preload,
            Fuse,
            FuseWriteback,
            FuseDirectIo,
            FusePassthrough,
            FuseUring,
            LibfuseLl,
            LibfuseFh,
            LibfuseHp,
        ],
        rounds: [5, 1],
        quick_divisor: 4,
        seconds: 9.0,
    },
    // The same without flushing and with warm caches: what is judged by issue 2.
    Section {
        id: "warm",
        works: &["small-write", "small-read", "large-write", "large-read", "mixed-write", "mixed-read"],
        stores: &[Store::Tmpfs],
        interfaces: &[Direct, Defuse, DefuseBacking, DefuseModule, Fuse, FuseWriteback, FusePassthrough],
        rounds: [7, 1],
        quick_divisor: 4,
        seconds: 4.0,
    },
    Section {
        id: "metadata",
        works: &["create", "access", "chmod", "stat", "readdir", "rename", "unlink"],
        stores: &Store::ALL,
        interfaces: &[
            Direct,
            Defuse,
            DefuseBacking,
            DefuseModule,
            Preload,
            Fuse,
            LibfuseLl,
            LibfuseFh,
            LibfuseHp,
        ],
        rounds: [5, 1],
        quick_divisor: 5,
        seconds: 5.0,
    },
    Section {
        id: "spawn",
        works: &["exec-1", "exec-1000", "exec-4000", "exec-first-1", "exec-first-1000", "exec-first-4000"],
        stores: &[Store::Tmpfs],
        interfaces: &[Direct, Defuse, DefuseBacking, DefuseModule],
        rounds: [9, 1],
        quick_divisor: 4,
        seconds: 1.6,
    },
    Section {
        id: "mapped",
        works: MAPPED,
        stores: &Store::ALL,
        interfaces: &[
            Direct,
            Defuse,
            DefuseBacking,
            DefuseModule,
            DefusePager,
            Fuse,
            FusePassthrough,
            LibfuseLl,
        ],
        rounds: [5, 1],
        quick_divisor: 8,
        seconds: 3.0,
    },
    Section {
        id: "latency",
        works: &["latency-open", "latency-stat", "latency-read", "latency-write"],
        stores: &[Store::Tmpfs],
        interfaces: &[
            Direct,
            Defuse,
            DefuseBacking,
            DefuseModule,
            Memory,
            Preload,
            Fuse,
            FusePassthrough,
            LibfuseLl,
        ],
        rounds: [5, 1],
        quick_divisor: 4,
        seconds: 3.0,
    },
    Section {
        id: "threads",
        works: &[
            "threads-read-one-1",
            "threads-read-one-4",
            "threads-read-one-16",
            "threads-read-one-64",
            "threads-read-many-1",
            "threads-read-many-4",
            "threads-read-many-16",
            "threads-read-many-64",
            "threads-write-one-1",
            "threads-write-one-4",
            "threads-write-one-16",
            "threads-write-one-64",
            "threads-write-many-1",
            "threads-write-many-4",
            "threads-write-many-16",
            "threads-write-many-64",
        ],
        stores: &[Store::Tmpfs],
        interfaces: &[Direct, Defuse, DefuseBacking, DefuseModule, Memory, Fuse, FusePassthrough],
        rounds: [5, 1],
        quick_divisor: 5,
        seconds: 3.0,
    },
    // Calls that are not served, calls on data in memory, and single layers.
    Section {
        id: "calls",
        works: &CALLS,
        stores: &[Store::Tmpfs],
        interfaces: &[Direct, Defuse, DefuseModule, Memory],
        rounds: [15, 3],
        quick_divisor: 5,
        seconds: 1.0,
    },
];

#[cfg(test)]
mod tests {
    use super::SECTIONS;
    use crate::interface::Interface;

    #[test]
    fn all_is_compared_with_direct() {
        for section in &SECTIONS {
            assert_eq!(section.interfaces[0], Interface::Direct, "{}", section.id);
        }
    }

    #[test]
    fn a_full_run_has_five_rounds_at_least() {
        for section in &SECTIONS {
            assert!(section.rounds[0] >= 5, "{}", section.id);
        }
    }
}
