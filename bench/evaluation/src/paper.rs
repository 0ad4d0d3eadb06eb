//! The paper's figures, as published with it. They were measured on hardware of 2012 and Linux 4.15: ratios can be compared,
//! times cannot.

use crate::interface::{Interface, Store};

/// Percent of the direct mount's throughput (Figures 7a to 7f).
pub struct Throughput {
    /// As here.
    pub work: &'static str,
    /// As the paper calls it.
    pub title: &'static str,
    /// Which of its file systems below.
    pub store: &'static str,
    /// LD_PRELOAD, Direct-FUSE, DEFUSE, FUSE, FUSE direct-io.
    pub percent: [f64; 5],
}

const fn row(work: &'static str, title: &'static str, store: &'static str, percent: [f64; 5]) -> Throughput {
    Throughput { work, title, store, percent }
}

/// Figures 7a to 7f.
pub const THROUGHPUT: [Throughput; 24] = [
    row("small-read", "small read (4,096 x 128 B)", "ext4", [64.4, 64.1, 56.7, 16.5, 15.9]),
    row("small-read", "small read", "jfs", [76.2, 75.7, 67.7, 22.8, 21.2]),
    row("small-read", "small read", "fat", [67.6, 67.2, 67.2, 19.0, 18.2]),
    row("small-read", "small read", "tmpfs", [57.9, 57.6, 50.9, 13.7, 12.7]),
    row("small-write+fsync", "small write", "ext4", [76.9, 76.5, 72.8, 22.7, 22.6]),
    row("small-write+fsync", "small write", "jfs", [87.3, 86.8, 76.7, 44.9, 44.2]),
    row("small-write+fsync", "small write", "fat", [98.9, 98.3, 98.7, 19.3, 19.3]),
    row("small-write+fsync", "small write", "tmpfs", [74.5, 74.0, 64.2, 13.8, 13.4]),
    row("large-read", "large read (1 x 128 MB)", "ext4", [98.9, 98.3, 89.7, 56.1, 33.4]),
    row("large-read", "large read", "jfs", [98.2, 97.6, 87.1, 60.7, 31.3]),
    row("large-read", "large read", "fat", [95.8, 95.2, 95.2, 53.5, 32.3]),
    row("large-read", "large read", "tmpfs", [100.0, 100.0, 92.7, 66.1, 30.8]),
    row("large-write+fsync", "large write", "ext4", [99.3, 98.7, 97.0, 38.6, 71.6]),
    row("large-write+fsync", "large write", "jfs", [99.9, 99.3, 98.8, 36.4, 71.8]),
    row("large-write+fsync", "large write", "fat", [100.0, 100.0, 100.0, 51.0, 94.6]),
    row("large-write+fsync", "large write", "tmpfs", [92.3, 91.7, 89.5, 12.6, 41.8]),
    row("mixed-read", "mixed read (2,048 files, 64 B to 128 kB)", "ext4", [81.5, 81.0, 76.7, 22.9, 23.9]),
    row("mixed-read", "mixed read", "jfs", [74.7, 74.3, 72.3, 22.3, 25.6]),
    row("mixed-read", "mixed read", "fat", [76.8, 76.4, 76.4, 21.0, 23.1]),
    row("mixed-read", "mixed read", "tmpfs", [74.6, 74.1, 73.1, 20.9, 21.4]),
    row("mixed-write+fsync", "mixed write", "ext4", [94.1, 93.6, 91.1, 30.9, 56.2]),
    row("mixed-write+fsync", "mixed write", "jfs", [95.2, 94.6, 93.9, 39.5, 76.2]),
    row("mixed-write+fsync", "mixed write", "fat", [99.0, 98.4, 98.1, 23.4, 24.1]),
    row("mixed-write+fsync", "mixed write", "tmpfs", [82.5, 82.0, 77.6, 8.9, 22.9]),
];

/// The interfaces here that the paper has, too, with their place in [`Throughput::percent`].
pub const COLUMNS: [(Interface, usize); 4] =
    [(Interface::Defuse, 2), (Interface::Preload, 0), (Interface::Fuse, 3), (Interface::FuseDirectIo, 4)];

