//! Sequences from a seed.

use super::step::{Access, Step};

/// A small generator (splitmix64): the same numbers everywhere, for ever.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, number: u32) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ u64::from(number) << 32)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

pub(super) const SLOTS: usize = 3;
const NAMES: [&str; 4] = ["a", "b", "c", "a long name with \u{e9} and spaces"];
const OFFSETS: [u64; 9] = [0, 1, 10, 100, 4095, 4096, 4097, 9000, 65_536];
const LENGTHS: [usize; 7] = [0, 1, 7, 100, 4096, 5000, 20_000];
const XATTRS: [&str; 3] = ["user.a", "user.b", "user.longer.name"];

pub(super) fn sequence(random: &mut Random, length: usize) -> Vec<Step> {
    (0..length).map(|_| step(random)).collect()
}

/// Names are few, so that steps meet.
fn path(random: &mut Random) -> String {
    let depth = random.pick(&[1, 1, 1, 1, 2, 2, 3]);
    (0..depth)
        .map(|_| format!("/{}", if random.one_in(12) { NAMES[3] } else { NAMES[random.below(3)] }))
        .collect()
}

fn step(random: &mut Random) -> Step {
    let slot = random.below(SLOTS);
    let (offset, len) = (random.pick(&OFFSETS), random.pick(&LENGTHS));
    let fill = random.next() as u8;
    match random.below(100) {
        0..16 => Step::Open {
            slot,
            path: path(random),
            access: random.pick(&[Access::Both, Access::Both, Access::Read, Access::Write]),
            create: !random.one_in(4),
            exclusive: random.one_in(4),
            truncate: random.one_in(6),
        },
        16..20 => Step::Close { slot },
        20..28 => Step::Read { slot, offset, len },
        28..38 => Step::Write { slot, offset, len, fill },
        38..41 => Step::Append { slot, len, fill },
        41..43 => Step::ReadVector { slot, offset, lens: std::array::from_fn(|_| random.pick(&LENGTHS)) },
        43..45 => {
            Step::WriteVector { slot, offset, lens: std::array::from_fn(|_| random.pick(&LENGTHS)), fill }
        }
        45..48 => Step::Stat { path: path(random) },
        48..50 => Step::StatOpen { slot },
        50..52 => Step::Truncate { path: path(random), size: offset },
        52..55 => Step::TruncateOpen { slot, size: offset },
        55..57 => Step::Chmod { path: path(random), mode: random.pick(&[0o600, 0o644, 0o700, 0o755]) },
        57..59 => {
            Step::Utime { path: path(random), seconds: random.pick(&[0, 1, 1_000_000_000, 4_000_000_000]) }
        }
        59..65 => Step::Mkdir { path: path(random), mode: random.pick(&[0o700, 0o755]) },
        65..68 => Step::Rmdir { path: path(random) },
        68..72 => Step::Unlink { path: path(random) },
        72..78 => Step::Rename {
            old: path(random),
            new: path(random),
            flags: random.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]),
        },
        78..81 => Step::Link { old: path(random), new: path(random) },
        81..84 => Step::Symlink {
            target: random.pick(&["a", "../b", "/x/y", "nowhere"]).into(),
            path: path(random),
        },
        84..86 => Step::Readlink { path: path(random), size: random.pick(&[1, 3, 4096]) },
        86..88 => Step::List { path: path(random), at_once: random.pick(&[1, 2, 3, usize::MAX]) },
        88 => Step::Access { path: path(random), mode: random.pick(&[0, 1, 2, 4, 6]) },
        89..91 => Step::SetXattr {
            path: path(random),
            name: random.pick(&XATTRS),
            len: random.pick(&[0, 1, 100, 2000]),
            flags: random.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
        },
        91 => Step::GetXattr {
            path: path(random),
            name: random.pick(&XATTRS),
            size: random.pick(&[0, 1, 4096]),
        },
        92 => match random.below(2) {
            0 => Step::ListXattr { path: path(random) },
            _ => Step::RemoveXattr { path: path(random), name: random.pick(&XATTRS) },
        },
        93..95 => Step::Allocate {
            slot,
            mode: random.pick(&[
                0,
                libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
                libc::FALLOC_FL_ZERO_RANGE,
            ]),
            offset,
            len: len.max(1) as u64,
        },
        95..97 => Step::Seek { slot, offset, hole: random.one_in(2) },
        97 => Step::Copy {
            from: slot,
            from_at: offset,
            to: random.below(SLOTS),
            to_at: random.pick(&OFFSETS),
            len,
        },
        98 => Step::Sync { slot, datasync: random.one_in(2) },
        _ => Step::SaveRestore { slot },
    }
}