/// Percent of direct, where the paper has that.
pub fn throughput(work: &str, store: Store, interface: Interface) -> Option<f64> {
    let column = COLUMNS.iter().find(|(known, _)| *known == interface)?.1;
    let row = THROUGHPUT.iter().find(|row| row.work == work && row.store == store.id())?;
    Some(row.percent[column])
}

/// Voluntary context switches on tmpfs (Figure 8), rounded as its text has them: DEFUSE and FUSE.
pub const WAITS: [(&str, f64, f64); 6] = [
    ("small-write+fsync", 9.0, 16_000.0),
    ("small-read", 9.0, 16_000.0),
    ("large-write+fsync", 9.0, 33_000.0),
    ("large-read", 9.0, 1_000.0),
    ("mixed-write+fsync", 9.0, 41_000.0),
    ("mixed-read", 9.0, 41_000.0),
];

/// Seconds of direct, DEFUSE and FUSE (Figures 9 and 10).
pub const SECONDS: [(&str, [f64; 3]); 7] = [
    ("create", [0.184, 0.290, 1.496]),
    ("access", [0.0236, 0.0382, 0.2840]),
    ("chmod", [0.0323, 0.0512, 0.3686]),
    ("unlink", [0.149, 0.203, 0.647]),
    ("untar", [0.354, 0.402, 1.907]),
    ("rsync", [1.012, 1.318, 3.124]),
    ("make", [202.0, 248.0, 350.0]),
];

/// How many times as long as direct.
pub fn cost(work: &str, interface: Interface) -> Option<f64> {
    let [direct, defuse, fuse] = SECONDS.iter().find(|(known, _)| *known == work)?.1;
    match interface {
        Interface::Defuse => Some(defuse / direct),
        Interface::Fuse => Some(fuse / direct),
        _ => None,
    }
}

/// Microseconds in the child by number of FDs that it inherits (Figure 13). The paper's fit: 3.7 us and 4 ns an FD.
pub const STASH: [(u32, f64); 9] = [
    (1, 2.4),
    (500, 4.7),
    (1000, 8.8),
    (1500, 11.8),
    (2000, 12.7),
    (2500, 14.7),
    (3000, 15.1),
    (3500, 17.6),
    (4000, 19.4),
];

/// Seconds of direct, DEFUSE and FUSE for 1.25 M accesses to a mapped file (Figure 14).
pub const MAPPED: [(&str, [f64; 3]); 2] =
    [("map-read", [0.056, 0.495, 0.500]), ("map-write", [0.408, 0.495, 0.897])];

/// What of the paper is not measured here: what, the paper's figures, why not.
pub const ELSEWHERE: [[&str; 3]; 3] = [
    [
        "Figures 11 and 12: Spark on five machines, time with FUSE / with DEFUSE",
        "TPCx-BB 1.6 to 10, mean 3.7; word count 1.94; linear regression 1.75; k-means 1.5; TestDFSIO 1.27",
        "needs a cluster",
    ],
    [
        "Figure 15: AVFS, read throughput with LD_PRELOAD / DEFUSE / FUSE / FUSE direct-io",
        "small 1212 / 988 / 485 / 456 kB/s; mixed 80.3 / 74.0 / 67.3 / 62.4 MB/s; large 114.9 / 103.8 / 98.7 / 87.0 MB/s",
        "needs AVFS as a plugin",
    ],
    [
        "Direct-FUSE, jfs and fat in Figure 7",
        "see the table of Figure 7",
        "Direct-FUSE was never published; two stores are enough",
    ],
];

#[cfg(test)]
mod tests {
    use super::{cost, throughput};
    use crate::interface::{Interface, Store};

    #[test]
    fn columns_are_those_of_the_paper() {
        assert_eq!(throughput("small-read", Store::Tmpfs, Interface::Defuse), Some(50.9));
        assert_eq!(throughput("small-read", Store::Ext4, Interface::Preload), Some(64.4));
        assert_eq!(throughput("mixed-write+fsync", Store::Tmpfs, Interface::FuseDirectIo), Some(22.9));
        assert_eq!(throughput("small-read", Store::Tmpfs, Interface::FusePassthrough), None);
        let cost = cost("make", Interface::Defuse).unwrap();
        assert!((cost - 1.2277).abs() < 0.001, "{cost}");
    }
}
